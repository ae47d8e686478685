"""Datasets from a user's own images: class folders, or files named ``{number}_{class}.ext``."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.decoding import Encoded, ImageFormat, encode_files
from data_tools.ordering import class_mixed_order
from data_tools.outputs import OutputSet, outside_inputs, writable
from data_tools.progress import Progress
from data_tools.sources import COMMAND, SourceResult
from realmix_tf.data.images import MAX_PIXELS, ImageEntry, find_images, png_bytes_estimate
from realmix_tf.data.manifest import provenance
from realmix_tf.data.names import check_dataset
from realmix_tf.data.records import RecordWriter, encode_example
from realmix_tf.errors import DataError, UsageError, printable
from realmix_tf.files import require_space, write_json

ORDER_SEED = 0
SHOWN = 5

_FLAT_NAME = re.compile(r"[0-9]+_(?P<name>.+)\.[^.]+", re.DOTALL)
_EXPECTED = "a folder per class, or files named {number}_{class}.ext such as 007_red_fox.png"


@dataclass(frozen=True)
class CustomOptions:
    """What to build from.

    Attributes:
      name: of the dataset.
      data_dir: where the records go.
      train_dir: labelled training images.
      test_dir: labelled test images.
      unlabel_dir: unlabelled images in any arrangement; None for none.
      size: (height, width) of the records' images, in pixels.
      channels: 1 or 3.
      max_pixels: larger images are refused.
      allow_missing: a class of the training folder may be missing in the test folder.
      overwrite: replace an existing dataset of this name.
      workers: decoding processes; the number of processors when None.
    """

    name: str
    data_dir: Path
    train_dir: Path
    test_dir: Path
    unlabel_dir: Path | None = None
    size: tuple[int, int] = (32, 32)
    channels: int = 3
    max_pixels: int = MAX_PIXELS
    allow_missing: bool = False
    overwrite: bool = False
    workers: int | None = None


@dataclass(frozen=True)
class LabeledFolder:
    """A scanned folder: files with the names of their classes, and what was left out."""

    entries: tuple[ImageEntry, ...]
    classes: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The class names that occur, sorted."""
        return tuple(sorted(set(self.classes)))


def scan_labeled(folder: Path) -> LabeledFolder:
    """Finds labelled images: in class folders where there are any, else by file names.

    Files in folders within a class folder belong to that class. Class names are compared in
    Unicode's composed form, so that folders copied between systems stay the same class.

    Raises:
      DataError: no images, an empty class folder, or a name that gives no class.
    """
    skipped: list[tuple[str, str]] = []
    entries = find_images(folder, skipped)
    folders = _class_folders(folder, skipped)
    if not folders:
        return _scan_flat(folder, entries, skipped)
    inside: list[ImageEntry] = []
    loose: list[ImageEntry] = []
    for entry in entries:
        # A class folder that cannot be listed is an entry itself, with its problem.
        belongs = "/" in entry.name or entry.name in folders
        (inside if belongs else loose).append(entry)
    mixed = [entry for entry in loose if _FLAT_NAME.fullmatch(entry.name)]
    if mixed:
        raise DataError(
            f"{len(mixed)} files lie beside the class folders, such as {mixed[0].name!r}",
            folder,
            _EXPECTED + ", not both",
        )
    skipped += [(entry.name, "not in a class folder") for entry in loose]
    classes = [_class_name(entry.name.split("/")[0], entry.path) for entry in inside]
    empty = sorted({_class_name(name, folder) for name in folders} - set(classes))
    if empty:
        raise DataError(
            f"no images in the class folder {empty[0]!r}", folder, "fill the folder or remove it"
        )
    return LabeledFolder(tuple(inside), tuple(classes), tuple(skipped))


def _class_folders(folder: Path, skipped: Sequence[tuple[str, str]]) -> set[str]:
    left_out = {name for name, _ in skipped}
    with os.scandir(folder) as scan:
        return {
            child.name
            for child in scan
            if child.name not in left_out and child.is_dir(follow_symlinks=False)
        }


def _scan_flat(
    folder: Path, entries: list[ImageEntry], skipped: list[tuple[str, str]]
) -> LabeledFolder:
    if not entries:
        seen = ", ".join(repr(name) for name, _ in skipped[:SHOWN])
        raise DataError(
            "no images in this folder" + (f", only {seen}" if seen else ", it is empty"),
            folder,
            _EXPECTED,
        )
    classes = []
    for entry in entries:
        match = _FLAT_NAME.fullmatch(entry.name)
        if not match:
            raise DataError(f"the file name {entry.name!r} gives no class", folder, _EXPECTED)
        classes.append(_class_name(match["name"], entry.path))
    return LabeledFolder(tuple(entries), tuple(classes), tuple(skipped))


