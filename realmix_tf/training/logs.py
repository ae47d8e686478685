"""What a run says: lines on stderr, ``metrics.jsonl``, ``timing.jsonl``, TensorBoard.

``metrics.jsonl`` holds nothing that depends on the clock, so that a resumed run's file equals an
uninterrupted one's byte for byte; the clock's side goes to ``timing.jsonl``.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from realmix_tf.errors import DataError
from realmix_tf.files import json_text, resource_error, write_text

_MAX_BYTES = 1 << 30
_REMEDY = "restore the file from a copy, or start the run again with --fresh"
LINE_SECONDS = 30.0  # between lines where there is no terminal


@dataclass(frozen=True)
class Lines:
    """The lines of a run's log, one a point of training, in order of images seen.

    Attributes:
      lines: the JSON objects; their ``images`` rise strictly.
      repeated: lines left out because a later one has the same ``images`` (a resumed run).
      incomplete: 1 if the file ended within a line (a run that was cut off, or goes on), else 0.
    """

    lines: list[dict[str, Any]]
    repeated: int
    incomplete: int


def read_lines(path: Path) -> Lines:
    """Reads a file of JSON objects, one a line, each with a whole number ``images`` ≥ 0.

    Of several lines with the same ``images`` the last counts. A last line that ends without a
    newline and is not complete is left out and counted; any other damage is an error.

    Raises:
      DataError: no such file, or a line that cannot be understood (named).
    """
    if not path.is_file():
        raise DataError("there is no such file", path, "the folder of a training run")
    if path.stat().st_size > _MAX_BYTES:
        raise DataError("this file is too large to be a run's log", path)
    try:
        rows = path.read_bytes().split(b"\n")
    except OSError as error:
        raise resource_error(error, path) from error
    found: dict[int, dict[str, Any]] = {}
    read = 0
    for number, row in enumerate(rows[:-1], 1):
        value = _object(row)
        if value is None:
            raise DataError("this line is damaged", f"{path}, line {number}", _REMEDY)
        found[value["images"]] = value
        read += 1
    last = _object(rows[-1])
    if last is not None:
        found[last["images"]] = last
        read += 1
    incomplete = int(last is None and rows[-1] != b"")
    ordered = [found[images] for images in sorted(found)]
    return Lines(ordered, read - len(ordered), incomplete)


def _object(row: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(row)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or type(value.get("images")) is not int or value["images"] < 0:
        return None
    return value


class JsonLines:
    """A file of one JSON object a line, appended to and flushed to the disk line by line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """The lines so far; an unfinished last line (a kill while writing) is left out.

        Raises:
          DataError: another line cannot be understood.
        """
        return read_lines(self.path).lines if self.path.exists() else []

    def keep_up_to(self, images: int) -> list[dict[str, Any]]:
        """Drops the lines past ``images`` (they will be made again) and returns the others."""
        lines = self.read()
        kept = [line for line in lines if line["images"] <= images]
        if self.path.exists():
            write_text(self.path, "".join(json_text(line, None) + "\n" for line in kept))
        return kept

    def append(self, value: dict[str, Any]) -> None:
        """Adds a line."""
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json_text(value, None) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise resource_error(error, self.path) from error


