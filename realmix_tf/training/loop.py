"""A run from its first update, or from its newest checkpoint, to its last."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from realmix_tf.errors import CheckpointError, DivergedError, Interrupted, ResourceError
from realmix_tf.training import checkpoint, logs
from realmix_tf.training.engine import Engine
from realmix_tf.training.input import TrainingInput
from realmix_tf.training.run_folder import RunFolder
from realmix_tf.training.settings import TrainSettings
from realmix_tf.training.signals import StopRequest

MOST_SKIPPED = 10  # updates in a row with a gradient that is not finite
_MEASURED_UPDATES = 3
_CALL_SECONDS = 1.0  # how long one call on the device should take

Evaluate = Callable[[Engine, Callable[[], bool]], dict[str, dict[str, Any]]]


class EvaluationStopped(Exception):
    """Raised by an evaluation that was asked to stop; the report is made when the run goes on."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
      updates: of the whole run.
      images: labelled images seen.
      trained: updates made by this call; 0 when the run was finished already.
      best: {"images", "valid"} of the best evaluation by validation, or None without validation.
    """

    updates: int
    images: int
    trained: int
    best: dict[str, Any] | None


def train(
    engine: Engine,
    source: TrainingInput,
    folder: RunFolder,
    settings: TrainSettings,
    identity: dict[str, Any],
    evaluate: Evaluate,
    progress: logs.Progress,
) -> Outcome:
    """Trains to the end, continuing what the folder holds.

    Killed at any moment and called again, it ends with the weights, optimiser, averages and
    metrics of an uninterrupted run, bit for bit on CPUs.

    Args:
      engine: freshly built.
      source: what updates read.
      folder: where everything goes; the caller holds its lock.
      identity: what must be the same when a run is continued, by name.
      evaluate: called each report period with the engine and a function that tells whether to
        stop; returns {"ema": {set: metrics}, "raw": …} or raises ``EvaluationStopped``.

    Raises:
      CheckpointError: the folder's checkpoints are unusable or of another run.
      DivergedError: ``MOST_SKIPPED`` updates in a row had no finite gradient.
      Interrupted: SIGTERM or SIGINT; everything is saved.
    """
    run = _Run(engine, source, folder, settings, identity, evaluate, progress)
    with StopRequest() as stop:
        return run.train(stop)


def measure(engine: Engine, source: TrainingInput) -> float:
    """Seconds that an update takes.

    Some are made for it after the first, which compiles, so the engine is of no use afterwards.
    """
    iterator = engine.iterator(source.dataset(0))
    engine.run(iterator, 0, 1)
    start, count = time.monotonic(), 0
    while count < _MEASURED_UPDATES or time.monotonic() - start < _CALL_SECONDS:
        engine.run(iterator, 1 + count, 1)
        count += 1
    return (time.monotonic() - start) / count


class _Run:
    def __init__(
        self,
        engine: Engine,
        source: TrainingInput,
        folder: RunFolder,
        settings: TrainSettings,
        identity: dict[str, Any],
        evaluate: Evaluate,
        progress: logs.Progress,
    ) -> None:
        self.engine, self.source, self.folder, self.settings = engine, source, folder, settings
        self.identity, self.evaluate, self.progress = identity, evaluate, progress
        self.metrics, self.timing = logs.JsonLines(folder.metrics), logs.JsonLines(folder.timing)
        self.updates = 0
        self.skipped_in_row = 0
        self.best: dict[str, Any] | None = None
        self.period = logs.PeriodMeans()
        self.saved_at = self.reported_at = -1
        self.period_seconds, self.period_updates = 0.0, 0
        self.compiled = False

    @property
    def images(self) -> int:
        return self.updates * self.settings.batch

    def train(self, stop: StopRequest) -> Outcome:
        self._continue()
        started, total = self.updates, self.settings.total_updates
        if self.reported_at == self.updates == total:
            return Outcome(self.updates, self.images, 0, self.best)
        # Points up to here stand; of a report that is made again, the old one goes.
        forget = self.images + (self.reported_at == self.updates)
        board = logs.TensorBoard(self.folder.checkpoints, forget, self.progress.line)
        try:
            self._settle(board, stop)
            if self.updates < total:
                iterator = self.engine.iterator(self.source.dataset(self.updates))
                self._advance(iterator, 1)  # compiles, so it tells nothing about the speed
            call = 1
            while True:
                self._settle(board, stop)
                if self.updates >= total:
                    return Outcome(self.updates, self.images, self.updates - started, self.best)
                count = min(call, self._next_boundary() - self.updates)
                seconds = self._advance(iterator, count)
                call = int(np.clip(_CALL_SECONDS * count / seconds, 1, 4 * call))
        finally:
            board.close()

    def _advance(self, iterator: Iterator[Any], count: int) -> float:
        """Runs ``count`` updates in one call; returns the seconds it took."""
        start = time.monotonic()
        try:
            metrics = self.engine.run(iterator, self.updates, count)
        except tf.errors.OpError as error:
            raise self._readable(error) from error
        seconds = time.monotonic() - start
        self.updates += count
        self.period.add(metrics)
        self._watch(metrics)
        if not self.compiled:
            self.compiled = True
            self.progress.line(f"first update after {seconds:.1f} s (most of it compiling)")
        else:
            self.period_seconds += seconds
            self.period_updates += count
            self.progress.update(self.updates, count, seconds, metrics)
        return seconds

    def _readable(self, error: tf.errors.OpError) -> Exception:
        for store in (self.source.data.labeled, self.source.data.unlabeled):
            if store is not None and store.failure is not None:
                return store.failure
        if isinstance(error, tf.errors.ResourceExhaustedError):
            return ResourceError("out of memory", f"update {self.updates}", "a smaller --batch")
        return error

    def _settle(self, board: logs.TensorBoard, stop: StopRequest) -> None:
        """Reports, saves and stops, whichever is due where the run stands."""
        if self.reported_at != self.updates and self._at(self.settings.report_kimg):
            self._report(board, stop)
        best_now = self.best is not None and self.best["images"] == self.images
        if self._at(self.settings.save_kimg) or best_now or stop.number:
            self._save()
        if stop.number:
            total = self.settings.total_updates * self.settings.batch
            raise Interrupted(
                stop.number,
                f"stopped and saved at {self.images} of {total} images",
                self.folder.path,
                "the same command again to continue",
            )

    def _continue(self) -> None:
        found = find_checkpoint(self.folder, self.settings, self.identity, self.progress.line)
        if found is None:
            self.metrics.keep_up_to(-1)
            self.timing.keep_up_to(-1)
            return
        host = found.host
        checkpoint.restore(found, self.engine.variables())
        self.updates = found.images // self.settings.batch
        self.skipped_in_row = int(host["skipped_in_row"])
        self.best = host["best"]
        self.reported_at = int(host["reported_at"])
        self.period = logs.PeriodMeans(host["period"])
        self.saved_at = self.updates
        # A report at this very moment may have been written but not saved: it is made again.
        self.metrics.keep_up_to(self.reported_at * self.settings.batch)
        self.timing.keep_up_to(self.reported_at * self.settings.batch)
        self.progress.line(f"continuing from {found.prefix.name} ({found.images} images seen)")

    def _next_boundary(self) -> int:
        boundaries = [self.settings.total_updates]
        for kimg in (self.settings.report_kimg, self.settings.save_kimg):
            period = self.settings.updates(kimg)
            boundaries.append((self.updates // period + 1) * period)
        return min(boundaries)

    def _at(self, kimg: float) -> bool:
        end = self.updates == self.settings.total_updates
        return self.updates > 0 and (end or self.updates % self.settings.updates(kimg) == 0)

    def _watch(self, metrics: dict[str, np.ndarray]) -> None:
        for index, skipped in enumerate(metrics["updates/skipped"]):
            self.skipped_in_row = self.skipped_in_row + 1 if skipped else 0
            if self.skipped_in_row >= MOST_SKIPPED:
                update = self.updates - len(metrics["updates/skipped"]) + index + 1
                losses = ", ".join(
                    f"{name} {column[index]}"
                    for name, column in metrics.items()
                    if name.startswith("loss/")
                )
                raise DivergedError(
                    f"{MOST_SKIPPED} updates in a row had no finite gradient ({losses}, "
                    f"lr {self.settings.lr:g})",
                    f"update {update}, {update * self.settings.batch} images; checkpoints saved "
                    "before are kept",
                    "a smaller --lr",
                )

    def _report(self, board: logs.TensorBoard, stop: StopRequest) -> None:
        """A line in metrics.jsonl; always before the checkpoint of the same moment is saved."""
        line: dict[str, Any] = {
            "images": self.images,
            "updates": self.updates,
            "train": self.period.result(),
        }
        start = time.monotonic()
        try:
            line |= self.evaluate(self.engine, lambda: bool(stop.number))
        except EvaluationStopped:
            return
        self.reported_at = self.updates
        self.period = logs.PeriodMeans()
        valid = line["ema"].get("valid")
        if valid and (self.best is None or valid["accuracy"] > self.best["valid"]):
            self.best = {"images": self.images, "valid": valid["accuracy"]}
        self.metrics.append(line)
        rate = self.period_updates * self.settings.batch / max(self.period_seconds, 1e-9)
        self.timing.append(
            {
                "images": self.images,
                "seconds": self.period_seconds,
                "images_per_second": rate,
                "evaluation_seconds": time.monotonic() - start,
            }
        )
        self.period_seconds, self.period_updates = 0.0, 0
        board.write(self.images, logs.scalars(line))
        shown = "/".join(n for n in ("labeled", "valid", "test") if n in line["ema"])
        values = " ".join(
            f"{100 * line['ema'][n]['accuracy']:.2f}"
            for n in ("labeled", "valid", "test")
            if n in line["ema"]
        )
        skipped = int(line["train"].get("updates/skipped", 0))
        note = f"  ({skipped} updates skipped: gradient not finite)" if skipped else ""
        self.progress.line(f"kimg {self.images / 1024:.0f}  accuracy {shown}  {values}{note}")

    def _save(self) -> None:
        if self.saved_at == self.updates:
            return
        host = {
            "identity": self.identity,
            "skipped_in_row": self.skipped_in_row,
            "best": self.best,
            "reported_at": self.reported_at,
            "period": self.period.to_json(),
        }
        checkpoint.save(self.folder.checkpoints, self.images, self.engine.variables(), host)
        self.saved_at = self.updates
        protect = {self.best["images"]} if self.best else set()
        checkpoint.prune(self.folder.checkpoints, self.settings.keep_ckpt, protect)


def find_checkpoint(
    folder: RunFolder,
    settings: TrainSettings,
    identity: dict[str, Any],
    warn: Callable[[str], None],
) -> checkpoint.Checkpoint | None:
    """The checkpoint a run goes on from, or None for one that starts.

    Raises:
      CheckpointError: there are checkpoints but none is usable, the newest is of another run, or
        there were checkpoints once and they are gone. A run never starts afresh unasked.
    """
    checkpoint.clean(folder.checkpoints)
    found = checkpoint.newest(folder.checkpoints, warn)
    if found is not None:
        check_identity(found.host.get("identity", {}), identity, str(found.prefix))
        return found
    lines = logs.JsonLines(folder.metrics).read()
    first_save = settings.updates(settings.save_kimg) * settings.batch
    if folder.evaluation.exists() or (lines and lines[-1]["images"] > first_save):
        raise CheckpointError(
            "this run's results are here but its checkpoints are gone",
            folder.checkpoints,
            "--fresh to train again, or put the checkpoints back",
        )
    return None


def check_identity(saved: dict[str, Any], current: dict[str, Any], where: str) -> None:
    """Refuses to continue a run with other settings, another network or other data.

    Raises:
      CheckpointError: naming the first thing that differs.
    """
    for name in sorted(set(saved) | set(current)):
        if saved.get(name) != current.get(name):
            raise CheckpointError(
                f"this run was started with {name} = {saved.get(name)}, now it is "
                f"{current.get(name)}",
                where,
                "the settings it was started with, another --train_dir, or --fresh",
            )
