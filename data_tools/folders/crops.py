"""A folder of pictures of any size to PNG files of one size, in the same arrangement."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data_tools.file_names import alike
from data_tools.folders.staging import StagedFolder
from data_tools.outputs import outside_inputs
from data_tools.pictures.decoding import FILE_TIMEOUT, Decoder, ImageFormat, Item, processors
from data_tools.pictures.file_sample import FileSample
from data_tools.plan import FileUse, Plan, estimate_seconds, resident_bytes
from data_tools.progress import Progress
from realmix_tf.data.images import MAX_PIXELS, ImageEntry, find_images, png_bytes_estimate
from realmix_tf.errors import DataError, UsageError, printable
from realmix_tf.files import require_space

COMMAND = "preprocess_crops"
MARK = "crops.json"
CROPS = ("center", "none")
ON_BAD = ("skip", "error")
SHOWN = 5

_MAX_NAME_BYTES = 255
_BLOCK = 4096  # what file systems give to a file at least


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
      min_side: pictures with a shorter side, in pixels, are refused.
      on_bad: what pictures that cannot be read do: ``skip`` leaves them out, ``error`` ends the
        work after all were tried.
      file_timeout: seconds after which a file is given up.
      overwrite: replace a folder that this tool wrote.
      workers: processes; the number of processors when None.
    """

    source: Path
    output: Path
    size: tuple[int, int]
    crop: str = "center"
    channels: int = 3
    max_pixels: int = MAX_PIXELS
    min_side: int = 1
    on_bad: str = "skip"
    file_timeout: float = FILE_TIMEOUT
    overwrite: bool = False
    workers: int | None = None

    @property
    def image_format(self) -> ImageFormat:
        """What the pictures become."""
        cut = self.crop == "center"
        return ImageFormat(*self.size, self.channels, self.max_pixels, self.min_side, cut)


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


class _Outcome(NamedTuple):
    """The PNG of a file, or why there is none, and remarks."""

    png: bytes
    problem: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Scan:
    """The files, and the names their pictures get; ``bytes`` is what they may take on the disk."""

    entries: list[ImageEntry]
    names: list[str]
    left_out: list[tuple[str, str]]
    bytes: int

    def __len__(self) -> int:
        return len(self.entries)

    def items(self, start: int, stop: int) -> list[Item]:
        """The items start … stop − 1."""
        return [Item(entry.path, entry.problem, "", -1) for entry in self.entries[start:stop]]


def preprocess(options: CropOptions) -> CropResult:
    """Writes every picture below a folder as a PNG file of one size below another.

    Pictures are decoded as for a data set (``decode_image``), in processes of their own, where a
    file that crashes the decoder, hangs or takes too much memory costs one file. Names stay but
    for their ending. What cannot be read is listed in ``crops.json``. The folder appears when it
    is complete.

    Raises:
      UsageError: impossible options, a folder inside the other, or one that may not be replaced.
      DataError: there are no pictures, none can be read, or not all with ``on_bad="error"``.
      ResourceError: the files do not fit or cannot be written.
    """
    staged = _check(options)
    scan = _scan(options)
    require_space(options.output, scan.bytes, f"{len(scan)} pictures")
    unreadable: list[tuple[str, str]] = []
    remarks: list[tuple[str, str]] = []
    with staged:
        with (
            Progress(len(scan), "images", "cropping") as progress,
            Decoder(options.image_format, options.workers, options.file_timeout) as decoder,
        ):
            outcomes = _outcomes(decoder, scan)
            for entry, name, outcome in zip(scan.entries, scan.names, outcomes, strict=True):
                if outcome.problem:
                    unreadable.append((entry.name, outcome.problem))
                else:
                    staged.write(name, outcome.png)
                remarks += [(entry.name, note) for note in outcome.notes]
                progress.add(1)
        _require_readable(options, unreadable, len(scan))
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
        len(scan) - len(unreadable),
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
    require_space(options.output, scan.bytes, f"{len(scan)} pictures")
    with Decoder(options.image_format, options.workers, options.file_timeout) as decoder:
        sample = FileSample(decoder, [scan])
        seconds = estimate_seconds(len(scan), sample.run)
    read = 0
    for entry in scan.entries:
        # What has gone meanwhile is found when it is decoded.
        with contextlib.suppress(OSError):
            read += 0 if entry.problem else os.path.getsize(entry.path)
    return Plan(
        reads=(FileUse(str(options.source), read),),
        writes=(FileUse(str(options.output), scan.bytes),),
        memory=resident_bytes() * (1 + (options.workers or processors())),
        seconds=seconds,
        facts={"files": len(scan), "left_out": len(scan.left_out)},
        notes=(*_notes(scan, _renamed(scan), []), *sample.notes()),
    )


def _check(options: CropOptions) -> StagedFolder:
    if options.crop not in CROPS:
        raise UsageError(f"there is no crop {options.crop!r}", "--crop", " or ".join(CROPS))
    if options.channels not in (1, 3) or options.max_pixels < 1:
        raise UsageError("channels or max_pixels is out of range", "", "--channels=1 or 3")
    if options.min_side < 1:
        raise UsageError(f"min_side is {options.min_side}", "", "--min_side from 1")
    if options.on_bad not in ON_BAD:
        raise UsageError(f"on_bad is {options.on_bad!r}", "", "--on_bad=skip or error")
    if not 0 < options.file_timeout < 86_400:
        raise UsageError(f"file_timeout is {options.file_timeout:g} seconds", "", "60")
    if options.workers is not None and not 1 <= options.workers <= 1024:
        raise UsageError(f"{options.workers} workers", "", "--workers from 1 to 1024")
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


def _outcomes(decoder: Decoder, scan: _Scan) -> Iterator[_Outcome]:
    """What became of the files, in order."""
    for batch in decoder.encode(len(scan), scan.items):
        pngs = dict(zip(batch.good.tolist(), batch.pngs(), strict=True))
        problems = dict(batch.problems)
        for place in range(batch.items):
            notes = tuple(note for at, note in batch.notes if at == place)
            yield _Outcome(pngs.get(place, b""), problems.get(place, ""), notes)


def _require_readable(
    options: CropOptions, unreadable: Sequence[tuple[str, str]], tried: int
) -> None:
    shown = "; ".join(f"{name}: {reason}" for name, reason in unreadable[:SHOWN])
    if len(unreadable) == tried:
        raise DataError(f"none of {tried} files can be read: {shown}", options.source)
    if unreadable and options.on_bad == "error":
        raise DataError(
            f"{len(unreadable)} of {tried} files cannot be read: {shown}",
            options.source,
            "repair or remove them, or --on_bad=skip",
        )