class PeriodMeans:
    """Means, minima and maxima of the metrics of a report period.

    Updates are added one by one in double precision, so the result does not depend on how many ran
    in one call, and the unfinished period can be saved and continued.
    """

    def __init__(self, saved: Mapping[str, Any] | None = None) -> None:
        saved = saved or {"counts": {}, "values": {}}
        self._counts: dict[str, int] = {k: int(v) for k, v in saved["counts"].items()}
        self._values: dict[str, float] = {k: float(v) for k, v in saved["values"].items()}

    def add(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Adds updates: name → [n]."""
        for name, column in metrics.items():
            for value in map(float, column):
                if not np.isfinite(value):
                    continue  # a skipped update; counted in updates/skipped
                self._counts[name] = self._counts.get(name, 0) + 1
                if name not in self._values:
                    self._values[name] = value
                elif name.endswith("/min"):
                    self._values[name] = min(self._values[name], value)
                elif name.endswith("/max"):
                    self._values[name] = max(self._values[name], value)
                else:
                    self._values[name] += value

    def result(self) -> dict[str, float]:
        """name → mean (or extreme, or sum for ``updates/skipped``) over the period."""
        result = {}
        for name, value in self._values.items():
            kept = name.endswith(("/min", "/max")) or name == "updates/skipped"
            result[name] = value if kept else value / self._counts[name]
        return result

    def to_json(self) -> dict[str, Any]:
        """What the constructor takes back."""
        return {"counts": self._counts, "values": self._values}


class Progress:
    """Where a run stands: a bar on a terminal, a line every 30 seconds elsewhere.

    Args:
      total_updates: of the whole run.
      batch: labelled images an update.
      out: where text goes; stderr by default.
      clock: seconds, monotonic.
    """

    def __init__(
        self,
        total_updates: int,
        batch: int,
        out: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out = out or sys.stderr
        self._total, self._batch, self._clock = total_updates, batch, clock
        self._terminal = bool(getattr(self._out, "isatty", lambda: False)())
        self._last_line = -np.inf
        self._rate: float | None = None
        self._open_line = False

    def update(
        self, updates: int, count: int, seconds: float, metrics: Mapping[str, np.ndarray]
    ) -> None:
        """Says that ``count`` updates took ``seconds`` and the run stands at ``updates``."""
        rate = count / max(seconds, 1e-9)
        # The first call includes compiling; later ones are averaged with a short memory.
        self._rate = rate if self._rate is None else 0.7 * self._rate + 0.3 * rate
        now = self._clock()
        if not self._terminal and now - self._last_line < LINE_SECONDS:
            return
        self._last_line = now
        left = (self._total - updates) / self._rate
        losses = "  ".join(
            f"{name.removeprefix('loss/')} {float(np.mean(column)):.4f}"
            for name, column in metrics.items()
            if name.startswith("loss/")
        )
        text = (
            f"{100 * updates / self._total:5.1f} %  {updates * self._batch / 1024:.0f} kimg  "
            f"{self._rate * self._batch:.0f} images/s  {_duration(left)} left  {losses}"
        )
        if self._terminal:
            self._out.write("\r\x1b[K" + text[: max(_columns() - 1, 20)])
            self._open_line = True
        else:
            self._out.write(text + "\n")
        self._out.flush()

    def line(self, text: str) -> None:
        """A line of its own."""
        if self._open_line:
            self._out.write("\r\x1b[K")
            self._open_line = False
        self._out.write(text + "\n")
        self._out.flush()


class TensorBoard:
    """Scalars for TensorBoard. A failure here is said once and never stops a run."""

    def __init__(self, folder: Path, forget_from: int, warn: Callable[[str], None]) -> None:
        self._writer: Any = None
        self._warn = warn
        with self._tolerant():
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            self._writer = EventFileWriter(str(folder))
            if forget_from > 1:
                # Tells TensorBoard to forget what an interrupted run wrote from this step on.
                start = SessionLog(status=SessionLog.START)
                self._writer.add_event(Event(step=forget_from, session_log=start))

    def write(self, images: int, values: Mapping[str, float]) -> None:
        """Adds scalars at ``images``."""
        if self._writer is None:
            return
        with self._tolerant():
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary

            summary = Summary(
                value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
            )
            self._writer.add_event(Event(wall_time=time.time(), step=images, summary=summary))
            self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        if self._writer is not None:
            with self._tolerant():
                self._writer.close()

    @contextlib.contextmanager
    def _tolerant(self) -> Any:
        try:
            yield
        except Exception as error:
            self._writer = None
            self._warn(f"warning: TensorBoard logging stopped: {error}")


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """A metrics line's numbers by TensorBoard tag; ``accuracy`` is EMA on test, as published."""
    values = {name: value for name, value in line["train"].items() if value is not None}
    for weights in ("ema", "raw"):
        for name, metrics in line.get(weights, {}).items():
            for key, value in metrics.items():
                if isinstance(value, float):
                    values[f"{weights}/{name}/{key}"] = value
    for number, value in enumerate(line["ema"].get("test", {}).get("per_class_accuracy", ())):
        if value is not None:
            values[f"ema/test/class/{number}"] = value
    for tag, name in (
        ("accuracy", "test"),
        ("accuracy/valid", "valid"),
        ("accuracy/train_labeled", "labeled"),
    ):
        if name in line["ema"]:
            values[tag] = line["ema"][name]["accuracy"]
    return values


def _duration(seconds: float) -> str:
    seconds = int(max(seconds, 0))
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds % 60:02d} s"


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return 80
