"""Labels that a model gave unlabelled pictures, matched by the pictures' names.

Read are the files that ``realmix-predict`` writes (predictions.json, predictions.csv), tables with
the columns ``path`` and ``class_name``, and JSON objects ``{path: class}`` or
``{path: {class: probability}}``. A position is no name: arrays are refused.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
import math
import os
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from realmix_tf.cells import cell, escaped
from realmix_tf.errors import DataError, UsageError, printable
from realmix_tf.files import human_bytes, open_regular, resource_error

Int64Array = NDArray[np.int64]

MAX_JSON_BYTES = 512 << 20
MAX_TABLE_BYTES = 4 << 30
SCHEMA = 1
SHOWN = 5

_ARRAY = b"\x93NUMPY"
_AMBIGUOUS = -2
_EXPECTED = "predictions.json or predictions.csv as realmix-predict writes them"


@dataclass(frozen=True)
class Predictions:
    """What a predictions file says.

    Attributes:
      path: the file.
      ids: names of the pictures, as written; each once.
      labels: int64 [N], positions in ``classes``; −1 where the picture could not be read.
      probabilities: float64 [N] of those classes, 0..1; NaN where the file has none.
      classes: the class names that the file uses.
      table: the texts are cells of a CSV file (see ``realmix_tf.cells``).
    """

    path: Path
    ids: tuple[str, ...]
    labels: Int64Array
    probabilities: NDArray[np.float64]
    classes: tuple[str, ...]
    table: bool = False


class Matched(NamedTuple):
    """The predictions of the pictures of a folder.

    Attributes:
      labels: int64 [n], class ids; −1 where there is no prediction to use.
      unreadable: pictures that could not be read when they were predicted.
      unsure: pictures whose probability was below the wanted one.
    """

    labels: Int64Array
    unreadable: int
    unsure: int


class _Row(NamedTuple):
    name: str
    label: str | None
    probability: float


def read_predictions(path: str | os.PathLike[str]) -> Predictions:
    """Reads a predictions file; its content says what it is.

    Raises:
      UsageError: it is an array, which names no pictures.
      DataError: it is damaged, too large, of a newer version or not such a file; or it names a
        picture twice or has an impossible probability.
    """
    source = Path(path)
    try:
        if not stat.S_ISREG(source.stat().st_mode):
            raise DataError("this is not a file", source, _EXPECTED)
        with open_regular(source) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(4096)
            file.seek(0)
            if head.startswith(_ARRAY) or source.suffix.lower() in (".npy", ".npz"):
                _refuse_array(source)
            start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
            table = start not in (b"{", b"[", b"")
            limit = MAX_TABLE_BYTES if table else MAX_JSON_BYTES
            if size > limit:
                raise DataError(
                    f"the file has {human_bytes(size)}, more than {human_bytes(limit)}",
                    source,
                    "" if table else "the predictions as CSV, which are read line by line",
                )
            rows = _table_rows(file, source) if table else _json_rows(file, source)
            return _collect(rows, source, table)
    except OSError as error:
        raise resource_error(error, source) from error


def match(
    predictions: Predictions,
    folder: str | os.PathLike[str],
    names: Iterable[str],
    classes: Sequence[str] | None = None,
    min_confidence: float | None = None,
) -> Matched:
    """Gives every picture of a folder its prediction.

    A picture is meant by its name below the folder, or by a path that leads to it. All ids of a
    file are understood in the same way.

    Args:
      predictions: the file's content.
      folder: where the pictures lie.
      names: their names relative to the folder with ``/``, all of them, each once.
      classes: the class names of the labels; ``predictions.classes`` when None.
      min_confidence: predictions with a lower probability are not used; None uses all.

    Raises:
      DataError: a picture has no prediction, a prediction no picture, or two are possible; or a
        predicted class is unknown.
      UsageError: ``min_confidence`` is given, but the file has no probabilities; or it is not in
        0..1.
    """
    known = predictions.classes if classes is None else tuple(classes)
    ids = _class_ids(predictions, known)
    if min_confidence is not None:
        _check_confidence(predictions, min_confidence)
    rows = _rows_of(predictions, os.fspath(folder), list(names))
    found = predictions.labels[rows]
    labels = np.where(found >= 0, ids[found], -1)
    unsure = np.zeros(len(labels), np.bool_)
    if min_confidence is not None:
        unsure = (found >= 0) & (predictions.probabilities[rows] < min_confidence)
    return Matched(
        np.where(unsure, -1, labels).astype(np.int64),
        int((found < 0).sum()),
        int(unsure.sum()),
    )


def occurring(labels: Int64Array, classes: Sequence[str]) -> tuple[Int64Array, tuple[str, ...]]:
    """Labels and classes for ``balance``: only the classes that occur, in their order.

    An unlabelled set is balanced over the classes a model found in it, or its folders name; which
    others there are elsewhere does not matter.

    Args:
      labels: int64 [N], positions in ``classes``, −1 for none.
      classes: names.

    Returns:
      int64 [N], positions in the second, −1 for none; and the names.

    Raises:
      DataError: no picture has a label.
    """
    used = np.unique(labels[labels >= 0])
    if not len(used):
        raise DataError(
            "no unlabelled picture has a class to balance by",
            "",
            "--prediction_balance=FILE with predictions of them, or class folders in --unlabeldir",
        )
    ranks = np.full(len(classes) + 1, -1, np.int64)
    ranks[used] = np.arange(len(used))
    return ranks[labels], tuple(classes[i] for i in used.tolist())


def _refuse_array(source: Path) -> None:
    beside = [source.with_name(f"predictions.{kind}") for kind in ("json", "csv")]
    there = [path for path in beside if path.is_file()]
    raise UsageError(
        "an array names no pictures, and a position is no name: one more or less picture in the "
        "folder would give all that follow a wrong class",
        source,
        str(there[0]) if there else _EXPECTED,
    )


def _collect(rows: Iterator[_Row], source: Path, table: bool) -> Predictions:
    seen: dict[str, None] = {}
    numbers: dict[str, int] = {}
    labels: list[int] = []
    probabilities: list[float] = []
    for name, label, probability in rows:
        if name in seen:
            raise DataError(f"the picture {name!r} has two predictions", source, "one each")
        # Written so that NaN, which says that there is none, passes.
        if probability < 0 or probability > 1:
            raise DataError(
                f"the probability of {name!r} is {probability:g}, not between 0 and 1", source
            )
        seen[name] = None
        labels.append(-1 if label is None else numbers.setdefault(label, len(numbers)))
        probabilities.append(probability)
    if not seen:
        raise DataError("the file has no predictions", source, _EXPECTED)
    order = sorted(numbers)
    ranks = np.full(len(order) + 1, -1, np.int64)
    for rank, label in enumerate(order):
        ranks[numbers[label]] = rank
    return Predictions(
        source,
        tuple(seen),
        ranks[np.array(labels, np.int64)],
        np.array(probabilities, np.float64),
        tuple(order),
        table,
    )


def _json_rows(file: IO[bytes], source: Path) -> Iterator[_Row]:
    try:
        value = json.loads(
            file.read().decode("utf-8-sig"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
        )
    except _TwiceError as error:
        raise DataError(f"{error.args[0]!r} occurs twice", source, "one prediction each") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"this is not a readable JSON file: {error}", source) from error
    if not isinstance(value, dict):
        raise DataError("the predictions are not a JSON object", source, _EXPECTED)
    written = isinstance(value.get("predictions"), list) and "schema" in value
    return _written_rows(value, source) if written else _plain_rows(value, source)


class _TwiceError(ValueError):
    """A key occurs twice in a JSON object."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _TwiceError(key)
            seen.add(key)
    return value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _written_rows(value: dict[str, Any], source: Path) -> Iterator[_Row]:
    """The rows of a predictions.json."""
    schema = value["schema"]
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise DataError(
            f"the predictions have schema version {schema!r}, this program knows {SCHEMA}",
            source,
            "a version of this program that fits",
        )
    classes = value.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise DataError("'classes' is not a list of names", source, _EXPECTED)
    known = set(classes)
    for number, item in enumerate(value["predictions"]):
        where = f"{source}, prediction {number}"
        if not isinstance(item, dict) or not isinstance(item.get("path"), str):
            raise DataError("a prediction without a path", where, _EXPECTED)
        name = _true_path(item, where)
        if item.get("status", "ok") != "ok":
            yield _Row(name, None, math.nan)
            continue
        label = item.get("class_name")
        if not isinstance(label, str) or label not in known:
            raise _unknown(label, classes, where)
        yield _Row(name, label, _number(item.get("probability"), where))


