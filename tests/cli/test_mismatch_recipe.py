"""The mismatch study through its command line, small; and its arithmetic."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "recipes"))
import mismatch

from realmix_tf.data.records import RecordReader

SCRIPT = Path(mismatch.__file__)
SMALL = [
    "--labels=12", "--seeds=1", "--levels=75", "--train_kimg=0.125",
    "--method_flags=--arch=small --filters=8 --batch=16 --augment=digits",
]  # fmt: skip


def study(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True)


@pytest.mark.process
def test_one_level_and_again(tmp_path):
    places = [f"--data_dir={tmp_path / 'd'}", f"--train_dir={tmp_path / 'x'}"]
    first = study(*places, *SMALL)
    assert first.returncode == 0, first.stderr
    assert "| 75 % | 0, 1, 8, 7 |" in first.stdout
    for ending in ("json", "md", "png"):
        assert (tmp_path / "x" / f"mismatch.{ending}").stat().st_size > 100
    result = json.loads((tmp_path / "x" / "mismatch.json").read_text())
    assert {name: len(levels["75"]) for name, levels in result["accuracy"].items()} == {
        "supervised": 1, "mixmatch": 1, "realmix": 1,
    }  # fmt: skip
    assert "--percent_mask=0.5" in result["flags"]["realmix"]

    unlabeled = tmp_path / "d" / "SSL" / "mismatch75.1@12-unlabel.tfrecord"
    with RecordReader(unlabeled) as reader:
        assert not reader.labeled.any()
    with RecordReader(tmp_path / "d" / "SSL" / "mismatch75.1@12-label.tfrecord") as reader:
        assert sorted(reader.labels.tolist()) == [c for c in range(6) for _ in range(2)]
    kept = json.loads(Path(f"{unlabeled}.json").read_text())["provenance"]["class_map"]
    assert set(kept) == {"0", "1", "7", "8"}

    again = study(*places, *SMALL)
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    assert "$ python" not in again.stderr


def test_the_levels_are_as_foreign_as_they_say():
    for level, digits in mismatch.LEVELS.items():
        assert len(set(digits)) == 4
        assert sum(digit not in mismatch.TASK for digit in digits) * 25 == level


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labels=20"], "a multiple of six"),
        (["--levels=10"], "some of 0,25,50,75,100"),
        (["more"], "an argument too many"),
    ],
)
def test_usage_errors(words, message, capsys):
    assert mismatch.main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_mean_and_standard_error():
    assert mismatch.mean_error([0.5]) == (0.5, None)
    mean, error = mismatch.mean_error([0.9, 0.8, 0.7])
    assert mean == pytest.approx(0.8)
    assert error == pytest.approx(0.1 / 3**0.5)


def test_the_page_states_where_realmix_falls_below():
    scores = {
        "supervised": {0: [0.9, 0.9], 100: [0.9, 0.9]},
        "mixmatch": {0: [0.95, 0.93], 100: [0.5, 0.6]},
        "realmix": {0: [0.97, 0.97], 100: [0.8, 0.82]},
    }
    result = {
        "labels": 24, "seeds": 2, "test_images": 301, "train_kimg": 32.0, "training_seconds": 90.0,
        "flags": {name: ["--arch=small"] for name in scores},
    }  # fmt: skip
    text = mismatch.page(result, scores)
    assert "| 0 % | 4, 5, 6, 7 | 90.0 ± 0.0 | 94.0 ± 1.0 | 97.0 ± 0.0 | +7.0 ± 0.0 |" in text
    assert "by more than a standard error at 100 %." in text
