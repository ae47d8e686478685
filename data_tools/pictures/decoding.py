"""Users' files turned into records by several processes, where a bad file costs one file.

Files meet decoders in worker processes only. A worker whose decoder crashes, hangs or takes more
memory than a picture can need is replaced; the file that did it is found and comes back with a
problem like any other unreadable one. What workers send is parsed, never unpickled.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import multiprocessing
import os
import pickle
import queue
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from realmix_tf.data.examples import decode_example, encode_example
from realmix_tf.data.images import UInt8Array, decode_image, encode_pngs
from realmix_tf.data.records import apart, frame_of
from realmix_tf.errors import DataError, ResourceError

# What happens to a decoded and resized image (uint8 [height, width, channels]) before it is
# stored, given the number its item carries. Has to be picklable.
PostStep = Callable[[UInt8Array, int], UInt8Array]

FILE_TIMEOUT = 60.0

# A task is a tenth of a second of work, so that progress is seen and no processor waits long at
# the end, and no more than this, so that little is under way.
_TASK_SECONDS = 0.1
_TASK_FILES = 256
_TASK_BYTES = 1 << 20
_TASKS_A_WORKER = 2
_WINDOW = 4
_POLL_SECONDS = 1.0
_START_ATTEMPTS = 3
# The colour models and copies that a decoder may need for one picture, and for everything else.
_BYTES_A_PIXEL = 40
_SPARE_BYTES = 512 << 20
# Length and checksums before and behind a record.
_HEAD, _TAIL = 12, 4


@dataclass(frozen=True)
class ImageFormat:
    """The images of a dataset and what they may be made from.

    Attributes:
      height: in pixels.
      width: in pixels.
      channels: 1 or 3.
      max_pixels: larger files are refused.
      min_side: files with a shorter side, in pixels, are refused.
      crop: cut out the central part of the wanted shape instead of stretching; see
        ``decode_image``.
    """

    height: int
    width: int
    channels: int
    max_pixels: int
    min_side: int = 1
    crop: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.height, self.width, self.channels


class Item(NamedTuple):
    """A record to make.

    Attributes:
      path: the file.
      problem: why it cannot be read; then it is not tried.
      name: the record's ``name``.
      label: the true label, −1 for none.
      pseudo: the label a model gave, −1 for none.
      source: the record's ``source``, −1 for none.
      number: handed to the post-step; −1 leaves the image as it is.
    """

    path: str
    problem: str
    name: str
    label: int
    pseudo: int = -1
    source: int = -1
    number: int = -1


class Batch(NamedTuple):
    """What became of a run of items.

    Attributes:
      items: how many were tried.
      good: int64 [n], the places of those that became records, ascending.
      frames: their records with framing, one after the other.
      lengths: int64 [n], bytes of each frame.
      hashes: uint64 [n], of the pixels before the post-step.
      problems: place and reason of the others.
      notes: place and remark, any number an item.
    """

    items: int
    good: NDArray[np.int64]
    frames: bytes
    lengths: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    problems: list[tuple[int, str]]
    notes: list[tuple[int, str]]

    def pngs(self) -> list[bytes]:
        """The PNG bytes of the images in ``frames``.

        Raises:
          DataError: a decoding process sent something else than records.
        """
        return [
            decode_example(frame[_HEAD:-_TAIL]).image for frame in apart(self.frames, self.lengths)
        ]


class Decoder:
    """Worker processes that turn files into records; use it in a ``with`` block.

    Args:
      image_format: what to make of the files.
      workers: processes; the number of processors when None.
      file_timeout: seconds after which a file is given up.

    Raises:
      ResourceError: the processes cannot be started.
    """

    def __init__(
        self,
        image_format: ImageFormat,
        workers: int | None = None,
        file_timeout: float = FILE_TIMEOUT,
    ) -> None:
        self._format, self._timeout = image_format, file_timeout
        self._count = workers or processors()
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._serial = 0
        self._seconds_a_file = 0.0
        self._tried = 1
        self._begin = time.monotonic()
        self._old_handler: Any = None

    def __enter__(self) -> Decoder:
        # Commands let a closed pipe end them; here it is a worker that crashed.
        if threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()
        if self._old_handler is not None:
            signal.signal(signal.SIGPIPE, self._old_handler)

    def encode(
        self, total: int, fetch: Callable[[int, int], list[Item]], step: PostStep | None = None
    ) -> Generator[Batch, None, None]:
        """Decodes, resizes and re-encodes files; the batches come in the order of the items.

        A bounded number of items is under way at any time, a tenth of a second of work or a
        mebibyte of pixels at once.

        Args:
          total: how many items there are.
          fetch: the items start … stop − 1; asked for ascending runs.
          step: see ``PostStep``.
        """
        window: list[_Task] = []
        again: deque[_Task] = deque()
        taken = 0
        try:
            while taken < total or window:
                while (worker := self._free(total - taken, again)) is not None:
                    if again:
                        task = again.popleft()
                    elif taken < total and len(window) < _WINDOW * self._count:
                        stop = taken + self._size(total - taken)
                        task = _Task(fetch(taken, stop))
                        window.append(task)
                        taken = stop
                    else:
                        break
                    self._serial += 1
                    worker.give(task, self._serial, step)
                batch = window[0].batch if window else None
                if batch is None:
                    self._attend(window, again)
                else:
                    window.pop(0)
                    yield batch
        finally:
            if window:
                # Nobody wants the rest any more, and it must not turn up in later work.
                self._end()

    def _size(self, remaining: int) -> int:
        shape = self._format.shape
        most = max(1, min(_TASK_FILES, _TASK_BYTES // math.prod(shape), 4 * self._tried))
        if self._seconds_a_file:
            most = min(most, int(_TASK_SECONDS / self._seconds_a_file))
        # Ever smaller tasks at the end, so that all processors finish together.
        return max(1, min(most, -(-remaining // (2 * self._count))))

    def _free(self, remaining: int, again: deque[_Task]) -> _Worker | None:
        """A worker that should get a task now; None if none should."""
        if not again and not remaining:
            return None
        if again and again[0].alone:
            idle = next((worker for worker in self._workers if not worker.tasks), None)
            if idle is not None and idle.used:
                # Whatever an earlier file did to the process must not be blamed on this one.
                idle.kill()
                self._workers.remove(idle)
                idle = None
            if idle is None and len(self._workers) < self._count:
                idle = self._start()
            return idle
        if len(self._workers) < self._count and all(worker.tasks for worker in self._workers):
            return self._start()
        able = [
            worker
            for worker in self._workers
            if len(worker.tasks) < _TASKS_A_WORKER and not any(task.alone for task in worker.tasks)
        ]
        return min(able, key=lambda worker: len(worker.tasks), default=None)

    def _start(self) -> _Worker:
        try:
            worker = _Worker(self._format)
        except OSError as error:
            raise ResourceError(
                f"a decoding process cannot be started: {error.strerror or error}",
                "",
                "fewer --workers",
            ) from error
        self._workers.append(worker)
        return worker

    def _attend(self, window: list[_Task], again: deque[_Task]) -> None:
        """Waits for news from the workers, for a moment, and takes it in."""
        poll = min(_POLL_SECONDS, self._timeout / 4)
        by_connection = {worker.connection: worker for worker in self._workers}
        ready = wait(list(by_connection), timeout=poll)
        for connection in ready:
            worker = by_connection[connection]  # type: ignore[index]
            try:
                self._receive(worker)
            except (EOFError, OSError):
                self._replace(worker, window, again, "")
        # Only time that this process has seen pass counts: a suspended machine hangs no file.
        now = time.monotonic()
        passed, self._begin = min(now - self._begin, 2 * poll), now
        for worker in list(self._workers):
            if worker.stuck(passed) > self._timeout:
                reason = f"not decoded after {self._timeout:g} seconds"
                self._replace(worker, window, again, reason)

    def _receive(self, worker: _Worker) -> None:
        header = json.loads(worker.connection.recv_bytes())
        if "ready" in header:
            worker.ready = True
            self._failed_starts = 0
            return
        if "failure" in header:
            raise RuntimeError(f"in a decoding process:\n{header['failure']}")
        frames = worker.connection.recv_bytes()
        lengths = np.frombuffer(worker.connection.recv_bytes(), np.int64)
        hashes = np.frombuffer(worker.connection.recv_bytes(), np.uint64)
        task = worker.finished()
        count = len(task.items)
        problems = [(int(place), str(text)) for place, text in header["problems"]]
        good = np.delete(np.arange(count), [place for place, _ in problems])
        if len(good) != len(lengths) or lengths.sum() != len(frames):
            raise RuntimeError("a decoding process sent something else than records")
        notes = [(int(place), str(text)) for place, text in header["notes"]]
        task.batch = Batch(count, good, frames, lengths, hashes, problems, notes)
        self._seconds_a_file = max(float(header["seconds"]) / count, 1e-6)
        self._tried = max(self._tried, count)

    def _replace(
        self, worker: _Worker, window: list[_Task], again: deque[_Task], reason: str
    ) -> None:
        """Ends a worker that crashed or (with a reason) hangs, and deals with its tasks."""
        place = worker.place()
        exit_code = worker.kill()
        self._workers.remove(worker)
        self._failed_starts += not worker.ready
        if self._failed_starts >= _START_ATTEMPTS:
            raise ResourceError(
                f"the decoding processes end as soon as they start (exit code {exit_code})",
                "",
                "free some memory, or fewer --workers",
            )
        if place is not None:
            task = worker.tasks.popleft()
            parts = _blame(task, place, reason, _crash(exit_code))
            at = window.index(task)
            window[at : at + 1] = parts
            again.extend(part for part in parts if part.batch is None)
        again.extend(worker.tasks)

    def _end(self) -> None:
        for worker in self._workers:
            worker.kill()
        self._workers.clear()


class _Task:
    """A run of items that one worker deals with.

    Attributes:
      items: the items.
      alone: a worker that has done nothing else has to do it, as a file in it is suspect.
      batch: the outcome.
    """

    def __init__(self, items: list[Item], alone: bool = False) -> None:
        self.items, self.alone = items, alone
        self.batch: Batch | None = None

    def fail(self, reason: str) -> None:
        """Makes the first item's problem the outcome."""
        none = np.zeros(0, np.int64)
        self.batch = Batch(1, none, b"", none, none.astype(np.uint64), [(0, reason)], [])