def _true_path(item: dict[str, Any], where: str) -> str:
    encoded = item.get("path_base64")
    if encoded is None:
        return str(item["path"])
    try:
        return os.fsdecode(base64.b64decode(encoded, validate=True))
    except (TypeError, ValueError, binascii.Error) as error:
        raise DataError("path_base64 is not base64", where, _EXPECTED) from error


def _plain_rows(value: dict[str, Any], source: Path) -> Iterator[_Row]:
    """The rows of ``{path: class}`` or ``{path: {class: probability}}``."""
    for name, item in value.items():
        where = f"{source}, {name!r}"
        if isinstance(item, str):
            yield _Row(name, item, math.nan)
        elif isinstance(item, dict) and item:
            numbers = {label: _number(number, where) for label, number in item.items()}
            for label, number in numbers.items():
                if not 0 <= number <= 1:
                    raise DataError(
                        f"the probability of {label!r} is {number:g}, not between 0 and 1", where
                    )
            best = max(numbers, key=lambda label: numbers[label])
            yield _Row(name, best, numbers[best])
        else:
            raise DataError(
                "the prediction is neither a class name nor {class: probability}", where, _EXPECTED
            )


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"the probability {value!r} is not a number", where, _EXPECTED)
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _table_rows(file: IO[bytes], source: Path) -> Iterator[_Row]:
    # (A byte that is not UTF-8 matches no name, and is shown in the error about that.)
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, strict=True)
    try:
        header = next(reader, [])
        if "path" not in header or "class_name" not in header:
            raise DataError(
                "this is no table of predictions, its first line does not name the columns path "
                "and class_name",
                source,
                _EXPECTED,
            )
        for cells in reader:
            if cells:
                yield _table_row(header, cells, f"{source}, line {reader.line_num}")
    except csv.Error as error:
        raise DataError(
            f"this is not a readable CSV file: {error}", f"{source}, line {reader.line_num}"
        ) from error


