"""Classifying people's own pictures: from paths to one row an input. TensorFlow comes with the
classifier that is handed in.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from realmix_tf.data.images import decode_image, find_images
from realmix_tf.errors import DataError, UsageError
from realmix_tf.evaluation.metrics import full_evaluation
from realmix_tf.files import human_bytes, resource_error

if TYPE_CHECKING:
    from realmix_tf.evaluation.classifier import Classifier

_MAX_LIST_BYTES = 1 << 30
_DECODERS = min(4, os.cpu_count() or 1)
# What a model may ask of decode_image, beside the size and the channels its network fixes.
_DECODE_OPTIONS = ("background",)


@dataclass(frozen=True)
class Item:
    """A picture to classify.

    Attributes:
      path: as the user wrote it, or the folder as written joined with the place inside it.
      folder: the subfolder of the input folder it lies in; None if it lies in none.
      problem: why it need not be tried; empty if it may.
    """

    path: str
    folder: str | None = None
    problem: str = ""


@dataclass(frozen=True)
class Row:
    """What became of one input.

    Attributes:
      path: see ``Item``; bytes that are not UTF-8 are surrogates, as Python reads them.
      status: ``ok`` or ``unreadable``.
      reason: why it is unreadable; empty if it is ok.
      class_id, class_name, probability: the most probable class; None if unreadable.
      top_k: (class name, probability) of the most probable classes, best first.
      true_class: the class whose folder the picture lies in; None if it lies in none.
      note: what the user should know of a picture that is ok, such as that only the first frame
        of an animation is used; mostly empty.
    """

    path: str
    status: str
    reason: str = ""
    class_id: int | None = None
    class_name: str | None = None
    probability: float | None = None
    top_k: tuple[tuple[str, float], ...] = ()
    true_class: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Result:
    """Rows in the order of the inputs, and what they add up to.

    Attributes:
      rows: one an input.
      probabilities: float32 [N, C] of the N readable inputs, in the order of the rows.
      classes: the C class names.
      evaluation: ``full_evaluation`` of the readable pictures in folders named as classes; None
        if there are none.
      unknown_folders: subfolders (of a folder that has class folders) that are no class.
      missing_classes: classes without a readable picture, where there are class folders.
      notes: further remarks for the user, one line each.
    """

    rows: list[Row]
    probabilities: npt.NDArray[np.float32]
    classes: tuple[str, ...]
    evaluation: dict[str, Any] | None = None
    unknown_folders: tuple[str, ...] = ()
    missing_classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def unreadable(self) -> list[Row]:
        """The rows of inputs that could not be read."""
        return [row for row in self.rows if row.status != "ok"]


def gather(paths: Sequence[str | os.PathLike[str]]) -> list[Item]:
    """Lists the pictures behind files and folders, in stable order.

    Args:
      paths: pictures stay in this order; a folder gives all files below it, as ``find_images``
        orders them; a file whose name ends in .txt is read as a list (see ``read_list``).

    Raises:
      DataError: a path that does not exist, or a folder without pictures.
    """
    items: list[Item] = []
    for given in paths:
        path = os.fspath(given)
        if not os.path.lexists(path):
            raise DataError("there is no such file or folder", path, "check the path")
        if not os.path.isdir(path):
            items += read_list(path) if path.lower().endswith(".txt") else [Item(path)]
            continue
        found = find_images(path)
        if not found:
            raise DataError("no pictures were found in this folder", path, "another folder")
        for entry in found:
            subfolder, separator, _ = entry.name.partition("/")
            items.append(Item(entry.path, subfolder if separator else None, entry.problem))
    return items


def read_list(path: str | os.PathLike[str]) -> list[Item]:
    """Reads a text file with one path a line; relative paths start at the file's own folder.

    Empty lines are skipped. A path that does not exist becomes an unreadable row later.

    Raises:
      DataError: the list is missing, too large or empty.
    """
    source = Path(path)
    if not source.is_file():
        raise DataError("there is no such list of paths", source, "--inference_list=FILE")
    if source.stat().st_size > _MAX_LIST_BYTES:
        raise DataError(f"the list is larger than {human_bytes(_MAX_LIST_BYTES)}", source)
    try:
        lines = source.read_bytes().replace(b"\r\n", b"\n").split(b"\n")
    except OSError as error:
        raise resource_error(error, source) from error
    names = [os.fsdecode(line) for line in lines if line.strip()]
    if not names:
        raise DataError("the list names no pictures", source, "one path a line")
    return [Item(os.path.join(source.parent, name)) for name in names]


def classify(
    paths: Sequence[str | os.PathLike[str] | Item],
    classifier: Classifier,
    top_k: int = 5,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Classifies files and folders of pictures, holding one batch of them at a time.

    Args:
      paths: files and folders, or ``Item`` from ``gather`` and ``read_list``.
      classifier: any trained or loaded classifier.
      top_k: how many classes to list a picture, at least 1; at most C are.
      progress: called with (done, all) after each batch.

    Returns:
      One row an input, in stable order. Pictures that cannot be read have a row that says why.

    Raises:
      DataError: nothing to classify.
      UsageError: ``top_k`` is below 1.
    """
    if top_k < 1:
        raise UsageError(f"top_k is {top_k}, not at least 1", "--top_k")
    items: list[Item] = []
    for path in paths:
        items += [path] if isinstance(path, Item) else gather([path])
    if not items:
        raise DataError("there is nothing to classify", "", "--inference_dir=FOLDER")
    classes = classifier.classes
    truth = _Truth(items, classes)
    rows: list[Row] = []
    parts: list[npt.NDArray[np.float32]] = []
    for chunk, pictures in _decoded(items, classifier):
        readable = [picture for picture, _ in pictures if isinstance(picture, np.ndarray)]
        probabilities = np.zeros((0, len(classes)), np.float32)
        if readable:
            probabilities = classifier.predict(np.stack(readable))
        parts.append(probabilities)
        remaining = iter(probabilities)
        for item, (picture, note) in zip(chunk, pictures, strict=True):
            true_class = truth.of(item)
            if isinstance(picture, str):
                rows.append(Row(item.path, "unreadable", picture, true_class=true_class))
            else:
                rows.append(_row(item, next(remaining), classes, top_k, true_class, note))
        if progress is not None:
            progress(len(rows), len(items))
    return _result(rows, np.concatenate(parts), classes, truth)


