"""The command through its real command line."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from realmix_tf.cli import extract_accuracy

SCRIPT = Path(__file__).parents[2] / "scripts" / "extract_accuracy.py"


def make_run(folder: Path, values: list[float]) -> Path:
    folder.mkdir()
    lines = [
        {"images": 64 * (i + 1), "ema": {"test": {"accuracy": v}, "valid": {"accuracy": 1 - v}}}
        for i, v in enumerate(values)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", [0.5, 0.75, 0.875])
    assert extract_accuracy.main([str(run)]) == 0
    text = capsys.readouterr().out
    assert "last01  87.50%  (median of 1)" in text
    assert "last50  75.00%  (median of 3)" in text
    assert "chosen by validation (50.00%) at 64 images: test 50.00%" in text


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", [0.5])
    (run / "metrics.jsonl").write_text('{"images": 1}\n{"ima\n{"images": 2}\n')
    assert extract_accuracy.main([str(run)]) == 3
    assert extract_accuracy.main([]) == 2
    assert extract_accuracy.main(["--jsom", str(run)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 3
    assert "line 2" in lines[0]
    assert "--json" in lines[2]


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", [0.5, 0.75])
    assert extract_accuracy.main([str(run), "--dry_run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    target = run / "stats" / "accuracy.json"
    assert not target.parent.exists()
    assert plan["dry_run"] is True
    assert plan["reads"][0]["path"] == str(run / "metrics.jsonl")
    assert extract_accuracy.main([str(run)]) == 0
    assert plan["writes"] == [{"path": str(target), "bytes": target.stat().st_size}]
    assert extract_accuracy.main([str(tmp_path / "no"), "--dry_run"]) == 3


@pytest.mark.process
def test_command(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a b", [0.5, 0.7]), make_run(tmp_path / "c", [0.25])]
    done = command("--json", *runs)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["schema"] == 1
    for run in runs:
        written = json.loads((run / "stats" / "accuracy.json").read_text())
        assert printed["runs"][str(run)] == written
    assert printed["runs"][str(runs[0])]["last20"] == pytest.approx(0.6)
    assert command(tmp_path / "no").returncode == 3


@pytest.mark.process
def test_help_is_quick_and_does_not_load_tensorflow() -> None:
    start = time.monotonic()
    done = command("--help")
    assert done.returncode == 0
    assert "RUN_DIR" in done.stdout
    assert time.monotonic() - start < 10
    code = (
        "import sys\n"
        "from realmix_tf.cli import extract_accuracy, predict\n"
        "assert extract_accuracy.main(['--help']) == 0\n"
        "assert predict.main(['--help']) == 0\n"
        "assert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)\n"
        "print('reached the end')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=SCRIPT.parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for expected in ("RUN_DIR", "--inference_ckpt", "--weights", "reached the end"):
        assert expected in done.stdout