def _table_row(header: list[str], cells: list[str], where: str) -> _Row:
    if len(cells) != len(header):
        raise DataError(f"{len(cells)} cells under {len(header)} columns", where, _EXPECTED)
    row = dict(zip(header, cells, strict=True))
    if not row["path"]:
        raise DataError("a prediction without a path", where, _EXPECTED)
    if row.get("status", "ok") not in ("ok", ""):
        return _Row(row["path"], None, math.nan)
    if not row["class_name"]:
        raise DataError(f"the picture {row['path']!r} has no class", where, _EXPECTED)
    text = row.get("probability", "")
    try:
        probability = float(text) if text else math.nan
    except ValueError as error:
        raise DataError(f"the probability {text!r} is not a number", where, _EXPECTED) from error
    if text and math.isnan(probability):
        raise DataError("the probability is not a number", where, _EXPECTED)
    return _Row(row["path"], row["class_name"], probability)


def _unknown(label: object, known: Sequence[str], where: object) -> DataError:
    shown = ", ".join(map(printable, known[:20])) + (", …" if len(known) > 20 else "")
    return DataError(
        f"the predicted class {label!r} is none of the known ones",
        where,
        f"predictions of a model with the classes {shown}",
    )


def _class_ids(predictions: Predictions, known: Sequence[str]) -> Int64Array:
    """int64 [classes of the file + 1], which known class each is; the last is −1."""
    places = _places([unicodedata.normalize("NFC", name) for name in known], predictions.table)
    ids = [places.get(unicodedata.normalize("NFC", name), -1) for name in predictions.classes]
    for name, place in zip(predictions.classes, ids, strict=True):
        if place < 0:
            raise _unknown(name, known, predictions.path)
    return np.array([*ids, -1], np.int64)


def _check_confidence(predictions: Predictions, min_confidence: float) -> None:
    if not 0 <= min_confidence <= 1:
        raise UsageError(f"--min_confidence is {min_confidence:g}", "", "a probability, 0 to 1")
    if np.isnan(predictions.probabilities[predictions.labels >= 0]).any():
        raise UsageError(
            "the predictions have no probabilities",
            predictions.path,
            "no --min_confidence, or " + _EXPECTED,
        )


