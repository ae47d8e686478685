"""Lines, means of a period, progress."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from realmix_tf.errors import DataError
from realmix_tf.training import logs


def line(images: int) -> dict:
    return {"images": images, "train": {"loss/xe": images / 7}}


def test_lines_come_back_as_they_were_written(tmp_path):
    log = logs.JsonLines(tmp_path / "metrics.jsonl")
    assert log.read() == []
    for images in (10, 20):
        log.append(line(images))
    assert log.read() == [line(10), line(20)]


def test_a_line_never_contains_a_bare_nan(tmp_path):
    log = logs.JsonLines(tmp_path / "metrics.jsonl")
    log.append({"images": 1, "train": {"x": float("nan"), "y": np.float32("inf")}})
    read = json.loads(log.path.read_text(), parse_constant=pytest.fail)
    assert read["train"] == {"x": None, "y": None}


def test_an_unfinished_last_line_is_left_out_and_then_removed(tmp_path):
    log = logs.JsonLines(tmp_path / "metrics.jsonl")
    log.append(line(10))
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + b'{"images": 20, "tra')
    assert log.read() == [line(10)]
    assert log.keep_up_to(100) == [line(10)]
    assert log.path.read_bytes() == whole


def test_lines_past_the_checkpoint_are_dropped_and_made_again_byte_for_byte(tmp_path):
    log = logs.JsonLines(tmp_path / "metrics.jsonl")
    for images in (10, 20, 30):
        log.append(line(images))
    whole = log.path.read_bytes()
    assert log.keep_up_to(20) == [line(10), line(20)]
    log.append(line(30))
    assert log.path.read_bytes() == whole
    assert log.keep_up_to(-1) == []
    assert log.path.read_bytes() == b""


@pytest.mark.parametrize("broken", ["not json", "[]", '{"updates": 1}', '{"images": "3"}'])
def test_a_line_of_something_else_is_bad_data_with_its_number(tmp_path, broken):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(line(10)) + "\n" + broken + "\n" + json.dumps(line(20)) + "\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2"):
        logs.JsonLines(path).read()


def columns(count: int = 12) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    names = ("loss/xe", "confidence/min", "confidence/max", "kept/unlabeled")
    return {name: random.random(count).astype(np.float32) for name in names} | {
        "updates/skipped": np.zeros(count, np.float32)
    }


def test_a_period_holds_means_extremes_and_the_sum_of_what_was_skipped():
    values = columns()
    values["updates/skipped"][[3, 5]] = 1
    period = logs.PeriodMeans()
    period.add(values)
    result = period.result()
    assert result["loss/xe"] == pytest.approx(values["loss/xe"].astype(float).mean())
    assert result["kept/unlabeled"] == pytest.approx(values["kept/unlabeled"].astype(float).mean())
    assert result["confidence/min"] == values["confidence/min"].min()
    assert result["confidence/max"] == values["confidence/max"].max()
    assert result["updates/skipped"] == 2


def test_a_mean_is_over_the_updates_that_have_a_value():
    period = logs.PeriodMeans()
    losses = np.array([1, np.nan, 3, np.inf], np.float32)
    period.add({"loss/xe": losses, "updates/skipped": np.array([0, 1, 0, 1], np.float32)})
    assert period.result() == {"loss/xe": 2, "updates/skipped": 2}
    nothing = logs.PeriodMeans()
    nothing.add({"loss/xe": np.array([np.nan], np.float32)})
    assert "loss/xe" not in nothing.result()


def test_a_period_does_not_depend_on_the_calls_nor_on_being_saved_in_between():
    values = columns()
    values["loss/xe"][4] = np.nan
    whole = logs.PeriodMeans()
    whole.add(values)
    period = logs.PeriodMeans()
    for start in range(0, 12, 5):
        period.add({n: v[start : start + 5] for n, v in values.items()})
        period = logs.PeriodMeans(json.loads(json.dumps(period.to_json())))
    assert period.result() == whole.result()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_than_on_a_terminal_there_is_a_line_every_30_seconds():
    out, now = io.StringIO(), [0.0]
    progress = logs.Progress(1000, 64, out, clock=lambda: now[0])
    for step in range(1, 7):
        progress.update(step * 10, 10, 1.0, {"loss/xe": np.array([0.5]), "lr": np.array([1.0])})
        now[0] += 10
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert "640 images/s" in lines[0]
    assert "1 min 39 s left" in lines[0]
    assert "xe 0.5000" in lines[0]
    assert "lr" not in lines[0]


def test_a_line_of_its_own_replaces_the_bar_on_a_terminal():
    out = Terminal()
    progress = logs.Progress(100, 64, out)
    progress.update(1, 1, 0.1, {"loss/xe": np.array([0.5])})
    progress.line("saved")
    assert out.getvalue().endswith("\r\x1b[Ksaved\n")
    assert "\n" not in out.getvalue()[:-1]


def test_a_failure_of_tensorboard_is_said_once_and_stops_nothing(tmp_path):
    said = []
    (tmp_path / "file").write_text("not a folder")
    board = logs.TensorBoard(tmp_path / "file" / "tf", 0, said.append)
    board.write(1, {"a": 1.0})
    board.close()
    assert len(said) == 1
    assert "TensorBoard logging stopped" in said[0]


def test_tensorboard_shows_the_published_tags():
    metrics = {"accuracy": 0.5, "nll": 1.0, "ece": None, "macro_f1": 0.4, "weighted_f1": 0.4}
    values = logs.scalars(
        {
            "images": 64,
            "train": {"loss/xe": 1.5, "empty": None},
            "ema": {"test": metrics, "valid": {**metrics, "accuracy": 0.6}},
            "raw": {"test": {**metrics, "accuracy": 0.1}},
        }
    )
    assert values["accuracy"] == values["ema/test/accuracy"] == 0.5
    assert values["accuracy/valid"] == 0.6
    assert values["raw/test/accuracy"] == 0.1
    assert values["loss/xe"] == 1.5
    assert "empty" not in values
    assert "ema/test/ece" not in values
    assert "accuracy/train_labeled" not in values
