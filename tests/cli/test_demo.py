"""The demo, with trainings of two updates: the whole chain, a second call, a failure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def demo(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), *words]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.process
def test_the_demo_and_again(tmp_path):
    words = [f"--dir={tmp_path / 'demo'}", "--train_kimg=0.125"]
    first = demo(*words, "--json")
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert result["labels"] == 20
    assert result["unlabeled"] == 1177
    assert result["pictures"]["inputs"] == 203
    assert result["pictures"]["classified"] == 202
    assert [Path(row["path"]).name for row in result["unreadable"]] == ["notes.png"]
    for name, run in (("baseline", result["baseline_run"]), ("realmix", result["run"])):
        stated = json.loads(Path(run, "stats", "evaluation.json").read_text())
        assert result["test"][name] == stated["sets"]["test"]["accuracy"]
    for name in ("report", "predictions", "picture"):
        assert Path(result[name]).is_file()
    with Image.open(result["picture"]) as picture:
        assert picture.width > 600

    again = demo(*words)
    assert again.returncode == 0, again.stderr
    assert "$ python" not in again.stderr
    assert "supervised baseline" in again.stdout
    assert f"{result['test']['realmix']:.1%}" in again.stdout


@pytest.mark.process
def test_the_demo_ends_with_the_code_of_a_step_that_fails(tmp_path):
    (tmp_path / "data").write_text("a file where a folder belongs")
    done = demo(f"--dir={tmp_path}")
    assert done.returncode not in (0, 1)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: this step failed, see above")
    assert "create_datasets.py digits" in last


@pytest.mark.process
def test_help_is_quick_and_without_tensorflow():
    for script in ("scripts/demo.py", "scripts/recipes/mismatch.py"):
        program = (
            "import runpy, sys\n"
            f"sys.argv = [{script!r}, '--help']\n"
            "try:\n"
            f"    runpy.run_path({str(ROOT / script)!r}, run_name='__main__')\n"
            "except SystemExit as end:\n"
            "    sys.exit(end.code or int('tensorflow' in sys.modules))\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "exit codes" in done.stdout
