import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from realmix_tf.errors import DataError
from realmix_tf.evaluation.accuracy import summarize_accuracy


def line(images: int, test: float | None, valid: float | None = None) -> dict[str, Any]:
    sets = {"test": test, "valid": valid}
    return {
        "images": images,
        "ema": {name: {"accuracy": value} for name, value in sets.items() if value is not None},
        "raw": {},
    }


def write(folder: Path, lines: list[dict[str, Any]], rest: str = "") -> Path:
    text = "".join(json.dumps(value) + "\n" for value in lines)
    (folder / "metrics.jsonl").write_text(text + rest)
    return folder


def test_medians_and_the_choice_by_validation(tmp_path: Path) -> None:
    test = [i / 100 for i in range(60)]
    valid = [0.5] * 60
    valid[7] = valid[30] = 0.9
    write(tmp_path, [line(64 * i, test[i], valid[i]) for i in range(60)])
    result = summarize_accuracy(tmp_path)
    for n in (1, 10, 20, 50):
        assert result[f"last{n:02d}"] == pytest.approx(statistics.median(test[-n:]))
    assert result["best_by_validation"] == {
        "images": 64 * 7,
        "valid_accuracy": 0.9,
        "test_accuracy": 0.07,
        "chosen_by": "valid",
    }
    assert result["evaluations"] == 60
    assert result["evaluations_used"] == {"last01": 1, "last10": 10, "last20": 20, "last50": 50}
    assert "fraction" in result["unit"]
    assert json.loads((tmp_path / "stats" / "accuracy.json").read_text()) == result


def test_without_validation_nothing_is_chosen(tmp_path: Path) -> None:
    write(tmp_path, [line(64, 0.9), line(128, 0.4)])
    result = summarize_accuracy(tmp_path)
    assert result["best_by_validation"] is None
    assert result["chosen_by"] is None
    assert "no validation set" in result["note"]
    assert result["last01"] == 0.4
    assert result["evaluations_used"]["last50"] == 2


def test_test_accuracy_never_chooses(tmp_path: Path) -> None:
    write(tmp_path, [line(64, 0.99, 0.5), line(128, 0.1, 0.6)])
    assert summarize_accuracy(tmp_path)["best_by_validation"]["images"] == 128


def test_without_a_test_set_there_are_no_medians(tmp_path: Path) -> None:
    write(tmp_path, [line(64, None, 0.5)])
    result = summarize_accuracy(tmp_path)
    assert result["last01"] is None
    assert result["best_by_validation"]["test_accuracy"] is None


def test_repeated_lines_count_once_and_the_last_wins(tmp_path: Path) -> None:
    write(tmp_path, [line(64, 0.1), line(128, 0.2), line(64, 0.3), line(128, 0.4)])
    result = summarize_accuracy(tmp_path)
    assert result["evaluations"] == 2
    assert result["last10"] == pytest.approx(0.35)
    assert result["repeated_lines"] == 2


def test_an_incomplete_last_line_is_dropped_and_counted(tmp_path: Path) -> None:
    write(tmp_path, [line(64, 0.1)], json.dumps(line(128, 0.2))[:20])
    result = summarize_accuracy(tmp_path)
    assert result["evaluations"] == 1
    assert result["incomplete_lines"] == 1


def test_a_complete_last_line_needs_no_newline(tmp_path: Path) -> None:
    write(tmp_path, [line(64, 0.1)], json.dumps(line(128, 0.2)))
    assert summarize_accuracy(tmp_path)["evaluations"] == 2


@pytest.mark.parametrize(
    "damage",
    ["{\n", "\n", "[1]\n", '{"images": "64"}\n', '{"images": -1}\n', "\x00\n", "[" * 9999 + "\n"],
)
def test_a_damaged_line_is_named(tmp_path: Path, damage: str) -> None:
    good = json.dumps(line(64, 0.1)) + "\n"
    (tmp_path / "metrics.jsonl").write_text(good + damage + good)
    with pytest.raises(DataError, match="line 2"):
        summarize_accuracy(tmp_path)
    assert not (tmp_path / "stats").exists()


@pytest.mark.parametrize("value", [1.5, -0.1, "0.5", None, True, float("nan")])
def test_an_impossible_accuracy_is_refused(tmp_path: Path, value: object) -> None:
    write(tmp_path, [{"images": 64, "ema": {"test": {"accuracy": value}}}])
    with pytest.raises(DataError, match="images 64"):
        summarize_accuracy(tmp_path)


def test_nothing_to_summarise(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        summarize_accuracy(tmp_path)
    write(tmp_path, [{"images": 1, "train": {}}])
    with pytest.raises(DataError, match="no evaluation"):
        summarize_accuracy(tmp_path)
