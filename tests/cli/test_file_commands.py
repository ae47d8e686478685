"""rename_files, tfrecord_to_image and preprocess_crops as users type them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from realmix_tf.data.examples import encode_example
from realmix_tf.data.images import encode_png
from realmix_tf.data.record_writer import RecordWriter

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("rename_files", "tfrecord_to_image", "preprocess_crops")

pytestmark = pytest.mark.process


def start(command: str, *words: object, cwd: Path = ROOT) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key != "ML_DATA"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / f"{command}.py"), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment,
    )


def run(command: str, *words: object, code: int = 0, cwd: Path = ROOT) -> tuple[str, str]:
    process = start(command, *words, cwd=cwd)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    if code:
        assert [line for line in err.splitlines() if line.startswith("error: ")], err
        assert "Traceback" not in err
    return out, err


def visible(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def pictures(folder: Path, count: int = 3) -> Path:
    for name in ("red_fox", "arctic-fox"):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((12, 9, 3), i % 256, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"IMG {i}.png")
    return folder


def records(path: Path, count: int = 5) -> Path:
    with RecordWriter(
        path, dataset="d", role="train", classes=("cat", "../dog"), shape=(4, 4, 3), provenance={}
    ) as writer:
        for i in range(count):
            label = i % 3 - 1
            png = encode_png(np.full((4, 4, 3), i % 256, np.uint8))
            writer.write(encode_example(png, label, labeled=label >= 0), label)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command) -> None:
    code = (
        f"import sys; from realmix_tf.cli.{command} import main; code = main(['--help']);"
        "heavy = {'tensorflow', 'sklearn', 'scipy', 'PIL', 'numpy'} & set(sys.modules);"
        "sys.exit(code or (str(heavy) if heavy else 0))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    for word in ("example", "--data_dir", "--[no]dry_run", "--[no]json"):
        assert word in result.stdout


@pytest.mark.parametrize(
    ("command", "words", "code", "message"),
    [
        ("rename_files", [], 2, "--targetdir"),
        ("rename_files", ["x"], 2, "--targetdir"),
        ("rename_files", ["--targetdir=x"], 3, "no such folder"),
        ("rename_files", ["--targetdir=x", "--undo"], 3, "no such folder"),
        ("rename_files", ["--targetdir=x", "--undo", "--yes"], 2, "one of them"),
        ("rename_files", ["--targetdir=.", "--filetype=psd"], 2, "png, jpg"),
        ("rename_files", ["--targetdir=.", "--index=-1"], 2, "at least 0"),
        ("rename_files", ["--targetdir=.", "--index=x"], 2, "index"),
        ("rename_files", ["--targetdir=."], 3, "no pictures"),
        ("rename_files", ["--targetdir=.", "--undo"], 2, "nothing was renamed"),
        ("tfrecord_to_image", [], 2, "one record file"),
        ("tfrecord_to_image", ["a", "b", "--output=o"], 2, "one record file"),
        ("tfrecord_to_image", ["a"], 2, "--output"),
        ("tfrecord_to_image", ["a", "--output=o"], 3, "no such record file"),
        ("tfrecord_to_image", ["a", "--output=o", "--first=0"], 2, "--first"),
        ("preprocess_crops", [], 2, "one folder"),
        ("preprocess_crops", ["a", "--output=o"], 2, "--img_size"),
        ("preprocess_crops", ["a", "--output=o", "--img_size=big"], 2, "32x48"),
        ("preprocess_crops", ["a", "--output=o", "--img_size=8"], 3, "no such folder"),
        ("preprocess_crops", ["a", "--output=o", "--img_size=8", "--crop=top"], 2, "center"),
        ("preprocess_crops", [".", "--output=o", "--img_size=8", "--min_side=0"], 2, "--min_side"),
        ("preprocess_crops", ["a", "--output=o", "--img_size=8", "--on_bad=x"], 2, "skip"),
        ("preprocess_crops", [".", "--output=o", "--img_size=8", "--file_timeout=0"], 2, "timeout"),
    ],
)
def test_bad_calls_say_what_to_do(
    tmp_path, monkeypatch, capsys, command, words, code, message
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ML_DATA", raising=False)
    assert import_module(f"realmix_tf.cli.{command}").main(words) == code
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert visible(tmp_path) == {}


def test_renaming_shows_does_and_takes_back(tmp_path) -> None:
    folder = pictures(tmp_path / "pets")
    before = visible(folder)
    words = (f"--targetdir={folder}/", "--index", "0", "--filetype", "png")
    out, _ = run("rename_files", *words)
    assert "arctic-fox/IMG 0.png → 0_arctic-fox.png" in out
    assert "--yes does it" in out
    out, _ = run("rename_files", *words, "--dry_run", "--yes", "--json")
    plan = json.loads(out)
    assert (plan["schema"], plan["dry_run"], plan["facts"]["files"]) == (1, True, 6)
    assert plan["names"][5] == {"folder": "red_fox", "old": "IMG 2.png", "new": "5_red_fox.png"}
    assert visible(folder) == before
    assert sorted(os.listdir(folder)) == ["arctic-fox", "red_fox"]
    out, _ = run("rename_files", "--targetdir=pets", f"--data_dir={tmp_path}", "--yes", "--json")
    assert json.loads(out)["action"] == "renamed"
    assert sorted(visible(folder)) == [
        *(f"arctic-fox/{i}_arctic-fox.png" for i in range(3)),
        *(f"red_fox/{i}_red_fox.png" for i in range(3, 6)),
    ]
    out, _ = run("rename_files", *words, "--yes")
    assert "nothing to rename" in out
    out, _ = run("rename_files", *words, "--undo", "--dry_run", "--json")
    assert json.loads(out)["facts"]["names"]["new"] == 6
    out, _ = run("rename_files", *words, "--undo")
    assert "6 files" in out
    assert visible(folder) == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_renaming_can_be_completed_or_undone(tmp_path, number) -> None:
    folder = tmp_path / "pets"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for i in range(1500):
            (folder / name / f"{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + f"{name}{i}".encode())
    before = visible(folder)
    process = start("rename_files", f"--targetdir={folder}", "--yes")
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if (folder / "a" / "0000_a.png").exists():
            break
        time.sleep(0.0005)
    process.send_signal(number)
    _, err = process.communicate()
    now = visible(folder)
    # (One file may have both of its names.)
    assert set(now.values()) == set(before.values())
    interrupted = process.returncode != 0
    if interrupted and number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert "--undo takes it back" in err
    if interrupted:
        out, _ = run("rename_files", f"--targetdir={folder}")
        assert "a renaming of 3000 files was interrupted" in out
        out, _ = run("rename_files", f"--targetdir={folder}", "--json")
        assert sum(json.loads(out)["names"].values()) == 3000
        run("rename_files", f"--targetdir={folder}", "--dry_run", "--yes")
        assert visible(folder) == now
    if number != signal.SIGTERM:
        run("rename_files", f"--targetdir={folder}", "--yes")
        assert "b/2999_b.png" in visible(folder)
    run("rename_files", f"--targetdir={folder}", "--undo")
    assert visible(folder) == before


def test_records_to_images_and_back_to_the_disk(tmp_path) -> None:
    records(tmp_path / "d-train.tfrecord")
    words = ("d-train.tfrecord", f"--output={tmp_path / 'out'}", f"--data_dir={tmp_path}")
    out, _ = run("tfrecord_to_image", *words, "--dry_run", "--json")
    assert json.loads(out)["facts"]["files"] == 5
    assert not (tmp_path / "out").exists()
    grid = tmp_path / "grid.png"
    out, _ = run("tfrecord_to_image", *words, "--json", f"--grid={grid}")
    with Image.open(grid) as image:
        assert image.height > 100
    grid.unlink()
    result = json.loads(out)
    assert result["folders"] == {"cat": 2, "__dog": 1, "unlabeled": 2}
    assert [item["name"] for item in result["classes"]] == ["cat", "../dog"]
    assert sorted(os.listdir(tmp_path)) == ["d-train.tfrecord", "d-train.tfrecord.json", "out"]
    _, err = run("tfrecord_to_image", *words, code=2)
    assert "--overwrite" in err
    out, _ = run("tfrecord_to_image", *words, "--overwrite", "--first=1")
    assert [path for path in visible(tmp_path / "out") if path.endswith(".png")] == [
        "unlabeled/0.png"
    ]


def test_a_killed_export_does_not_look_finished(tmp_path) -> None:
    source = records(tmp_path / "d-train.tfrecord", 20_000)
    process = start("tfrecord_to_image", source, f"--output={tmp_path / 'out'}")
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if (tmp_path / ".tmp-out.part" / "cat").exists():
            break
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    run("tfrecord_to_image", source, f"--output={tmp_path / 'out'}", "--first=3")
    assert not list(tmp_path.glob(".tmp-*"))
    assert len(visible(tmp_path / "out")) == 4


def test_a_terminated_export_cleans_up(tmp_path) -> None:
    source = records(tmp_path / "d-train.tfrecord", 20_000)
    process = start("tfrecord_to_image", source, f"--output={tmp_path / 'out'}")
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if (tmp_path / ".tmp-out.part" / "cat").exists():
            break
        time.sleep(0.001)
    process.terminate()
    process.communicate()
    assert process.returncode == 143
    assert sorted(os.listdir(tmp_path)) == ["d-train.tfrecord", "d-train.tfrecord.json"]


def limited(size: int, command: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Runs a command that may not write files larger than ``size`` bytes."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}));"
        f"from realmix_tf.cli.{command} import main; sys.exit(main({list(map(str, words))!r}))"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_a_disk_that_takes_no_more(tmp_path) -> None:
    source = records(tmp_path / "d-train.tfrecord")
    result = limited(50, "tfrecord_to_image", source, f"--output={tmp_path / 'out'}")
    assert result.returncode == 4, result.stderr
    folder = pictures(tmp_path / "pets")
    before = visible(folder)
    result = limited(60, "rename_files", f"--targetdir={folder}", "--yes")
    assert result.returncode == 4, result.stderr
    assert "error: " in result.stderr
    assert visible(folder) == before
    result = limited(
        50, "preprocess_crops", folder, f"--output={tmp_path / 'crops'}", "--img_size=8"
    )
    assert result.returncode == 4, result.stderr
    assert sorted(os.listdir(tmp_path)) == ["d-train.tfrecord", "d-train.tfrecord.json", "pets"]
    assert sorted(os.listdir(folder)) == ["arctic-fox", "red_fox"]


def test_crops(tmp_path) -> None:
    folder = pictures(tmp_path / "pets")
    (folder / "red_fox" / "page.jpg").write_text("<html>")
    words = (folder, f"--output={tmp_path / 'small'}", "--img_size=6x4")
    out, _ = run("preprocess_crops", *words, "--dry_run", "--json")
    assert json.loads(out)["facts"]["files"] == 7
    out, err = run("preprocess_crops", *words, "--json")
    result = json.loads(out)
    assert result["files"] == 6
    assert [item["path"] for item in result["unreadable"]] == ["red_fox/page.jpg"]
    assert "page.jpg" in err
    with Image.open(tmp_path / "small" / "red_fox" / "IMG 2.png") as image:
        assert image.size == (4, 6)
    _, err = run("preprocess_crops", *words, code=2)
    assert "--overwrite" in err
    more = ("--overwrite", "--min_side=10", "--file_timeout=5")
    _, err = run("preprocess_crops", *words, *more, code=3)
    assert "none of 7 files can be read" in err
    _, err = run("preprocess_crops", *words, "--overwrite", "--on_bad=error", code=3)
    assert "1 of 7 files cannot be read: red_fox/page.jpg: not an image" in err
    assert "--on_bad=skip" in err
    with Image.open(tmp_path / "small" / "red_fox" / "IMG 2.png") as image:
        assert image.size == (4, 6)
    _, err = run("preprocess_crops", folder, f"--output={folder}/x", "--img_size=8", code=2)
    assert "another --output" in err


@pytest.fixture
def call(capsys):
    """Runs a command within this process."""

    def called(command: str, *words: object, code: int = 0) -> tuple[str, str]:
        found = import_module(f"realmix_tf.cli.{command}").main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert found == code, err
        assert len([line for line in err.splitlines() if line.startswith("error: ")]) == (code != 0)
        return out, err

    return called


def picture(path: Path | bytes, shade: int = 0) -> None:
    raw = os.fsencode(path)
    os.makedirs(os.path.dirname(raw), exist_ok=True)
    with open(raw, "wb") as file:
        file.write(encode_png(np.full((8, 8, 3), shade, np.uint8)))


def everything(folder: Path) -> dict[bytes, object]:
    """What lies below a folder: content, or where a link leads, or the kind."""
    found: dict[bytes, object] = {}
    for top, folders, files in os.walk(os.fsencode(folder)):
        for name in folders + files:
            path = os.path.join(top, name)
            if os.path.islink(path):
                found[path] = os.readlink(path)
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    found[path] = file.read()
            else:
                found[path] = os.stat(path).st_mode
    return found


@pytest.mark.parametrize(
    ("label", "taken"), [("a", "0_a.png"), ("a", "0_A.PNG"), ("\u00e4", "0_a\u0308.png")]
)
def test_a_new_name_that_is_taken_renames_nothing(tmp_path, call, label, taken) -> None:
    for i in range(3):
        picture(tmp_path / label / f"x{i}.png", i)
    (tmp_path / label / taken).write_text("precious")
    before = everything(tmp_path)
    for more in ((), ("--yes", "--dry_run"), ("--yes",)):
        _, err = call("rename_files", f"--targetdir={tmp_path}", *more, code=3)
        assert "1 of the new names are taken by files that are not renamed" in err
        assert "another --index" in err
        assert everything(tmp_path) == before
    call("rename_files", f"--targetdir={tmp_path}", "--index=1", "--yes")
    assert (tmp_path / label / taken).read_text() == "precious"
    call("rename_files", f"--targetdir={tmp_path}", "--undo")
    assert {**everything(tmp_path), **before} == everything(tmp_path)


ODD_NAMES = (b"\xff\xfe.png", b"new\nline.png", b"-rf.png", b"n" * 251 + b".png", b" .png",
             "\u202egnp.png".encode(), b"[x]*?.png", b"$(id).png", b"\x1b[31m.png")  # fmt: skip


def test_odd_names_come_back_byte_for_byte(tmp_path, call) -> None:
    for i, name in enumerate(ODD_NAMES):
        picture(os.path.join(os.fsencode(tmp_path), b"a", name), i)
    before = everything(tmp_path)
    out, err = call("rename_files", f"--targetdir={tmp_path}")
    assert "\x1b" not in out + err
    out, _ = call("rename_files", f"--targetdir={tmp_path}", "--yes", "--json")
    assert len(json.loads(out)["names"]) == len(ODD_NAMES)
    now = everything(tmp_path)
    assert {path for path in now if path.endswith(b"_a.png")} >= {
        os.fsencode(tmp_path / "a" / f"{i}_a.png") for i in range(len(ODD_NAMES))
    }
    call("rename_files", f"--targetdir={tmp_path}", "--undo")
    journal = os.fsencode(tmp_path / ".rename_files.journal")
    assert {path: it for path, it in everything(tmp_path).items() if path != journal} == before
    out, _ = call("preprocess_crops", tmp_path, f"--output={tmp_path}-small", "--img_size=4")
    assert sorted(map(os.path.basename, everything(Path(f"{tmp_path}-small") / "a"))) == sorted(
        ODD_NAMES
    )


def test_names_that_get_too_long(tmp_path, call) -> None:
    picture(tmp_path / ("k" * 255) / "x.png")
    before = everything(tmp_path)
    _, err = call("rename_files", f"--targetdir={tmp_path}", "--yes", code=3)
    assert "longer than 255 bytes" in err
    assert everything(tmp_path) == before


def test_links_and_pipes_are_not_followed(tmp_path, call) -> None:
    pets, outside = tmp_path / "pets", tmp_path / "outside"
    picture(pets / "a" / "x.png", 1)
    picture(outside / "secret.png", 2)
    (pets / "a" / "link.png").symlink_to(outside / "secret.png")
    (pets / "a" / "dangling.png").symlink_to("nowhere")
    (pets / "a" / "self.png").symlink_to("self.png")
    (pets / "b").symlink_to(outside)
    os.mkfifo(pets / "a" / "pipe.png")
    before = everything(tmp_path)
    _, err = call("rename_files", f"--targetdir={pets}", "--yes")
    assert "such as" in err
    assert everything(outside) == {os.fsencode(outside / "secret.png"): before[
        os.fsencode(outside / "secret.png")]}  # fmt: skip
    assert os.readlink(pets / "a" / "0_a.png") == str(outside / "secret.png")
    for name in ("dangling.png", "self.png", "pipe.png"):
        assert os.path.lexists(pets / "a" / name)
    call("rename_files", f"--targetdir={pets}", "--undo")
    (pets / ".rename_files.journal").unlink()
    assert everything(tmp_path) == before
    out, _ = call(
        "preprocess_crops", pets, f"--output={tmp_path / 'small'}", "--img_size=4", "--json"
    )
    listed = {item["path"] for item in json.loads(out)["unreadable"]}
    assert {"a/dangling.png", "a/self.png", "a/pipe.png"} <= listed
    assert (tmp_path / "small" / "a" / "x.png").exists()
    assert not (tmp_path / "small" / "b").exists()


def test_records_and_outputs_that_are_no_files_or_folders(tmp_path, call) -> None:
    source = records(tmp_path / "d-train.tfrecord")
    os.mkfifo(tmp_path / "pipe.tfrecord")
    (tmp_path / "dangling.tfrecord").symlink_to("nowhere")
    (tmp_path / "folder.tfrecord").mkdir()
    (tmp_path / "text.tfrecord").write_text("<html>" * 100)
    before = everything(tmp_path)
    for name in ("pipe", "dangling", "folder", "text"):
        for more in ((), ("--dry_run",)):
            _, err = call(
                "tfrecord_to_image", tmp_path / f"{name}.tfrecord", f"--output={tmp_path / 'out'}",
                *more, code=3,
            )  # fmt: skip
            assert f"{name}.tfrecord" in err
    for output in ("pipe.tfrecord", "d-train.tfrecord", "d-train.tfrecord/below"):
        code = 4 if output.endswith("below") else 2
        call("tfrecord_to_image", source, f"--output={tmp_path / output}", code=code)
    assert everything(tmp_path) == before
    (tmp_path / "link.tfrecord").symlink_to(source)
    call("tfrecord_to_image", tmp_path / "link.tfrecord", f"--output={tmp_path / 'out'}")
    assert len(visible(tmp_path / "out")) == 6


def test_disks_that_are_too_small_are_told_beforehand(tmp_path, call, monkeypatch) -> None:
    source, folder = records(tmp_path / "d-train.tfrecord"), pictures(tmp_path / "pets")
    before = everything(tmp_path)
    monkeypatch.setattr("realmix_tf.files.free_bytes", lambda folder: 10)
    for words in (
        ("tfrecord_to_image", source, f"--output={tmp_path / 'out'}"),
        ("tfrecord_to_image", source, f"--output={tmp_path / 'out'}", "--dry_run"),
        ("preprocess_crops", folder, f"--output={tmp_path / 'out'}", "--img_size=8"),
        ("rename_files", f"--targetdir={folder}", "--yes"),
    ):
        assert "only 10 B is free" in call(*words, code=4)[1]
        assert everything(tmp_path) == before
