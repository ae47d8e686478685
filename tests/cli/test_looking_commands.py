"""The commands that look at data, as users type them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import squares
from commands import ROOT, listing, run

COMMANDS = ("check_split", "inspect_dataset", "info", "inspect_variables", "verify")

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = squares.write_split(tmp_path_factory.mktemp("data"))
    test, labels = squares.pictures(60, 2)
    test[5] = squares.pictures(120, 1)[0][7]  # labelled
    squares.write(folder / "squares-test.tfrecord", test, labels, "test")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_light(command) -> None:
    code = (
        f"import sys; from realmix_tf.cli.{command} import main; code = main(['--help']);"
        "heavy = {'tensorflow', 'sklearn', 'PIL', 'numpy'} & set(sys.modules);"
        "sys.exit(code or (str(heavy) if heavy else 0))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    for word in ("example", "--data_dir", "--[no]dry_run", "--[no]json"):
        assert word in result.stdout


def test_check_split(data, tmp_path) -> None:
    words = ("squares.1@12-10", f"--data_dir={data}")
    out, _ = run("check_split", *words)
    assert "LEAK: labeled and test share 1 pictures" in out
    sheet = tmp_path / "pairs.png"
    out, err = run("check_split", *words, "--fail", "--json", f"--pictures={sheet}", code=3)
    found = json.loads(out)
    assert found["schema"] == 1
    assert found["exact"]["labeled"]["test"] == 1
    assert (found["pairs"][0]["first"]["record"], found["pairs"][0]["second"]["record"]) == (7, 5)
    assert "labeled and test share 1 pictures" in err
    assert sheet.read_bytes().startswith(b"\x89PNG")
    before = listing(data)
    out, _ = run("check_split", *words, "--dry_run", "--json", f"--pictures={tmp_path / 'b.png'}")
    assert json.loads(out)["dry_run"] is True
    assert not (tmp_path / "b.png").exists()
    assert listing(data) == before
    files = ("squares-train.tfrecord", "squares-test.tfrecord", f"--data_dir={data}", "--nonear")
    run("check_split", *files, "--fail", code=3)
    run("check_split", "squares-test.tfrecord", f"--data_dir={data}", "--fail")


def test_inspect_dataset(data, tmp_path) -> None:
    grid = tmp_path / "grid.png"
    out, _ = run("inspect_dataset", "squares", f"--data_dir={data}", f"--grid={grid}")
    assert "120 records of 8×8×3" in out
    assert grid.read_bytes().startswith(b"\x89PNG")
    _, err = run("inspect_dataset", "squares", f"--data_dir={data}", f"--grid={grid}", code=2)
    assert "--overwrite" in err
    out, _ = run("inspect_dataset", data / "squares-test.tfrecord", "--json", "--limit=7")
    assert json.loads(out)["sets"][0]["decoded"] == 7
    out, _ = run("inspect_dataset", "squares.1@12-10", f"--data_dir={data}", "--dry_run")
    assert "validation 10" in out
    squares.write_split(tmp_path)
    (tmp_path / "squares-test.tfrecord").unlink()
    words = ("squares.1@12-10", f"--data_dir={tmp_path}", "--json")
    out, err = run("inspect_dataset", *words)
    assert "note: there is no test set squares-test.tfrecord" in err
    assert "there is no test set squares-test.tfrecord" in json.loads(out)["notes"]


def test_info(data) -> None:
    out, _ = run("info", "squares.1@12-10", "--json", f"--data_dir={data}")
    assert json.loads(out)["kind"] == "split"
    out, _ = run("info", data)
    assert "folder of datasets" in out
    out, _ = run("info", data, "--dry_run", "--json")
    assert len(json.loads(out)["reads"]) == len([p for p in data.rglob("*") if p.is_file()])
    _, err = run("info", ROOT / "Makefile", code=3)
    assert "looks like text" in err
    _, err = run("info", "nothing", f"--data_dir={data}", code=3)
    assert "no dataset 'nothing'" in err


def test_damage_and_truncation_end_with_code_3(data, tmp_path) -> None:
    path = tmp_path / "a-train.tfrecord"
    content = bytearray((data / "squares-train.tfrecord").read_bytes())
    manifest = (data / "squares-train.tfrecord.json").read_bytes()
    cut = bytes(content[:-1000])
    content[2000] ^= 1
    for damaged in (bytes(content), cut, b"", b"\xff" * 100):
        path.write_bytes(damaged)
        path.with_name(path.name + ".json").write_bytes(manifest)
        for command in ("check_split", "inspect_dataset", "verify"):
            _, err = run(command, path, code=3)
            assert "a-train.tfrecord" in err
    _, err = run("info", path, code=3)
    assert "a-train.tfrecord" in err


def test_the_word_of_a_manifest_is_not_printed_raw(tmp_path) -> None:
    names = ("a\x1b[31m", "b\nerror: x", "c")
    squares.write(tmp_path / "a-train.tfrecord", *squares.pictures(9, 1), "train", classes=names)
    for command in ("inspect_dataset", "info"):
        out, _ = run(command, tmp_path / "a-train.tfrecord")
        assert "\x1b" not in out
        assert "\nerror" not in out


def test_inspect_variables(tmp_path) -> None:
    code = (
        "import sys; import tensorflow as tf; from pathlib import Path;"
        "from realmix_tf.training import checkpoint;"
        "checkpoint.save(Path(sys.argv[1]) / 'tf', 64, {'net/w': tf.Variable([1.0, 3.0])}, {})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True)
    out, _ = run("inspect_variables", "tf", f"--data_dir={tmp_path}", "--json")
    assert json.loads(out)["variables"][0]["mean"] == 2.0
    data = tmp_path / "tf" / "model.ckpt-00000064.data-00000-of-00001"
    data.write_bytes(bytes(len(data.read_bytes())))
    _, err = run("inspect_variables", tmp_path, code=5)
    assert "damaged" in err


@pytest.mark.parametrize(
    ("command", "words", "code", "message"),
    [
        ("check_split", [], 2, "check_split digits.1@20-100"),
        ("check_split", ["squares"], 2, "--data_dir"),
        ("check_split", ["a.tfrecord"], 3, "no such record file"),
        ("check_split", ["x", "--examples=-1"], 2, "examples"),
        ("inspect_dataset", [], 2, "--grid=digits.png"),
        ("inspect_dataset", ["a.tfrecord", "--limit=x"], 2, "limit"),
        ("info", [], 2, "info digits.1@20-100"),
        ("info", ["a", "b"], 2, "one path or name"),
        ("info", [".", "--diff=x"], 3, "no run folder"),
        ("info", ["a/b"], 3, "no such file or folder"),
        ("inspect_variables", [], 2, "inspect_variables experiments"),
        ("inspect_variables", ["x"], 5, "no such checkpoint"),
        ("verify", ["x", "--dry_run"], 3, "no such"),
    ],
)
def test_bad_calls_say_what_to_do(tmp_path, command, words, code, message) -> None:
    _, err = run(command, *words, code=code, cwd=tmp_path)
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert listing(tmp_path) == []


def test_training_refuses_test_images_among_the_labels(data, tmp_path) -> None:
    short = ["--train_kimg=0.064", "--report_kimg=0.064", "--save_kimg=0.064"]
    words = [*squares.small_flags(data, tmp_path), *short]
    code = "import sys; from realmix_tf.cli.train import main; sys.exit(main())"

    def train(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, "--method=mixmatch", *words, *more],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip

    result = train()
    assert result.returncode == 3
    assert "--allow_overlap" in result.stderr.splitlines()[-1]
    assert listing(tmp_path) == []
    result = train("--allow_overlap")
    assert result.returncode == 0, result.stderr
    (args,) = tmp_path.rglob("args.json")
    recorded = json.loads(args.read_text())
    assert recorded["allow_overlap"] is True
    assert any("1 labelled images are in the test set" in note for note in recorded["notes"])
