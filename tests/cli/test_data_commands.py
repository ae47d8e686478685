"""The data commands as users type them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from realmix_tf.data.examples import encode_example
from realmix_tf.data.images import encode_png
from realmix_tf.data.manifest import provenance
from realmix_tf.data.record_writer import RecordWriter
from realmix_tf.data.records import RecordReader

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "create_datasets", "create_split", "make_aug_copy", "filter_dataset", "merge", "sample",
    "check_split", "inspect_dataset", "info", "verify", "rename_files", "tfrecord_to_image",
    "preprocess_crops", "inspect_variables",
)  # fmt: skip

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


def listing(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    run("create_datasets", "digits", f"--data_dir={folder}")
    run("create_split", "--seed=1", "--label_split_size=20", folder / "SSL" / "digits",
        folder / "digits-train.tfrecord")  # fmt: skip
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_help_does_not_import_tensorflow(command) -> None:
    code = (
        f"import sys; from realmix_tf.cli.{command} import main; code = main(['--help']);"
        "heavy = {'tensorflow', 'sklearn', 'PIL', 'numpy'} & set(sys.modules);"
        "sys.exit(code or (str(heavy) if heavy else 0))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "example" in result.stdout
    assert "--data_dir" in result.stdout


def test_the_chain_on_digits(data, tmp_path) -> None:
    out, _ = run("create_datasets", "digits", "--data_dir", data)
    assert "already there and verified" in out
    out, _ = run("create_datasets", "digits", "--data_dir", data, "--json")
    assert json.loads(out)["schema"] == 1
    assert json.loads(out)["datasets"][0]["already_there"] is True
    out, _ = run("verify", data, "--json")
    assert json.loads(out)["schema"] == 1
    assert {Path(item["file"]).name: item["records"] for item in json.loads(out)["files"]} == {
        "digits-train.tfrecord": 1297,
        "digits-test.tfrecord": 500,
        "digits.1@20-label.tfrecord": 20,
        "digits.1@20-unlabel.tfrecord": 1277,
    }
    two = tmp_path / "two-test.tfrecord"
    out, _ = run("filter_dataset", "--class_filter=2,3", "--filter_dataset=digits-test.tfrecord",
                 f"--save_name={two}", f"--data_dir={data}", "--json")  # fmt: skip
    assert json.loads(out)["class_map"] == {"2": 0, "3": 1}
    assert json.loads(out)["schema"] == 1


def test_the_environment_variable_is_a_fallback(data, monkeypatch) -> None:
    monkeypatch.setenv("ML_DATA", str(data))
    result = subprocess.run(
        [sys.executable, "scripts/verify.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0
    run("verify", code=2)


@pytest.mark.parametrize(
    ("command", "words", "code", "message"),
    [
        ("create_datasets", [], 2, "--data_dir"),
        ("create_datasets", ["digits"], 2, "--data_dir"),
        ("create_datasets", ["cifar", "--data_dir=x"], 2, "cifar10"),
        ("create_datasets", ["custom", "--data_dir=x"], 2, "--name"),
        ("create_datasets", ["digits", "--data_dri=x"], 2, "--data_dir"),
        ("create_datasets", ["custom", "--data_dir=x", "--name=../a", "--traindir=t",
                             "--testdir=t"], 2, "cannot name"),
        ("create_datasets", ["custom", "--data_dir=x", "--name=a", "--traindir=t",
                             "--testdir=t", "--img_size=big"], 2, "32x48"),
        ("create_datasets", ["custom", "--data_dir=x", "--name=a", "--traindir=t",
                             "--testdir=u"], 3, "no such folder (t)"),
        ("create_split", [], 2, "create_split --seed=1"),
        ("create_split", ["a", "b"], 2, "--label_split_size"),
        ("create_split", ["a", "b", "--label_split_size=x"], 2, "label_split_size"),
        ("create_split", ["a", "b", "--label_split_size=5"], 3, "no such record file"),
        ("create_split", ["a", "b", "--label_split_size=5", "--custom"], 2, "--label_size"),
        ("make_aug_copy", ["--data_dir=x"], 2, "--aug_dataset"),
        ("make_aug_copy", ["--data_dir=x", "--aug_dataset=a.1@2", "--augment=cifar"], 2, "cifar10"),
        ("make_aug_copy", ["--data_dir=x", "--aug_dataset=a"], 2, "cifar10.1@250"),
        ("filter_dataset", [], 2, "--class_filter"),
        ("filter_dataset", ["--class_filter=1", "--filter_dataset=a", "--save_name=b.tfrecord"], 3,
         "no such record file"),
        ("verify", ["nothing"], 3, "no such"),
    ],
)  # fmt: skip
def test_bad_calls_say_what_to_do(tmp_path, command, words, code, message) -> None:
    _, err = run(command, *words, code=code, cwd=tmp_path)
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert listing(tmp_path) == []


def test_existing_outputs_and_impossible_numbers(data) -> None:
    before = listing(data)
    source, target = data / "digits-train.tfrecord", data / "SSL" / "digits"
    _, err = run("create_split", "--seed=1", "--label_split_size=20", target, source, code=2)
    assert "--overwrite" in err
    _, err = run("create_split", "--label_split_size=2000", target, source, code=3)
    assert "2000 labels" in err
    assert "1297" in err
    assert listing(data) == before


def test_damage_ends_with_code_3(data, tmp_path) -> None:
    content = (data / "digits-test.tfrecord").read_bytes()
    with RecordReader(data / "digits-test.tfrecord") as reader:
        end = int(reader.sizes()[:100].sum())
    (tmp_path / "a.tfrecord").write_bytes(content[:end])
    out, _ = run("verify", tmp_path)
    assert "no manifest" in out
    manifest = data / "digits-test.tfrecord.json"
    (tmp_path / "a.tfrecord.json").write_bytes(manifest.read_bytes())
    out, err = run("verify", tmp_path, code=3)
    assert "DAMAGED" in out
    assert "1 of 1" in err
    out, _ = run("verify", tmp_path, "--json", code=3)
    assert json.loads(out)["schema"] == 1
    assert json.loads(out)["files"][0]["ok"] is False


def images(folder: Path, count: int) -> None:
    random = np.random.RandomState(0)
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = random.randint(0, 256, (24, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04}_{'ab'[i % 2]}.png", compress_level=0)


def kill_when_writing(process: subprocess.Popen[str], folder: Path) -> None:
    """Kills the command as soon as it has begun to write records."""
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if any(path.stat().st_size for path in folder.rglob(".tmp-*.part") if path.exists()):
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_killed_build_does_not_look_finished(tmp_path) -> None:
    images(tmp_path / "train", 6000)
    images(tmp_path / "test", 4)
    words = ("custom", "--name=k", f"--traindir={tmp_path / 'train'}",
             f"--testdir={tmp_path / 'test'}", f"--data_dir={tmp_path / 'data'}")  # fmt: skip
    kill_when_writing(start("create_datasets", *words), tmp_path / "data")
    assert not (tmp_path / "data" / "k-train.tfrecord").exists()
    run("create_datasets", *words)
    run("verify", tmp_path / "data")
    assert not list((tmp_path / "data").glob(".tmp-*"))


def test_a_killed_split_does_not_look_finished(tmp_path) -> None:
    source = tmp_path / "k-train.tfrecord"
    png = encode_png(np.random.RandomState(0).randint(0, 256, (32, 32, 3)).astype(np.uint8))
    with RecordWriter(
        source,
        dataset="k",
        role="train",
        classes=("a", "b"),
        shape=(32, 32, 3),
        provenance=provenance("test"),
    ) as writer:
        for i in range(20_000):
            writer.write(encode_example(png, i % 2), i % 2)
    words = ("--label_split_size=10", tmp_path / "SSL" / "k", source)
    kill_when_writing(start("create_split", *words), tmp_path / "SSL")
    assert not (tmp_path / "SSL" / "k.0@10-map.json").exists()
    run("create_split", *words)
    run("verify", tmp_path)
    assert not list((tmp_path / "SSL").glob(".tmp-*"))


def test_killed_copies_do_not_look_finished(data, tmp_path) -> None:
    pytest.importorskip("tensorflow")
    words = ("--aug_dataset=digits.1@20", "--augment=digits", f"--data_dir={data}")
    kill_when_writing(start("make_aug_copy", *words, "--aug_copy=60"), data / "SSL")
    assert not (data / "SSL" / "digits_aug60.1@20-unlabel.tfrecord").exists()
    out, _ = run("make_aug_copy", *words, "--aug_copy=2", "--json")
    assert json.loads(out)["copies"] == 2 * 1277
    assert json.loads(out)["notes"] == []
    (data / "SSL" / "digits_aug2.1@20-unlabel.tfrecord").unlink()
    (data / "SSL" / "digits_aug2.1@20-unlabel.tfrecord.json").unlink()
    for leftover in (data / "SSL").glob(".tmp-*"):
        leftover.unlink()


def test_strange_names_are_survived(tmp_path) -> None:
    images(tmp_path / "train", 4)
    images(tmp_path / "test", 4)
    unlabeled = tmp_path / "unlabeled"
    unlabeled.mkdir()
    for name in (b"\xff\xfe.png", b"line\nbreak.png", b"bad\xff.png"):
        content = (
            b"x" if name.startswith(b"bad") else (tmp_path / "test" / "0000_a.png").read_bytes()
        )
        with open(os.fsencode(unlabeled) + b"/" + name, "wb") as file:
            file.write(content)
    os.mkfifo(unlabeled / "pipe")
    out, err = run("create_datasets", "custom", "--name=s", f"--traindir={tmp_path / 'train'}",
                   f"--testdir={tmp_path / 'test'}", f"--unlabeldir={unlabeled}", "--json",
                   f"--data_dir={tmp_path / 'data'}", "--img_size=8x12")  # fmt: skip
    facts = json.loads(out)["datasets"][0]["facts"]
    assert (facts["unlabeled"], facts["unlabeled_unreadable"]) == (2, 2)
    assert "2 unlabelled images could not be read" in err
    report = json.loads((tmp_path / "data" / "s-report.json").read_text())
    assert any(
        "\\udcff" in item["path"] or "\\xff" in item["path"] for item in report["unreadable"]
    )
    with RecordReader(tmp_path / "data" / "s-train.tfrecord") as reader:
        reader.verify()
        assert reader.image_shape == (8, 12, 3)
        names = {os.fsencode(reader.record(i).name) for i in range(4, 6)}
    assert names == {b"unlabeled/line\nbreak.png", b"unlabeled/\xff\xfe.png"}
