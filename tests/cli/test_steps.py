"""Chains of commands: what is done is kept, what changed is done again, failures pass through."""

from __future__ import annotations

from pathlib import Path

import pytest

from realmix_tf.cli.steps import RUN_FILES, StepFailed, Steps, place

COPY = """
import pathlib, sys
source, target = map(pathlib.Path, sys.argv[1:3])
if target.exists() and "--overwrite" not in sys.argv:
    sys.exit(2)
target.write_text(source.read_text())
with open("calls", "a") as calls:
    calls.write("copy\\n")
"""
TRAIN = f"""
import json, pathlib, sys
for name in {RUN_FILES!r}:
    path = pathlib.Path("run", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
with open("calls", "a") as calls:
    calls.write("fresh\\n" if "--fresh" in sys.argv else "train\\n")
print(json.dumps({{"run": "run"}}))
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "copy.py").write_text(COPY)
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "fail.py").write_text("import sys; print('because', file=sys.stderr); sys.exit(5)")
    (tmp_path / "a").write_text("one")
    return tmp_path


def calls(root: Path) -> list[str]:
    path = root / "calls"
    return path.read_text().split() if path.exists() else []


def copy(root: Path) -> None:
    Steps(root / "steps", root).command("copy", ["copy.py", "a", "b"], [Path("a")], [Path("b")])


def train(root: Path) -> dict:
    return Steps(root / "steps", root).training("train", ["train.py"], [Path("a")])


def test_a_command_runs_once(root, capfd):
    copy(root)
    assert "$ python copy.py a b" in capfd.readouterr().err
    copy(root)
    assert "done before: python copy.py a b" in capfd.readouterr().err
    assert calls(root) == ["copy"]


def test_changed_input_or_output_runs_again(root):
    copy(root)
    (root / "a").write_text("two")
    copy(root)
    assert (root / "b").read_text() == "two"
    (root / "b").write_text("damaged")
    copy(root)
    assert (root / "b").read_text() == "two"
    (root / "b").unlink()
    copy(root)
    assert calls(root) == ["copy"] * 4


def test_output_of_an_interrupted_chain_is_replaced(root):
    (root / "b").write_text("half")
    copy(root)
    assert (root / "b").read_text() == "one"


def test_training_is_kept_continued_or_begun_again(root):
    assert train(root)["result"] == {"run": "run"}
    train(root)
    assert calls(root) == ["train"]
    # Interrupted: the record says that it began with these inputs, so it may go on.
    record = next((root / "steps").iterdir())
    Steps(root / "steps", root)._start("train", ["train.py", "--json"], [Path("a")])
    train(root)
    assert calls(root)[1:] == ["train"]
    (root / "a").write_text("two")
    train(root)
    assert calls(root)[2:] == ["fresh"]
    record.write_text("not JSON")
    train(root)
    assert calls(root)[3:] == ["train"]


def test_a_failure_passes_the_exit_code_on(root, capfd):
    with pytest.raises(StepFailed) as caught:
        Steps(root / "steps", root).command("fail", ["fail.py"])
    assert caught.value.exit_code == 5
    assert "because" in capfd.readouterr().err
    with pytest.raises(StepFailed):
        Steps(root / "steps", root).command("fail", ["fail.py"])


def test_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place("d", tmp_path) == Path("d")
    assert place(".", tmp_path) == Path()
    assert place("/elsewhere", tmp_path) == Path("/elsewhere")
