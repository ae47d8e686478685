"""What is in record files: classes, sizes, pixel statistics, and a sheet of pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.looking import sheets
from data_tools.looking.image_sets import ImageSet, open_sets
from data_tools.looking.inputs import FILE_ROLES, SUFFIX, Inputs
from data_tools.plan import FileUse, Plan, estimate_seconds, files, resident_bytes
from data_tools.progress import Progress
from realmix_tf.data.pixels import BLOCK_BYTES, decode_records, decoded_blocks
from realmix_tf.data.records import RecordReader
from realmix_tf.errors import UsageError, printable
from realmix_tf.files import human_bytes

MOST_PICTURES = 64  # of one row of a sheet
MOST_ROWS = 1000
_BAR = 40
_CELL = 64
_SHOWN_CLASSES = 200  # rows of a histogram in text
_SAMPLE = 256
_BYTES_PER_RECORD = 80

Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class InspectOptions:
    """What to look at.

    Attributes:
      inputs: record files, or a dataset with its sets.
      limit: decode at most so many records of each set, spread over it; None for all.
      grid: PNG file that shows pictures of every class; None for none.
      per_class: pictures of each class in it.
      overwrite: replace that file.
    """

    inputs: Inputs
    limit: int | None = None
    grid: Path | None = None
    per_class: int = 12
    overwrite: bool = False


@dataclass(frozen=True)
class Inspection:
    """What is in one set.

    Attributes:
      name, file: as ``ImageSet``.
      records: how many; labeled, pseudo_labeled, unlabeled: by what is known; copies: made from
        another record.
      classes: names; per_class: labelled records of each; pseudo_per_class: pseudo-labelled ones.
      height, width, channels: of every image.
      bytes: of the set's records in the file; png_least, png_mean, png_most: of an image's PNG.
      decoded: records that the following come from.
      mean, std: a channel, in [0, 1]; lowest, highest: pixel values, in 0..255.
    """

    name: str
    file: str
    records: int
    labeled: int
    pseudo_labeled: int
    unlabeled: int
    copies: int
    classes: tuple[str, ...]
    per_class: tuple[int, ...]
    pseudo_per_class: tuple[int, ...]
    height: int
    width: int
    channels: int
    bytes: int
    png_least: int
    png_mean: float
    png_most: int
    decoded: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    lowest: int
    highest: int

    def as_json(self) -> dict[str, Any]:
        """The set as JSON-able data."""
        return asdict(self)


@dataclass(frozen=True)
class DatasetInspection:
    """What is in each set, and remarks about how a dataset is divided into them."""

    sets: tuple[Inspection, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The sets and remarks as JSON-able data."""
        return {"sets": [item.as_json() for item in self.sets], "notes": list(self.notes)}


def inspect_dataset(options: InspectOptions) -> DatasetInspection:
    """Looks at every set; each record is decoded once and not kept.

    Raises:
      DataError: a file is missing or damaged.
      UsageError: impossible numbers, or the sheet of pictures exists.
    """
    _check(options)
    with ExitStack() as stack:
        sets, notes = _open(options, stack)
        chosen = [_chosen(item.ids, options.limit) for item in sets]
        with Progress(sum(map(len, chosen)), "images", "reading") as progress:
            pairs = zip(sets, chosen, strict=True)
            found = tuple(_inspect(item, ids, progress) for item, ids in pairs)
        if options.grid is not None:
            sheets.save(_grid(sets, options.per_class), options.grid)
    return DatasetInspection(found, tuple(notes))


def plan_inspection(options: InspectOptions) -> Plan:
    """What ``inspect_dataset`` would do.

    Raises:
      DataError, UsageError: as ``inspect_dataset``.
    """
    _check(options)
    with ExitStack() as stack:
        sets, notes = _open(options, stack)
        item = max(sets, key=lambda item: len(item.ids))
        total = sum(len(_chosen(item.ids, options.limit)) for item in sets)

        def sample() -> int:
            blocks = decoded_blocks(item.reader, item.ids[:_SAMPLE])
            return sum(len(images) for _, images in blocks)

        writes: tuple[FileUse, ...] = ()
        if options.grid is not None:
            rows = min(sum(len(item.reader.classes) + 1 for item in sets), MOST_ROWS)
            estimate = rows * options.per_class * _CELL**2 * 3
            writes = (FileUse(str(options.grid), estimate),)
        return Plan(
            reads=files(dict.fromkeys(item.reader.path for item in sets)),
            writes=writes,
            memory=resident_bytes()
            + sum(len(item.reader) for item in sets) * _BYTES_PER_RECORD
            + 16 * BLOCK_BYTES,
            seconds=estimate_seconds(total, sample),
            facts={"images": {item.name: len(item.ids) for item in sets}},
            notes=tuple(notes),
        )


