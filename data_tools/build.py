"""What all builders share: decoding many files, sets of outputs that belong together, progress."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from realmix_tf.data import manifest as manifests
from realmix_tf.data.images import ImageEntry, decode_image, encode_png
from realmix_tf.data.records import refuse_existing
from realmix_tf.errors import DataError, UsageError
from realmix_tf.files import resource_error, sync_directory

REPORT_SECONDS = 30.0
_FILES_A_TASK = 16
# Starting processes takes longer than decoding a few files, and they are there for crashes too,
# so only single files are decoded at home.
_ALONE = 1


@dataclass(frozen=True)
class ImageFormat:
    """The images of a dataset: height and width in pixels, 1 or 3 channels."""

    height: int
    width: int
    channels: int
    max_pixels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.height, self.width, self.channels


class Encoded(NamedTuple):
    """What became of a file: PNG bytes, or a problem; and remarks."""

    entry: ImageEntry
    png: bytes
    problem: str
    notes: tuple[str, ...]


def encode_files(
    entries: Sequence[ImageEntry], image_format: ImageFormat, workers: int | None = None
) -> Iterator[Encoded]:
    """Decodes, resizes and re-encodes files in several processes, in order.

    A bounded number of files is under way at any time. A file whose decoder crashes its process
    comes back with a problem like any other unreadable one; the work goes on in new processes.

    Args:
      entries: the files.
      image_format: what to make of them.
      workers: processes; the number of processors when None.
    """
    count = workers or os.cpu_count() or 1
    tasks = [
        [(entry.path, entry.problem) for entry in entries[i : i + _FILES_A_TASK]]
        for i in range(0, len(entries), _FILES_A_TASK)
    ]
    results = (
        map(_encode_task, tasks, [image_format] * len(tasks))
        if len(entries) <= _ALONE
        else _in_processes(tasks, image_format, min(count, len(tasks)))
    )
    position = 0
    for batch in results:
        for png, problem, notes in batch:
            yield Encoded(entries[position], png, problem, notes)
            position += 1


_Task = list[tuple[str, str]]
_Outcome = tuple[bytes, str, tuple[str, ...]]


def _in_processes(
    tasks: list[_Task], image_format: ImageFormat, workers: int
) -> Iterator[list[_Outcome]]:
    pool = _pool(workers)
    waiting: deque[tuple[_Task, Future[list[_Outcome]]]] = deque()
    todo = iter(tasks)
    try:
        while True:
            while len(waiting) < 2 * workers and (task := next(todo, None)) is not None:
                waiting.append((task, pool.submit(_encode_task, task, image_format)))
            if not waiting:
                return
            task, future = waiting.popleft()
            try:
                yield future.result()
            except BrokenProcessPool:
                # One of the files under way killed its process, and with it the whole pool.
                unfinished = [task, *(other for other, _ in waiting)]
                waiting.clear()
                pool.shutdown(wait=True, cancel_futures=True)
                for suspect in unfinished:
                    yield _one_by_one(suspect, image_format)
                pool = _pool(workers)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _one_by_one(task: _Task, image_format: ImageFormat) -> list[_Outcome]:
    outcomes: list[_Outcome] = []
    pool = _pool(1)
    try:
        for item in task:
            try:
                outcomes += pool.submit(_encode_task, [item], image_format).result()
            except BrokenProcessPool:
                outcomes.append((b"", "the decoder crashed on this file", ()))
                pool.shutdown(wait=True)
                pool = _pool(1)
    finally:
        pool.shutdown(wait=True)
    return outcomes


def _pool(workers: int) -> ProcessPoolExecutor:
    # Forking a process that has threads (TensorFlow's, a notebook's) can deadlock.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)


def _start_worker() -> None:
    # Ctrl-C is the parent's to handle, and a parent that was killed takes its workers along.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Pillow warns about oddities of files without naming these; what matters is an error or a note.
    warnings.simplefilter("ignore")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode_task(task: _Task, image_format: ImageFormat) -> list[_Outcome]:
    outcomes: list[_Outcome] = []
    for path, problem in task:
        notes: list[str] = []
        png = b""
        if not problem:
            try:
                png = encode_png(
                    decode_image(
                        path,
                        size=(image_format.height, image_format.width),
                        channels=image_format.channels,
                        max_pixels=image_format.max_pixels,
                        notes=notes,
                    )
                )
            except DataError as error:
                problem = error.what
        outcomes.append((png, problem, tuple(notes)))
    return outcomes


class OutputSet:
    """Files that belong together, one of which is the mark that all are complete.

    The mark is written last. Where it is missing, the other files are leftovers of an interrupted
    run of the same command and are replaced; files of other origin are never.

    Args:
      records: the record files, without the mark.
      mark: the last file, a record file or JSON.
      command: the tool's name as its manifests state it.
      overwrite: replace files that exist.
    """

    def __init__(
        self, records: Sequence[Path], mark: Path, command: str, overwrite: bool = False
    ) -> None:
        self.records, self.mark = list(records), mark
        self._command, self.overwrite = command, overwrite

    def check(self) -> None:
        """Raises ``UsageError`` if something of value would be replaced without permission."""
        if self.overwrite:
            return
        refuse_existing(self.mark)
        for path in self.records:
            if not self._is_leftover(path):
                refuse_existing(path)

    def open(self) -> None:
        """Checks, and takes the mark away before the first file changes."""
        self.check()
        if self.mark.suffix == ".tfrecord":
            if self.mark.exists():
                manifests.mark_incomplete(self.mark)
        elif self.mark.exists():
            try:
                self.mark.unlink()
                sync_directory(self.mark.parent)
            except OSError as error:
                raise resource_error(error, self.mark) from error

    def _is_leftover(self, path: Path) -> bool:
        if not path.exists():
            return False
        try:
            manifest = manifests.read_manifest(path)
        except DataError:
            return manifests.is_marked_incomplete(path)
        origin = "" if manifest is None else str(manifest.provenance.get("command", ""))
        return origin.split(" ")[0] == self._command


class Progress:
    """A line about how far the work is: a bar on a terminal, a line every 30 s elsewhere.

    Args:
      total: units of work.
      unit: what is counted, such as ``"images"``.
      purpose: what is being done.
    """

    def __init__(self, total: int, unit: str, purpose: str) -> None:
        self._total, self._unit, self._purpose = total, unit, purpose
        self._done = 0
        self._begin = self._last = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self._total, unit=f" {self._unit}", desc=self._purpose)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def add(self, count: int) -> None:
        """Counts ``count`` more as done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
            return
        now = time.monotonic()
        if now - self._last >= REPORT_SECONDS:
            self._last = now
            rate = self._done / (now - self._begin)
            print(
                f"{self._purpose}: {self._done} of {self._total} {self._unit}, {rate:.0f} a second",
                file=sys.stderr,
                flush=True,
            )


def outside_inputs(outputs: Iterable[Path], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Checks that no output would become an input of the next run.

    Raises:
      UsageError: an output lies inside an input folder.
    """
    roots = [Path(os.path.realpath(folder)) for folder in inputs]
    for output in outputs:
        place = Path(os.path.realpath(output))
        for root in roots:
            if place.is_relative_to(root):
                raise UsageError(
                    "the output would lie inside an input folder", root, "another --data_dir"
                )


def writable(folder: Path) -> None:
    """Makes a folder and checks, before hours of work, that files can be written there.

    Raises:
      ResourceError: they cannot.
    """
    probe = folder / f".tmp-probe.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as error:
        raise resource_error(error, folder) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