def _decoded(
    items: list[Item], classifier: Classifier
) -> Iterator[tuple[list[Item], list[tuple[npt.NDArray[np.uint8] | str, str]]]]:
    """Batches of items with their pixels (or the reason why there are none) and a note."""
    spec = classifier.spec
    options = {k: v for k, v in classifier.preprocessing.items() if k in _DECODE_OPTIONS}
    crop = classifier.preprocessing.get("resize") == "center"
    size = (spec.height, spec.width)

    def decode(item: Item) -> tuple[npt.NDArray[np.uint8] | str, str]:
        if item.problem:
            return item.problem, ""
        notes: list[str] = []
        try:
            pixels = decode_image(
                item.path, size=size, crop=crop, channels=spec.channels, notes=notes, **options
            )
        except DataError as error:
            return error.what, ""
        return pixels, "; ".join(notes)

    batch = classifier.predictor.batch
    with ThreadPoolExecutor(_DECODERS) as pool:
        for start in range(0, len(items), batch):
            chunk = items[start : start + batch]
            yield chunk, list(pool.map(decode, chunk))


def _row(
    item: Item,
    probabilities: npt.NDArray[np.float32],
    classes: tuple[str, ...],
    top_k: int,
    true_class: str | None,
    note: str,
) -> Row:
    # Stable, so that of equal probabilities the smaller class id comes first, as argmax has it.
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    best = int(order[0])
    return Row(
        path=item.path,
        status="ok",
        class_id=best,
        class_name=classes[best],
        probability=float(probabilities[best]),
        top_k=tuple((classes[i], float(probabilities[i])) for i in order),
        true_class=true_class,
        note=note,
    )


class _Truth:
    """Which class a picture's folder says it has, where folders are named as the classes are."""

    def __init__(self, items: list[Item], classes: tuple[str, ...]) -> None:
        self.ids = {name: i for i, name in enumerate(classes)}
        # File systems differ in how they compose accents; the same name must match all the same.
        self._names = {unicodedata.normalize("NFC", name): name for name in classes}
        folders = {item.folder for item in items if item.folder is not None}
        known = {folder for folder in folders if self._name(folder) is not None}
        self.present = bool(known)
        self.unknown = tuple(sorted(folders - known)) if known else ()

    def of(self, item: Item) -> str | None:
        return None if item.folder is None else self._name(item.folder)

    def _name(self, folder: str) -> str | None:
        return self._names.get(unicodedata.normalize("NFC", folder))


def _result(
    rows: list[Row],
    probabilities: npt.NDArray[np.float32],
    classes: tuple[str, ...],
    truth: _Truth,
) -> Result:
    readable = [row for row in rows if row.status == "ok"]
    known = [i for i, row in enumerate(readable) if row.true_class is not None]
    evaluation: dict[str, Any] | None = None
    missing: tuple[str, ...] = ()
    notes: list[str] = []
    if known:
        labels = np.array([truth.ids[str(readable[i].true_class)] for i in known], np.int64)
        evaluation = full_evaluation(probabilities[known], labels, classes)
        absent = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
        missing = tuple(classes[i] for i in absent)
    elif truth.present:
        notes.append("no picture in a class folder could be read, so there is no accuracy")
    if len(readable) < len(rows):
        notes.append(f"{len(rows) - len(readable)} of {len(rows)} pictures could not be read")
    for note, count in Counter(row.note for row in rows if row.note).items():
        notes.append(f"{count} of {len(rows)} pictures: {note}")
    if truth.unknown:
        notes.append(
            f"folders that are no class of the model, not counted: {', '.join(truth.unknown)}"
        )
    if missing:
        notes.append(f"classes without pictures here: {', '.join(missing)}")
    return Result(rows, probabilities, classes, evaluation, truth.unknown, missing, tuple(notes))