def _blame(task: _Task, place: int, timeout: str, crash: str) -> list[_Task]:
    """The parts of a task that was under way when its process hung or crashed.

    A file that hangs is given up. One that was decoded when the process crashed is tried again in
    a process of its own, and so are its neighbours: a file before it may have damaged the process.
    """
    middle = _Task(task.items[place : place + 1], alone=True)
    first_of_all = task.alone and place == 0
    if timeout or first_of_all:
        middle.fail(timeout or crash)
    before = _Task(task.items[:place], alone=not timeout)
    after = _Task(task.items[place + 1 :], alone=not timeout)
    return [part for part in (before, middle, after) if part.items]


class _Worker:
    """The parent's side of a decoding process.

    Attributes:
      connection: to the process.
      tasks: what it was given and has not delivered, in order.
      ready: it has started.
      used: it has decoded something.
    """

    def __init__(self, image_format: ImageFormat) -> None:
        # Forking a process that has threads (TensorFlow's, a notebook's) can deadlock.
        context = multiprocessing.get_context("spawn")
        self.tasks: deque[_Task] = deque()
        self.ready = self.used = False
        # The serial number of the task that is being worked on, and the place in it.
        self._progress = context.RawArray(ctypes.c_int64, 2)
        self._serials: deque[int] = deque()
        self._held: deque[bytes] = deque()
        self._seen = (0, 0)
        self._stuck = 0.0
        self._step: PostStep | None = None
        self.connection, theirs = context.Pipe()
        with socket.socket(fileno=os.dup(self.connection.fileno())) as end:
            self._buffer = end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 4
        self._process = context.Process(
            target=_work, args=(theirs, self._progress, image_format), daemon=True
        )
        with _main_script_hidden():
            self._process.start()
        theirs.close()

    def give(self, task: _Task, serial: int, step: PostStep | None) -> None:
        """Sends a task, and before it the post-step where that has changed."""
        if self._step is not step:
            self._held.append(pickle.dumps(("step", step)))
            self._step = step
        self._held.append(pickle.dumps(("task", serial, task.items)))
        self.tasks.append(task)
        self._serials.append(serial)
        self._send_held()

    def finished(self) -> _Task:
        """The first task, which was delivered and is taken off the list."""
        self.used = True
        self._serials.popleft()
        task = self.tasks.popleft()
        self._send_held()
        return task

    def _send_held(self) -> None:
        # A process that decodes reads nothing, and more than its buffer holds would keep this one
        # waiting; one that has nothing to do reads at once.
        idle = len(self.tasks) <= 1
        # A dead process shows when its connection is read.
        with suppress(OSError):
            while self._held and (idle or len(self._held[0]) < self._buffer):
                self.connection.send_bytes(self._held.popleft())

    def place(self) -> int | None:
        """The item of the first task that is being decoded; None if it has not been begun."""
        serial, place = self._progress
        if not self.tasks or serial != self._serials[0]:
            return None
        return min(int(place), len(self.tasks[0].items) - 1)

    def stuck(self, passed: float) -> float:
        """Seconds without progress on a file, after ``passed`` more seconds."""
        serial, place = self._progress
        decoding = self.place() == place
        self._stuck = self._stuck + passed if decoding and (serial, place) == self._seen else 0.0
        self._seen = (serial, place)
        return self._stuck

    def kill(self) -> int | None:
        """Ends the process; returns its exit code, None if it does not die."""
        self._process.kill()
        self._process.join(5)
        self.connection.close()
        return self._process.exitcode