def describe(found: Sequence[Inspection]) -> str:
    """The sets for people, with a bar a class."""
    return "\n\n".join("\n".join(_lines(item)) for item in found)


def _check(options: InspectOptions) -> None:
    sheets.check_target(options.grid, options.overwrite)
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"--limit is {options.limit}", "", "at least 1")
    if not 1 <= options.per_class <= MOST_PICTURES:
        raise UsageError(f"--per_class is {options.per_class}", "", f"1..{MOST_PICTURES}")


def _open(options: InspectOptions, stack: ExitStack) -> tuple[list[ImageSet], list[str]]:
    """The sets of a split; of a whole dataset its files, with what is not trained on too."""
    inputs = options.inputs
    name = inputs.name
    if name is not None and not name.is_split and not name.valid:
        paths = (inputs.data_dir / f"{name.dataset}-{role}{SUFFIX}" for role in FILE_ROLES)
        inputs = Inputs(tuple(path for path in paths if path.exists()))
    return open_sets(inputs, stack)


def _chosen(ids: Int64Array, limit: int | None) -> Int64Array:
    """At most ``limit`` of the ids, evenly spread: files are often sorted by class."""
    return ids if limit is None else ids[_spread(len(ids), limit)]


def _inspect(item: ImageSet, decoded: Int64Array, progress: Progress) -> Inspection:
    reader, ids = item.reader, item.ids
    labels, pseudo = reader.labels[ids], reader.pseudo_labels[ids]
    classes = reader.classes
    most = max(int(labels.max(initial=-1)), int(pseudo.max(initial=-1))) + 1
    classes += tuple(map(str, range(len(classes), most)))  # without a manifest there are no names
    shape = reader.image_shape if len(reader) else (0, 0, 0)
    pngs = reader.index.image_ends[ids] - reader.index.image_starts[ids]
    pixels = _Pixels(shape[2])
    for _, images in decoded_blocks(reader, decoded):
        pixels.add(images)
        progress.add(len(images))
    mean, std = pixels.statistics()
    return Inspection(
        name=item.name,
        file=str(reader.path),
        records=len(ids),
        labeled=int((labels >= 0).sum()),
        pseudo_labeled=int((pseudo >= 0).sum()),
        unlabeled=int(((labels < 0) & (pseudo < 0)).sum()),
        copies=int((reader.sources[ids] >= 0).sum()),
        classes=classes,
        per_class=_histogram(labels, len(classes)),
        pseudo_per_class=_histogram(pseudo, len(classes)),
        height=shape[0],
        width=shape[1],
        channels=shape[2],
        bytes=int(reader.sizes()[ids].sum()),
        png_least=int(pngs.min()) if len(pngs) else 0,
        png_mean=float(pngs.mean()) if len(pngs) else 0.0,
        png_most=int(pngs.max(initial=0)),
        decoded=len(decoded),
        mean=mean,
        std=std,
        lowest=pixels.lowest,
        highest=pixels.highest,
    )


def _histogram(labels: Int64Array, classes: int) -> tuple[int, ...]:
    return tuple(np.bincount(labels[labels >= 0], minlength=classes).tolist())