def _class_name(text: str, where: object) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError("the name of a class is not UTF-8", where, "rename it") from error
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise DataError(f"the class name {text!r} has control characters", where, "rename it")
    return unicodedata.normalize("NFC", text)


def _require_apart(folders: Sequence[Path]) -> None:
    """Refuses folders that share pictures: those would be trained on and tested with.

    Raises:
      UsageError: one is, or lies in, another.
    """
    resolved = [folder.resolve() for folder in folders]
    for i, one in enumerate(resolved):
        for j, other in enumerate(resolved):
            if i != j and one.is_relative_to(other):
                raise UsageError(
                    "the pictures of this folder would count twice, as it is or lies in another "
                    "input folder",
                    folders[i],
                    "separate folders for --traindir, --unlabeldir and --testdir",
                )


def build_custom(options: CustomOptions) -> SourceResult:
    """Writes ``<name>-{train,test}.tfrecord``, ``_class_mappings.json`` and ``-report.json``.

    The training file holds the labelled images first, class-mixed in a fixed seeded order, then
    the unlabelled ones (``labeled`` = 0). The classes and their order are those of the training
    folder. Unreadable unlabelled images are left out, counted and reported; unreadable labelled
    ones end the build after all of them were listed in the report.

    Raises:
      UsageError: the dataset exists, or options that make no sense.
      DataError: folders, names or images that cannot be used.
      ResourceError: the records do not fit or cannot be written.
    """
    check_dataset(options.name)
    height, width = options.size
    if min(height, width) < 1 or options.channels not in (1, 3) or options.max_pixels < 1:
        raise UsageError("size, channels or max_pixels is out of range", "", "--channels=1 or 3")
    folder = options.data_dir
    train_file = folder / f"{options.name}-train.tfrecord"
    test_file = folder / f"{options.name}-test.tfrecord"
    mapping_file = folder / f"{options.name}_class_mappings.json"
    report_file = folder / f"{options.name}-report.json"
    inputs = [options.train_dir, options.test_dir]
    inputs += [options.unlabel_dir] if options.unlabel_dir else []
    outside_inputs([train_file], inputs)
    _require_apart(inputs)
    outputs = OutputSet([test_file], train_file, COMMAND, options.overwrite)
    outputs.check()

    train, test = scan_labeled(options.train_dir), scan_labeled(options.test_dir)
    classes = train.names
    notes = _compare_classes(options, classes, test.names)
    left_out: list[tuple[str, str]] = []
    unlabeled = find_images(options.unlabel_dir, left_out) if options.unlabel_dir else []
    skipped = [
        (f"{part}/{name}", reason)
        for part, items in (
            ("train", train.skipped),
            ("test", test.skipped),
            ("unlabeled", left_out),
        )
        for name, reason in items
    ]
    image_format = ImageFormat(height, width, options.channels, options.max_pixels)
    count = len(train.entries) + len(test.entries) + len(unlabeled)
    writable(folder)
    # The names of the files and the framing take some 150 bytes a record.
    require_space(
        folder, count * (png_bytes_estimate(*image_format.shape) + 150), f"{count} records"
    )

    common: dict[str, Any] = {
        "dataset": options.name,
        "classes": classes,
        "shape": image_format.shape,
        "provenance": provenance(
            f"{COMMAND} custom --name={options.name} --img_size={height}x{width} "
            f"--channels={options.channels}",
            seed=ORDER_SEED,
        ),
        "overwrite": True,
    }
    report = _Report(report_file, skipped)
    labels = [classes.index(name) for name in train.classes]
    order = class_mixed_order(labels, ORDER_SEED).tolist()
    with Progress(count, "images", "decoding") as progress:
        builder = _Builder(image_format, options.workers, progress, report)
        with (
            RecordWriter(train_file, role="train", **common) as train_writer,
            RecordWriter(test_file, role="test", **common) as test_writer,
        ):
            ordered = [train.entries[i] for i in order]
            builder.add(train_writer, "train", ordered, [labels[i] for i in order])
            test_labels = [classes.index(name) for name in test.classes]
            builder.add(test_writer, "test", test.entries, test_labels)
            report.stop_if_unreadable()
            builder.add(train_writer, "unlabeled", unlabeled, [-1] * len(unlabeled))
            # Only now, when nothing can go wrong any more, does an older set lose its validity.
            # The writers commit in reverse: the training file, the mark of the set, is the last.
            outputs.open()
            write_json(mapping_file, dict(enumerate(classes)))
            report.write()
    per_class = Counter(train.classes)
    facts = {
        "classes": {name: per_class[name] for name in classes},
        "labeled": len(train.entries),
        "unlabeled": train_writer.records - len(train.entries),
        "unlabeled_unreadable": len(report.unreadable),
        "test": len(test.entries),
        "left_out": len(skipped),
        "notes": notes + report.summary(),
    }
    files = (train_file, test_file, mapping_file, report_file)
    return SourceResult(options.name, files, False, facts)