@contextmanager
def _main_script_hidden() -> Generator[None]:
    """What starts within does not run the user's script again, guarded or not, nor look for it.

    Nothing that is sent to a worker is defined there.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def processors() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _crash(exit_code: int | None) -> str:
    if exit_code == -signal.SIGKILL:
        return "the decoder was killed on this file, perhaps for its use of memory"
    return f"the decoder crashed on this file (exit code {exit_code})"


def _work(connection: Connection, progress: Any, image_format: ImageFormat) -> None:
    """A worker's life: tasks in, batches out, until the connection closes."""
    # Ctrl-C is the parent's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Pillow warns about oddities of files without naming these; what matters is an error or a note.
    warnings.simplefilter("ignore")
    _end_with_parent()
    _silence()
    _limit(image_format)
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    # Read ahead, so that the next task is there when one is done.
    threading.Thread(target=_listen, args=(connection, messages), daemon=True).start()
    step: PostStep | None = None
    try:
        connection.send_bytes(b'{"ready": true}')
        while True:
            kind, *content = pickle.loads(messages.get())  # noqa: S301 (the parent's)
            if kind == "step":
                step = content[0]
                continue
            serial, items = content
            for part in _encode_task(serial, items, step, progress, image_format):
                connection.send_bytes(part)
    except OSError:
        os._exit(1)
    except Exception:
        connection.send_bytes(json.dumps({"failure": traceback.format_exc()}).encode())


