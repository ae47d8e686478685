"""A folder of pictures of any size to PNG files of one size, in the same arrangement."""

from __future__ import annotations

import contextlib
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
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_tools.file_names import alike
from data_tools.folders.staging import StagedFolder
from data_tools.outputs import outside_inputs
from data_tools.pictures.decoding import processors
from data_tools.plan import FileUse, Plan, estimate_seconds, resident_bytes
from data_tools.progress import Progress
from realmix_tf.data.images import (
    MAX_PIXELS,
    ImageEntry,
    UInt8Array,
    decode_image,
    encode_png,
    find_images,
    png_bytes_estimate,
)
from realmix_tf.errors import DataError, UsageError, printable
from realmix_tf.files import require_space

COMMAND = "preprocess_crops"
MARK = "crops.json"
CROPS = ("center", "none")
SHOWN = 5

_MAX_NAME_BYTES = 255
_BLOCK = 4096  # what file systems give to a file at least
_AHEAD = 3  # files under way for each process
_SAMPLE = 20


@dataclass(frozen=True)
class CropOptions:
    """What to make of which pictures.

    Attributes:
      source: the folder of the pictures.
      output: the folder to make.
      size: (height, width) in pixels.
      crop: ``center`` cuts off what is too much of the longer side, on both ends alike; ``none``
        stretches.
      channels: 1 or 3.
      max_pixels: larger pictures are refused.
      overwrite: replace a folder that this tool wrote.
      workers: processes; the number of processors when None.
    """

    source: Path
    output: Path
    size: tuple[int, int]
    crop: str = "center"
    channels: int = 3
    max_pixels: int = MAX_PIXELS
    overwrite: bool = False
    workers: int | None = None


@dataclass(frozen=True)
class CropResult:
    """What was written.

    Attributes:
      output: the folder.
      files: pictures in it.
      unreadable: (relative name, reason) of files that are no picture, or a damaged one.
      renamed: (relative name, new name) of those that could not simply end in .png.
      notes: remarks.
    """

    output: Path
    files: int
    unreadable: tuple[tuple[str, str], ...]
    renamed: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


class _Task(NamedTuple):
    path: str
    size: tuple[int, int]
    crop: str
    channels: int
    max_pixels: int


class _Outcome(NamedTuple):
    png: bytes
    problem: str
    notes: tuple[str, ...]


class _Scan(NamedTuple):
    entries: list[ImageEntry]
    names: list[str]
    left_out: list[tuple[str, str]]
    bytes: int


def preprocess(options: CropOptions) -> CropResult:
    """Writes every picture below a folder as a PNG file of one size below another.

    Pictures are decoded as for a data set (``decode_image``), in processes of their own, where a
    file that crashes the decoder costs one file. Names stay but for their ending. What cannot be
    read is listed in ``crops.json``. The folder appears when it is complete.

    Raises:
      UsageError: impossible options, a folder inside the other, or one that may not be replaced.
      DataError: there are no pictures, or none can be read.
      ResourceError: the files do not fit or cannot be written.
    """
    staged = _check(options)
    scan = _scan(options)
    require_space(options.output, scan.bytes, f"{len(scan.entries)} pictures")
    unreadable: list[tuple[str, str]] = []
    remarks: list[tuple[str, str]] = []
    with staged, _crashes_survived():
        with Progress(len(scan.entries), "images", "cropping") as progress:
            for entry, name, outcome in zip(
                scan.entries, scan.names, _outcomes(scan.entries, options), strict=True
            ):
                if outcome.problem:
                    unreadable.append((entry.name, outcome.problem))
                else:
                    staged.write(name, outcome.png)
                remarks += [(entry.name, note) for note in outcome.notes]
                progress.add(1)
        if len(unreadable) == len(scan.entries):
            shown = "; ".join(f"{name}: {reason}" for name, reason in unreadable[:SHOWN])
            raise DataError(f"none of {len(unreadable)} files can be read: {shown}", options.source)
        renamed = _renamed(scan)
        staged.commit(
            {
                "img_size": list(options.size),
                "crop": options.crop,
                "channels": options.channels,
                "unreadable": _json("reason", unreadable),
                "renamed": _json("file", renamed),
                "notes": _json("note", remarks),
                "left_out": _json("reason", scan.left_out),
            }
        )
    return CropResult(
        staged.output,
        len(scan.entries) - len(unreadable),
        tuple(unreadable),
        tuple(renamed),
        tuple(_notes(scan, renamed, unreadable)),
    )