class _Pixels:
    """Counts of every pixel value a channel, from which all statistics follow exactly."""

    def __init__(self, channels: int) -> None:
        self._counts = np.zeros((channels, 256), np.int64)

    def add(self, images: NDArray[np.uint8]) -> None:
        for channel in range(images.shape[3]):
            values = np.ascontiguousarray(images[..., channel]).ravel()
            self._counts[channel] += np.bincount(values, minlength=256)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation a channel, in [0, 1]."""
        total = self._counts.sum(1)
        if not total.all():
            return (), ()
        values = np.arange(256) / 255
        mean = self._counts @ values / total
        variance = self._counts @ values**2 / total - mean**2
        std = np.sqrt(np.maximum(variance, 0))
        return tuple(mean.round(6).tolist()), tuple(std.round(6).tolist())

    @property
    def lowest(self) -> int:
        return int(np.argmax(self._counts.any(0)))

    @property
    def highest(self) -> int:
        found = np.flatnonzero(self._counts.any(0))
        return int(found[-1]) if len(found) else 0


def _lines(item: Inspection) -> Iterable[str]:
    size = f"{item.height}×{item.width}×{item.channels}"
    yield printable(f"{item.name}: {item.records} records of {size}, {human_bytes(item.bytes)}")
    yield f"  {item.file}"
    yield (
        f"  {item.labeled} labelled, {item.pseudo_labeled} pseudo-labelled, "
        f"{item.unlabeled} without a label; {item.copies} copies"
    )
    yield (
        f"  PNG {human_bytes(item.png_least)} to {human_bytes(item.png_most)}, "
        f"mean {human_bytes(item.png_mean)}"
    )
    if item.decoded:
        of = "" if item.decoded == item.records else f" (of {item.decoded} decoded records)"
        channels = zip(item.mean, item.std, strict=True)
        shown = ", ".join(f"{mean:.4f} ± {std:.4f}" for mean, std in channels)
        yield f"  pixels {item.lowest}..{item.highest}, mean ± std a channel {shown}{of}"
    if any(item.per_class):
        yield from _bars(item, item.per_class, "labelled")
    if any(item.pseudo_per_class):
        yield from _bars(item, item.pseudo_per_class, "pseudo-labelled")


def _bars(item: Inspection, counts: Sequence[int], what: str) -> Iterable[str]:
    names = [printable(name)[:30] for name in item.classes]
    width = max(map(len, names[:_SHOWN_CLASSES]))
    digits, most, total = len(str(max(counts))), max(counts), sum(counts)
    yield f"  {what}, by class:"
    rows = list(enumerate(zip(names, counts, strict=True)))
    for number, (name, count) in rows[:_SHOWN_CLASSES]:
        bar = "█" * max(round(_BAR * count / most), 1 if count else 0)
        share = f"{100 * count / total:5.1f} %"
        yield f"  {number:>4} {name:<{width}} {count:>{digits}} {share} {bar}"
    if len(rows) > _SHOWN_CLASSES:
        yield f"  and {len(rows) - _SHOWN_CLASSES} more classes (--json has them)"


def _grid(sets: Sequence[ImageSet], per_class: int) -> Any:
    rows: list[sheets.Row] = []
    left_out = 0
    for item in sets:
        for row in _rows(item, per_class):
            if len(rows) < MOST_ROWS:
                rows.append(row)
            else:
                left_out += 1
    title = [f"{item.name}: {len(item.ids)} images, {item.reader.path.name}" for item in sets[:8]]
    if left_out:
        title.append(f"{left_out} more rows are not shown")
    return sheets.sheet(title, rows, _CELL, 190)


def _rows(item: ImageSet, per_class: int) -> Iterable[sheets.Row]:
    """A row a class, then one of pseudo-labelled and one of other images."""
    reader = item.reader
    labels, pseudo = reader.labels[item.ids], reader.pseudo_labels[item.ids]
    for number, name in enumerate(reader.classes):
        members = item.ids[labels == number]
        if len(members):
            # The number shows the class also where the font lacks the name's letters.
            lines = (f"{number} {name}", f"{len(members)} in {item.name}")
            yield sheets.Row(lines, _pictures(reader, members, per_class))
    for members, what in (
        (item.ids[pseudo >= 0], "pseudo-labelled"),
        (item.ids[(labels < 0) & (pseudo < 0)], "without a label"),
    ):
        if len(members):
            lines = (what, f"{len(members)} in {item.name}")
            yield sheets.Row(lines, _pictures(reader, members, per_class))


def _pictures(reader: RecordReader, ids: Int64Array, count: int) -> list[NDArray[np.uint8]]:
    """At most ``count`` images, evenly spread."""
    return [decode_records(reader, ids[k : k + 1])[0] for k in _spread(len(ids), count).tolist()]


def _spread(count: int, most: int) -> Int64Array:
    """At most ``most`` of 0 … count − 1, evenly spread."""
    return np.arange(min(count, most)) * count // max(min(count, most), 1)