def _listen(connection: Connection, messages: queue.SimpleQueue[bytes]) -> None:
    try:
        while True:
            messages.put(connection.recv_bytes())
    except (EOFError, OSError):
        os._exit(1)


def _end_with_parent() -> None:
    """Has the kernel end this process with its parent, also out of the middle of a file."""
    set_parent_death_signal = 1
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGKILL), 0, 0, 0)


def _silence() -> None:
    # The C libraries below Pillow print what they think of damaged files.
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), sys.__stderr__.fileno() if sys.__stderr__ else 2)


def _limit(image_format: ImageFormat) -> None:
    from PIL import Image

    # Sizes are checked against max_pixels; Pillow's own limit would refuse what that allows.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, image_format.max_pixels)
    try:
        import resource

        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        limit = used + _SPARE_BYTES + _BYTES_A_PIXEL * image_format.max_pixels
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    except (ImportError, OSError, ValueError):
        # Systems without /proc, or without this limit, go without.
        return


def _encode_task(
    serial: int,
    items: Sequence[Item],
    step: PostStep | None,
    progress: Any,
    image_format: ImageFormat,
) -> tuple[bytes, bytes, bytes, bytes]:
    """The four messages of a task: a JSON header, frames, their lengths, hashes."""
    begin = time.monotonic()
    progress[1] = 0
    progress[0] = serial
    images = np.empty((len(items), *image_format.shape), np.uint8)
    good: list[Item] = []
    hashes: list[bytes] = []
    problems: list[tuple[int, str]] = []
    notes: list[tuple[int, str]] = []
    for place, item in enumerate(items):
        progress[1] = place
        remarks: list[str] = []
        problem = item.problem
        if not problem:
            try:
                image = decode_image(
                    item.path,
                    size=(image_format.height, image_format.width),
                    crop=image_format.crop,
                    channels=image_format.channels,
                    max_pixels=image_format.max_pixels,
                    min_side=image_format.min_side,
                    notes=remarks,
                )
            except DataError as error:
                problem = error.what
        if problem:
            problems.append((place, problem))
            continue
        hashes.append(hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest())
        if step is not None and item.number >= 0:
            image = step(image, item.number)
        images[len(good)] = image
        good.append(item)
        notes += [(place, remark) for remark in remarks]
    progress[1] = len(items)
    pngs = encode_pngs(images[: len(good)])
    frames = [
        frame_of(
            encode_example(
                png,
                item.label,
                labeled=item.label >= 0,
                source=item.source if item.source >= 0 else None,
                name=item.name,
                pseudo=item.pseudo if item.pseudo >= 0 else None,
            )
        )
        for png, item in zip(pngs, good, strict=True)
    ]
    lengths = np.fromiter(map(len, frames), np.int64, len(frames))
    header = {"problems": problems, "notes": notes, "seconds": time.monotonic() - begin}
    return json.dumps(header).encode(), b"".join(frames), lengths.tobytes(), b"".join(hashes)
