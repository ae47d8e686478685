"""Keeping only some classes of a record file, for the study of mismatched classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_tools.progress import Progress
from realmix_tf.data.manifest import provenance
from realmix_tf.data.names import check_dataset
from realmix_tf.data.records import (
    RecordReader,
    RecordWriter,
    encode_example,
    frame_of,
    refuse_existing,
)
from realmix_tf.errors import DataError, UsageError
from realmix_tf.files import require_space

COMMAND = "filter_dataset"
_ROLES = {
    "train": "train",
    "test": "test",
    "label": "label",
    "unlabel": "unlabel",
    "unlabeled": "unlabeled",
    "extra": "extra",
}


@dataclass(frozen=True)
class FilterOptions:
    """What to keep.

    Attributes:
      source: the record file to read.
      output: the record file to write.
      classes: ids or names of the classes to keep.
      keep_ids: leave the ids as they are instead of numbering the kept classes from 0.
      unlabeled: write the kept records without their labels.
      overwrite: replace an existing output.
    """

    source: Path
    output: Path
    classes: tuple[str, ...]
    keep_ids: bool = False
    unlabeled: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class FilterResult:
    """What was kept (names → counts), what was dropped, and the map old id → new id."""

    file: Path
    kept: dict[str, int]
    dropped: int
    dropped_without_label: int
    class_map: dict[int, int]
    notes: tuple[str, ...]


def filter_dataset(options: FilterOptions) -> FilterResult:
    """Writes the records of the listed classes, in the order of the source.

    Kept classes are numbered 0..K−1 by ascending old id; the manifest states the map. Records
    without a true label are dropped and counted, since nobody knows their class.

    Raises:
      UsageError: an unknown class, the source as output, or an output that exists.
      DataError: the source is damaged, or nothing is left.
    """
    if options.output.resolve() == options.source.resolve():
        raise UsageError(
            "the output would replace the source", options.source, "another --save_name"
        )
    if not options.output.name.endswith(".tfrecord"):
        raise UsageError("the output's name must end in .tfrecord", options.output, "--save_name")
    if not options.overwrite:
        refuse_existing(options.output)
    with RecordReader(options.source) as reader:
        kept_ids = _class_ids(options.classes, reader.classes)
        names = reader.classes
        class_map = {old: old if options.keep_ids else new for new, old in enumerate(kept_ids)}
        classes = names if options.keep_ids else tuple(names[old] for old in kept_ids)
        require_space(options.output.parent, reader.path.stat().st_size, "the filtered file")
        role = reader.manifest.role if reader.manifest else _role(options.source)
        origin = provenance(
            f"{COMMAND} --class_filter={','.join(map(str, kept_ids))} "
            f"--filter_dataset={options.source.name} --save_name={options.output.name}"
            + (" --keep_ids" if options.keep_ids else "")
            + (" --unlabeled" if options.unlabeled else ""),
            parents=[options.source],
            more={"class_map": {str(old): new for old, new in class_map.items()}},
        )
        labels = reader.labels.tolist()
        counts = dict.fromkeys(kept_ids, 0)
        with (
            RecordWriter(
                options.output,
                dataset=_dataset(options.output),
                role="unlabeled" if options.unlabeled and role in ("train", "test") else role,
                classes=classes,
                shape=reader.image_shape,
                provenance=origin,
                overwrite=options.overwrite,
            ) as writer,
            Progress(len(labels), "records", "filtering") as progress,
        ):
            for i, old in enumerate(labels):
                if old in class_map:
                    counts[old] += 1
                    _write(writer, reader, i, old, class_map[old], options.unlabeled)
                progress.add(1)
            if not writer.records:
                raise DataError("no record is of these classes", options.source, "--class_filter")
    return FilterResult(
        file=options.output,
        kept={names[old]: count for old, count in counts.items()},
        dropped=sum(label >= 0 for label in labels) - sum(counts.values()),
        dropped_without_label=sum(label < 0 for label in labels),
        class_map=class_map,
        notes=()
        if reader.manifest
        else (f"{options.source.name}: no manifest, so every label is taken as true",),
    )


def _write(
    writer: RecordWriter, reader: RecordReader, i: int, old: int, new: int, unlabeled: bool
) -> None:
    if new == old and not unlabeled:
        writer.write_frame(reader.frame(i), old)
        return
    record = reader.record(i)
    label = -1 if unlabeled else new
    example = encode_example(
        record.image, label, labeled=not unlabeled, source=record.source, name=record.name
    )
    writer.write_frame(frame_of(example), label)


def _class_ids(wanted: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Ids of the wanted classes, ascending; a text is an id where it is a number in range."""
    if not wanted:
        raise UsageError("no class to keep was given", "", "--class_filter=2,3,4")
    ids = set()
    for text in wanted:
        if text.isascii() and text.isdigit() and int(text) < len(classes):
            ids.add(int(text))
        elif text in classes:
            ids.add(classes.index(text))
        else:
            known = ", ".join(classes[:20]) + (", …" if len(classes) > 20 else "")
            raise UsageError(
                f"there is no class {text!r}", "--class_filter", f"0..{len(classes) - 1} or {known}"
            )
    return sorted(ids)


def _role(path: Path) -> str:
    return _ROLES.get(path.name.removesuffix(".tfrecord").rpartition("-")[2], "train")


def _dataset(path: Path) -> str:
    """``cifar6.1@250-label.tfrecord`` → ``cifar6``."""
    stem = path.name.removesuffix(".tfrecord")
    base, _, ending = stem.rpartition("-")
    if ending in _ROLES and base:
        stem = base
    before, _, sizes = stem.rpartition("@")
    if before and sizes.isdigit():
        stem = before.rpartition(".")[0] or before
    return check_dataset(stem)