def _places(names: Sequence[str], table: bool) -> dict[str, int]:
    """Where each text stands, in a table also as it is written there, alone or as the end of a
    path. What fits two is ``_AMBIGUOUS``."""
    places = {name: place for place, name in enumerate(names)}
    if table:
        for place, name in enumerate(names):
            for written in (cell(name), escaped(name)):
                if places.setdefault(written, place) != place:
                    places[written] = _AMBIGUOUS
    return places


def _rows_of(predictions: Predictions, folder: str, names: list[str]) -> Int64Array:
    """int64 [names], which prediction each picture has."""
    places = _places(names, predictions.table)
    inside = _Inside(folder, places)
    readings = [
        _assign(predictions, len(names), lambda name: places.get(name.removeprefix("./"), -1)),
        _assign(predictions, len(names), inside.place),
    ]
    clean = [reading for reading in readings if reading.clean]
    if len(clean) == 2 and (clean[0].rows != clean[1].rows).any():
        raise DataError(
            "the paths of the predictions can be read in two ways, below the folder and below "
            "the current one",
            predictions.path,
            "predictions with absolute paths",
        )
    if not clean:
        best = min(readings, key=lambda reading: (len(reading.left_over), reading.ambiguous))
        raise best.error(predictions, folder, names)
    return clean[0].rows


class _Inside:
    """Which picture a path leads to, if it leads into the folder."""

    def __init__(self, folder: str, places: dict[str, int]) -> None:
        self._places = places
        self._folder = os.stat(folder)
        self._known: dict[str, bool] = {}

    def place(self, path: str) -> int:
        """The picture's place; −1 if there is none."""
        cut = path.find("/")
        while cut >= 0:
            place = self._places.get(path[cut + 1 :], -1)
            if place != -1 and self._is_folder(path[:cut] or "/"):
                return place
            cut = path.find("/", cut + 1)
        return -1

    def _is_folder(self, path: str) -> bool:
        if path not in self._known:
            # In a table an apostrophe may have been put before the path.
            self._known[path] = self._same(path) or self._same(path.removeprefix("'"))
        return self._known[path]

    def _same(self, path: str) -> bool:
        try:
            return os.path.samestat(os.stat(path), self._folder)
        except (OSError, ValueError):
            return False


class _Reading:
    """One way of understanding the ids of a file.

    Attributes:
      rows: int64 [names], the prediction of each picture, −1 for none.
      left_over: predictions without a picture.
      twice: predictions whose picture has another already.
      ambiguous: predictions that fit two pictures.
    """

    def __init__(self, count: int) -> None:
        self.rows = np.full(count, -1, np.int64)
        self.left_over: list[int] = []
        self.twice: list[int] = []
        self.ambiguous: list[int] = []

    @property
    def clean(self) -> bool:
        """Every picture has its own prediction, and every prediction its picture."""
        return not (self.left_over or self.twice or self.ambiguous) and bool((self.rows >= 0).all())

    def error(self, predictions: Predictions, folder: str, names: list[str]) -> DataError:
        """What is wrong, with counts and examples."""
        missing = np.flatnonzero(self.rows < 0).tolist()
        parts = []
        for rows, text, texts in (
            (missing, "pictures have no prediction", names),
            (self.left_over, "predictions belong to no picture of the folder", predictions.ids),
            (self.twice, "predictions belong to a picture that has one", predictions.ids),
            (self.ambiguous, "predictions fit more than one picture", predictions.ids),
        ):
            if rows:
                shown = ", ".join(repr(texts[row]) for row in rows[:SHOWN])
                parts.append(f"{len(rows)} {text}, such as {shown}")
        remedy = f"predictions of exactly the pictures of {folder}"
        if self.ambiguous:
            remedy = "predictions.json, which has the exact names"
        return DataError("; ".join(parts), predictions.path, remedy)


def _assign(predictions: Predictions, count: int, place_of: Callable[[str], int]) -> _Reading:
    reading = _Reading(count)
    for row, name in enumerate(predictions.ids):
        place = place_of(name)
        if place == _AMBIGUOUS:
            reading.ambiguous.append(row)
        elif place < 0:
            reading.left_over.append(row)
        elif reading.rows[place] >= 0:
            reading.twice.append(row)
        else:
            reading.rows[place] = row
    return reading