class _Report:
    """What was not used and what is worth saying, for the JSON report."""

    def __init__(self, path: Path, skipped: list[tuple[str, str]]) -> None:
        self.path = path
        self.skipped = skipped
        self.unreadable: list[dict[str, str]] = []
        self.remarks: list[dict[str, str]] = []

    def add(self, item: Encoded, part: str) -> None:
        if not item.problem and not item.notes:
            return
        place = {"path": printable(item.entry.path), "set": part}
        if item.problem:
            self.unreadable.append({**place, "reason": item.problem})
        self.remarks += [{**place, "note": note} for note in item.notes]

    def write(self) -> None:
        left_out = [{"path": printable(name), "reason": reason} for name, reason in self.skipped]
        write_json(
            self.path,
            {"unreadable": self.unreadable, "notes": self.remarks, "left_out": left_out},
        )

    def stop_if_unreadable(self) -> None:
        """Raises DataError, after writing the report, if a labelled image could not be read."""
        if not self.unreadable:
            return
        self.write()
        shown = "; ".join(f"{item['path']}: {item['reason']}" for item in self.unreadable[:SHOWN])
        more = len(self.unreadable) - SHOWN
        raise DataError(
            f"{len(self.unreadable)} labelled images cannot be read: {shown}"
            + (f"; and {more} more" if more > 0 else ""),
            f"all are listed in {self.path}",
            "repair or remove them",
        )

    def summary(self) -> list[str]:
        lines = []
        if self.unreadable:
            first = self.unreadable[0]
            lines.append(
                f"{len(self.unreadable)} unlabelled images could not be read and were left out, "
                f"such as {first['path']}: {first['reason']} (all in {self.path.name})"
            )
        kinds = Counter(remark["note"] for remark in self.remarks)
        lines += [f"{count} images: {note}" for note, count in sorted(kinds.items())]
        if self.skipped:
            lines.append(f"{len(self.skipped)} hidden or foreign files were passed over")
        return lines


class _Builder:
    """Decodes files and appends them to a record file."""

    def __init__(
        self, image_format: ImageFormat, workers: int | None, progress: Progress, report: _Report
    ) -> None:
        self._format, self._workers = image_format, workers
        self._progress, self._report = progress, report

    def add(
        self,
        writer: RecordWriter,
        part: str,
        entries: Sequence[ImageEntry],
        labels: Sequence[int],
    ) -> None:
        encoded = encode_files(entries, self._format, self._workers)
        for item, label in zip(encoded, labels, strict=True):
            self._report.add(item, part)
            self._progress.add(1)
            if not item.problem:
                name = f"{part}/{item.entry.name}"
                payload = encode_example(item.png, label, labeled=label >= 0, name=name)
                writer.write(payload, label)


def _compare_classes(
    options: CustomOptions, classes: tuple[str, ...], in_test: tuple[str, ...]
) -> list[str]:
    if len(classes) < 2:
        raise DataError(
            f"only one class, {classes[0]!r}", options.train_dir, "at least two: " + _EXPECTED
        )
    unknown = sorted(set(in_test) - set(classes))
    if unknown:
        raise DataError(
            f"the test folder has a class that training has not: {unknown[0]!r}",
            options.test_dir,
            f"one of {', '.join(classes[:20])}",
        )
    missing = sorted(set(classes) - set(in_test))
    if missing and not options.allow_missing:
        raise DataError(
            f"the test folder lacks the class {', '.join(map(repr, missing[:SHOWN]))}",
            options.test_dir,
            "images of it, or --allow_missing",
        )
    return [f"the test set lacks {', '.join(map(repr, missing))}"] if missing else []
