"""A run from start to end in one process: reports, saves, and stopping at every kind of moment."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tiny import SPEC, TASK, BreaksAt, batches, dataset, method, settings, snapshot

from realmix_tf.errors import CheckpointError, DivergedError, Interrupted
from realmix_tf.training import checkpoint, logs, loop
from realmix_tf.training.engine import Engine
from realmix_tf.training.run_folder import RunFolder

KIMG = 6 / 1024  # of one update
SETTINGS = settings(train_kimg=30 * KIMG, report_kimg=10 * KIMG, save_kimg=6 * KIMG)
IDENTITY = {"method": "supervised", "lr": 0.002}


class Source:
    """The part of ``TrainingInput`` that the loop uses."""

    class data:
        labeled = unlabeled = None

    def dataset(self, start: int) -> tf.data.Dataset:
        return dataset(batches(30)).skip(start)


def run(folder: Path, evaluate=None, what=None, numbers=SETTINGS, identity=IDENTITY):
    """Trains; returns the outcome, the engine and what was said."""
    engine = Engine(what or method("supervised"), SPEC, numbers)
    said = io.StringIO()
    progress = logs.Progress(numbers.total_updates, numbers.batch, said)
    outcome = loop.train(
        engine,
        Source(),
        RunFolder(folder),
        numbers,
        identity,
        evaluate or by_valid([0.5, 0.75, 0.6]),
        progress,
    )
    return outcome, engine, said.getvalue()


def by_valid(accuracies: list[float]):
    """An evaluation that gives these validation accuracies in turn of the reports."""

    def evaluate(engine: Engine, stop) -> dict:
        report = int(engine.optimizer.iterations.numpy()) // 10 - 1
        weight = float(np.abs(engine.ema["head/kernel"].numpy()).sum())
        return {"ema": {"valid": {"accuracy": accuracies[report], "nll": weight}}, "raw": {}}

    return evaluate


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("whole")
    outcome, engine, _ = run(folder)
    return folder, outcome, snapshot(engine)


def test_a_run_reports_each_period_and_keeps_the_best_by_validation(whole) -> None:
    folder, outcome, _ = whole
    assert (outcome.updates, outcome.trained, outcome.images) == (30, 30, 180)
    assert outcome.best == {"images": 120, "valid": 0.75}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["updates"] for line in lines] == [10, 20, 30]
    assert all(0 < line["train"]["loss/total"] < 10 for line in lines)
    saved = [int(p.name[-8:]) // 6 for p in checkpoint.committed(folder / "tf")]
    # Each save period, the end, and the reports at 10 and 20 that were the best so far.
    assert saved == [6, 10, 12, 18, 20, 24, 30]


def same(folder: Path, engine: Engine, whole) -> None:
    expected_folder, _, expected = whole
    found = snapshot(engine)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].tobytes() == value.tobytes(), name
    assert (folder / "metrics.jsonl").read_bytes() == (
        expected_folder / "metrics.jsonl"
    ).read_bytes()


@pytest.mark.parametrize("report", [1, 2, 3])
def test_a_signal_during_an_evaluation_saves_and_the_report_is_made_later(
    report: int, whole, tmp_path: Path
) -> None:
    calls = 0
    normal = by_valid([0.5, 0.75, 0.6])

    def interrupted(engine: Engine, stop) -> dict:
        nonlocal calls
        calls += 1
        if calls == report:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop()
            raise loop.EvaluationStopped
        return normal(engine, stop)

    with pytest.raises(Interrupted) as caught:
        run(tmp_path, interrupted)
    assert caught.value.exit_code == 143
    assert len(logs.JsonLines(tmp_path / "metrics.jsonl").read()) == report - 1
    outcome, engine, said = run(tmp_path)
    assert f"continuing from model.ckpt-{report * 60:08d}" in said
    assert outcome.trained == 30 - 10 * report
    same(tmp_path, engine, whole)


def test_a_report_that_was_written_but_not_saved_is_not_written_twice(
    whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint.save

    def killed_at_the_end(folder, images, *rest):
        if images == 180:
            raise KeyboardInterrupt  # stands for a kill between the report and its checkpoint
        return save(folder, images, *rest)

    monkeypatch.setattr(checkpoint, "save", killed_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    monkeypatch.undo()
    _, engine, _ = run(tmp_path)
    same(tmp_path, engine, whole)


def test_a_finished_run_is_not_trained_or_evaluated_again(whole) -> None:
    folder, _, _ = whole

    def never(engine: Engine, stop) -> dict:
        raise AssertionError("evaluated again")

    outcome, engine, _ = run(folder, never)
    assert outcome.trained == 0
    assert outcome.best == {"images": 120, "valid": 0.75}
    same(folder, engine, whole)


def test_old_checkpoints_go_but_the_best_by_validation_stays(tmp_path: Path) -> None:
    numbers = settings(train_kimg=30 * KIMG, report_kimg=10 * KIMG, save_kimg=5 * KIMG, keep_ckpt=1)
    run(tmp_path, by_valid([0.9, 0.75, 0.6]), numbers=numbers)
    assert [p.name for p in checkpoint.committed(tmp_path / "tf")] == [
        "model.ckpt-00000060",
        "model.ckpt-00000180",
    ]


def test_ten_updates_in_a_row_without_a_finite_gradient_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"loss/total nan.*update 2\d") as caught:
        run(tmp_path, what=BreaksAt(tuple(range(13, 30)), TASK))
    assert caught.value.exit_code == 6
    # The last checkpoint was saved while the weights were finite; they still are.
    found = checkpoint.newest(tmp_path / "tf", print)
    assert found is not None
    assert all(np.isfinite(value).all() for value in checkpoint.read(found).values())


def test_nine_in_a_row_do_not(tmp_path: Path) -> None:
    outcome, _, said = run(tmp_path, what=BreaksAt(tuple(range(13, 22)), TASK))
    assert outcome.updates == 30
    assert "updates skipped" in said


def test_another_run_s_checkpoints_are_refused_naming_the_difference(whole) -> None:
    folder, _, _ = whole
    with pytest.raises(CheckpointError, match=r"started with lr = 0\.002, now it is 0\.1"):
        run(folder, identity=IDENTITY | {"lr": 0.1})


def test_a_run_whose_checkpoints_were_deleted_does_not_silently_start_again(
    whole, tmp_path: Path
) -> None:
    folder, _, _ = whole
    log = (folder / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(log)
    with pytest.raises(CheckpointError, match=r"its checkpoints are gone.*--fresh"):
        run(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == log


def test_tensorboard_keeps_every_point_of_a_resumed_run_once(whole, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def stops_after_the_second(engine: Engine, stop) -> dict:
        if int(engine.optimizer.iterations.numpy()) == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return by_valid([0.5, 0.75, 0.6])(engine, stop)

    with pytest.raises(Interrupted):
        run(tmp_path, stops_after_the_second)
    run(tmp_path)
    board = EventAccumulator(str(tmp_path / "tf")).Reload()
    points = board.Scalars("accuracy/valid")
    assert [point.step for point in points] == [60, 120, 180]
    files = list((tmp_path / "tf").glob("events.*"))
    run(tmp_path)
    assert list((tmp_path / "tf").glob("events.*")) == files


def test_the_second_signal_ends_the_process_at_once() -> None:
    code = (
        "import os, signal, time\n"
        "from realmix_tf.training.signals import StopRequest\n"
        "with StopRequest() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    assert stop.number == signal.SIGTERM\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=30, check=False)
    assert done.returncode == 130
