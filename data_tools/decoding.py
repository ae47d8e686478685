"""Users' files decoded in several processes, where a crash or a bad file costs one file."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import NamedTuple

from realmix_tf.data.images import ImageEntry, decode_image, encode_png
from realmix_tf.errors import DataError

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