def plan_crops(options: CropOptions) -> Plan:
    """What ``preprocess`` would do; the time comes from some of the pictures.

    Raises:
      UsageError, DataError, ResourceError: as ``preprocess`` before it decodes.
    """
    _check(options).check()
    scan = _scan(options)
    require_space(options.output, scan.bytes, f"{len(scan.entries)} pictures")
    some = scan.entries[:: max(len(scan.entries) // _SAMPLE, 1)][:_SAMPLE]
    outcomes = _one_by_one([*some[:1], *some], options)

    def sample() -> int:
        return sum(1 for _ in outcomes)

    workers = options.workers or processors()
    with _crashes_survived():
        # The process takes longer to start than the sample does.
        next(outcomes)
        seconds = estimate_seconds(len(scan.entries), sample) / workers
    read = sum(os.path.getsize(e.path) for e in scan.entries if not e.problem)
    return Plan(
        reads=(FileUse(str(options.source), read),),
        writes=(FileUse(str(options.output), scan.bytes),),
        memory=resident_bytes() * (1 + workers),
        seconds=seconds,
        facts={"files": len(scan.entries), "left_out": len(scan.left_out)},
        notes=tuple(_notes(scan, _renamed(scan), [])),
    )


def cropped(
    path: str,
    size: tuple[int, int],
    crop: str,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
    notes: list[str] | None = None,
) -> UInt8Array:
    """Decodes a picture to a size (see ``decode_image``).

    Args:
      path: the file.
      size: (height, width) in pixels.
      crop: ``center`` or ``none``; see ``CropOptions``.
      channels: 1 or 3.
      max_pixels: larger pictures are refused.
      notes: receives remarks.

    Returns:
      uint8 [height, width, channels].

    Raises:
      DataError: it is no picture, or a damaged one.
    """
    if crop == "none":
        return decode_image(path, size=size, channels=channels, max_pixels=max_pixels, notes=notes)
    pixels = decode_image(path, size=None, channels=channels, max_pixels=max_pixels, notes=notes)
    image = Image.fromarray(pixels if channels == 3 else pixels[:, :, 0])
    height, width = size
    # The largest part of the wanted shape; its sides need not be whole pixels.
    scale = min(image.height / height, image.width / width)
    top, left = (image.height - scale * height) / 2, (image.width - scale * width) / 2
    right = min(left + scale * width, image.width)
    bottom = min(top + scale * height, image.height)
    box = (left, top, right, bottom)
    image = image.resize((width, height), Image.Resampling.LANCZOS, box, reducing_gap=3.0)
    result = np.asarray(image, np.uint8)
    return result if channels == 3 else result[:, :, None]


def _check(options: CropOptions) -> StagedFolder:
    if options.crop not in CROPS:
        raise UsageError(f"there is no crop {options.crop!r}", "--crop", " or ".join(CROPS))
    if options.channels not in (1, 3) or options.max_pixels < 1:
        raise UsageError("channels or max_pixels is out of range", "", "--channels=1 or 3")
    if options.workers is not None and options.workers < 1:
        raise UsageError(f"--workers is {options.workers}", "", "at least 1")
    outside_inputs([options.output], [options.source], "another --output")
    staged = StagedFolder(options.output, MARK, COMMAND, options.overwrite)
    staged.check()
    return staged


def _scan(options: CropOptions) -> _Scan:
    left_out: list[tuple[str, str]] = []
    entries = find_images(options.source, left_out)
    if not entries:
        raise DataError("there are no pictures in this folder", options.source, "another folder")
    each = -(-png_bytes_estimate(*options.size, options.channels) // _BLOCK) * _BLOCK
    return _Scan(entries, _names(entries), left_out, len(entries) * each)


def _names(entries: Sequence[ImageEntry]) -> list[str]:
    """A name ending in .png for every file: ``a.jpg`` → ``a.png``, or ``a.jpg.png`` where that is
    another's."""
    taken = {("", alike(MARK))}
    for entry in entries:
        folder, old = os.path.split(entry.name)
        if old.endswith(".png"):
            taken.add((folder, alike(old)))
        # A folder may be called x.png too.
        while folder:
            folder, name = os.path.split(folder)
            taken.add((folder, alike(name)))
    names = []
    for entry in entries:
        folder, old = os.path.split(entry.name)
        if old.endswith(".png"):
            names.append(entry.name)
            continue
        new = next(name for name in _candidates(old) if (folder, alike(name)) not in taken)
        taken.add((folder, alike(new)))
        names.append(os.path.join(folder, new))
    return names


def _candidates(old: str) -> Iterator[str]:
    stem = os.path.splitext(old)[0]
    yield _cut(stem, ".png")
    yield _cut(old, ".png")
    number = 2
    while True:
        yield _cut(old, f"_{number}.png")
        number += 1


def _cut(stem: str, end: str) -> str:
    """``stem + end``, the stem shortened where a name cannot be that long."""
    return os.fsdecode(os.fsencode(stem)[: _MAX_NAME_BYTES - len(end)]) + end


def _renamed(scan: _Scan) -> list[tuple[str, str]]:
    return [
        (entry.name, name)
        for entry, name in zip(scan.entries, scan.names, strict=True)
        if name != entry.name and name != os.path.splitext(entry.name)[0] + ".png"
    ]


def _notes(
    scan: _Scan, renamed: Sequence[tuple[str, str]], unreadable: Sequence[tuple[str, str]]
) -> Iterator[str]:
    if unreadable:
        yield (
            f"{len(unreadable)} files could not be read, such as {unreadable[0][0]!r}: "
            f"{unreadable[0][1]} (all in {MARK})"
        )
    if renamed:
        yield (
            f"{len(renamed)} names were taken or too long, such as {renamed[0][0]!r}, which became "
            f"{renamed[0][1]!r}"
        )
    if scan.left_out:
        yield f"{len(scan.left_out)} hidden files and links to folders were passed over"


def _json(key: str, items: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"path": printable(name), key: printable(text)} for name, text in items]


@contextlib.contextmanager
def _crashes_survived() -> Iterator[None]:
    """Commands let a closed pipe end them; here it is a process that crashed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGPIPE, handler)


def _outcomes(entries: Sequence[ImageEntry], options: CropOptions) -> Iterator[_Outcome]:
    """What became of the files, in order; a bounded number is under way at any time."""
    workers = min(options.workers or processors(), len(entries))
    waiting: deque[Future[_Outcome]] = deque()
    first = 0
    pool = _pool(workers)
    try:
        while first < len(entries):
            try:
                while len(waiting) < _AHEAD * workers and first + len(waiting) < len(entries):
                    entry = entries[first + len(waiting)]
                    waiting.append(pool.submit(_work, entry.problem, _task(entry, options)))
                outcome = waiting[0].result()
            except BrokenProcessPool:
                # One of the files under way ended its process, and with it the whole pool.
                pool.shutdown(cancel_futures=True)
                suspects = entries[first : first + max(len(waiting), 1)]
                waiting.clear()
                yield from _one_by_one(suspects, options)
                first += len(suspects)
                pool = _pool(workers)
                continue
            waiting.popleft()
            first += 1
            yield outcome
    finally:
        pool.shutdown(cancel_futures=True)


def _one_by_one(entries: Sequence[ImageEntry], options: CropOptions) -> Iterator[_Outcome]:
    pool = _pool(1)
    try:
        for entry in entries:
            try:
                yield pool.submit(_work, entry.problem, _task(entry, options)).result()
            except BrokenProcessPool:
                yield _Outcome(b"", "the decoder crashed on this file", ())
                pool.shutdown()
                pool = _pool(1)
    finally:
        pool.shutdown(cancel_futures=True)


def _task(entry: ImageEntry, options: CropOptions) -> _Task:
    return _Task(entry.path, options.size, options.crop, options.channels, options.max_pixels)


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


def _work(problem: str, task: _Task) -> _Outcome:
    if problem:
        return _Outcome(b"", problem, ())
    notes: list[str] = []
    try:
        image = cropped(*task, notes)
    except DataError as error:
        return _Outcome(b"", error.what, ())
    return _Outcome(encode_png(image), "", tuple(notes))
