"""Labelled images by class folders, or by file names ``{number}_{class}.ext``."""

from __future__ import annotations

import os
import re
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.file_names import alike
from data_tools.pictures.listing import Listing
from realmix_tf.data.images import ImageEntry, is_junk, walk_images
from realmix_tf.errors import DataError
from realmix_tf.files import resource_error

EXPECTED = "a folder per class, or files named {number}_{class}.ext such as 007_red_fox.png"

_SHOWN = 5
FLAT_NAME = re.compile(r"[0-9]+_(?P<name>.+)\.[^.]+", re.DOTALL)


@dataclass(frozen=True)
class LabeledFolder:
    """A scanned folder.

    Attributes:
      listing: the files.
      names: the classes that occur, sorted.
      labels: unsigned [N], as small as fits, the class of each file, a position in ``names``.
      notes: remarks about the classes.
    """

    listing: Listing
    names: tuple[str, ...]
    labels: NDArray[np.integer]
    notes: tuple[str, ...] = ()


def scan_labeled(
    folder: Path,
    spill: Path | None = None,
    entries: Iterable[ImageEntry] | None = None,
    leave_out: Callable[[str, str], None] = lambda name, reason: None,
) -> LabeledFolder:
    """Finds labelled images: in class folders where there are any, else by file names.

    Files in folders within a class folder belong to that class. Class names are compared in
    Unicode's composed form, so that folders copied between systems stay the same class.

    Args:
      folder: where to look.
      spill: the folder that may hold the names of many files; None keeps them in memory.
      entries: the files, as ``walk_images`` gives them, where the caller wants to see them too.
      leave_out: called with the relative name and the reason of what is left out.

    Raises:
      DataError: no images, an empty class folder, a name that gives no class, or classes that
        differ in nothing but case or spaces.
    """
    folders = _class_folders(folder)
    if entries is None:
        entries = walk_images(folder, leave_out)
    listing, ids, numbers = Listing(folder, spill), array("i"), dict[str, int]()
    mixed: list[str] = []
    for entry in entries:
        raw, _, below = entry.name.partition("/")
        if not folders:
            match = FLAT_NAME.fullmatch(entry.name)
            if not match:
                raise DataError(f"the file name {entry.name!r} gives no class", folder, EXPECTED)
            raw = match["name"]
        elif not below and raw not in folders:
            # (A class folder that cannot be listed is an entry itself, with its problem.)
            if FLAT_NAME.fullmatch(raw):
                mixed.append(raw)
            leave_out(entry.name, "not in a class folder")
            continue
        ids.append(numbers.setdefault(raw, len(numbers)))
        listing.add(entry)
    if mixed:
        raise DataError(
            f"{len(mixed)} files lie beside the class folders, such as {mixed[0]!r}",
            folder,
            EXPECTED + ", not both",
        )
    _require_usable({*folders, *numbers}, folder)
    empty = set(map(_composed, folders)) - set(map(_composed, numbers))
    if empty:
        raise DataError(
            f"no images in the class folder {min(empty)!r}", folder, "fill the folder or remove it"
        )
    if not len(listing):
        raise DataError(f"no images in this folder, {contents(folder)}", folder, EXPECTED)
    raws = list(numbers)
    composed = list(map(_composed, raws))
    _require_distinct(composed, folder)
    names = tuple(sorted(set(composed)))
    rank = {name: i for i, name in enumerate(names)}
    ranks = np.array([rank[name] for name in composed], np.min_scalar_type(len(names)))
    return LabeledFolder(
        listing, names, ranks[np.frombuffer(ids, np.int32)], _class_notes(raws, composed)
    )


def classes_by_name(listing: Listing) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The classes that the names of files give, in the arrangements of ``scan_labeled``.

    Returns:
      int64 [N], positions in the second, −1 where the name gives none; and the class names, sorted.
    """
    ids, numbers = array("i"), dict[str, int]()
    for entry in listing:
        top, _, below = entry.name.partition("/")
        match = None if below else FLAT_NAME.fullmatch(top)
        name = top if below else match["name"] if match else None
        ids.append(-1 if name is None else numbers.setdefault(_composed(name), len(numbers)))
    names = sorted(numbers)
    ranks = np.full(len(names) + 1, -1, np.int64)
    for rank, name in enumerate(names):
        ranks[numbers[name]] = rank
    return ranks[np.frombuffer(ids, np.int32)], tuple(names)


def _class_folders(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as scan:
            return {
                child.name
                for child in scan
                if child.is_dir(follow_symlinks=False) and not is_junk(child.name)
            }
    except FileNotFoundError as error:
        raise DataError("there is no such folder", folder, "check the path") from error
    except NotADirectoryError as error:
        raise DataError("this is a file, not a folder", folder, "check the path") from error
    except OSError as error:
        raise resource_error(error, folder) from error


def contents(folder: Path) -> str:
    """What lies in a folder, for an error: ``only '.DS_Store'`` or ``it is empty``."""
    with os.scandir(folder) as scan:
        seen = sorted(child.name for _, child in zip(range(_SHOWN), scan, strict=False))
    return "only " + ", ".join(map(repr, seen)) if seen else "it is empty"


def _require_usable(names: Iterable[str], folder: Path) -> None:
    """Refuses class names that cannot be shown or written everywhere; all are named."""
    problems = [
        f"{name!r} {problem}"
        for name in sorted(names, key=os.fsencode)
        if (problem := _name_problem(name))
    ]
    if problems:
        more = f", and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(
            f"these cannot be names of classes: {'; '.join(problems[:_SHOWN])}{more}",
            folder,
            "rename them",
        )


def _name_problem(name: str) -> str:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "is not UTF-8"
    if any(unicodedata.category(character) == "Cc" for character in name):
        return "has control characters"
    return "" if name.strip() else "is nothing but spaces"


def _composed(text: str) -> str:
    """Unicode's composed form; what is not Unicode stays as it is."""
    return unicodedata.normalize("NFC", text)


def alike_class(name: str) -> str:
    """What names have in common that other file systems, and people, take for the same."""
    return alike(" ".join(name.split()))


def _require_distinct(names: Sequence[str], folder: Path) -> None:
    seen: dict[str, str] = {}
    for name in sorted(set(names)):
        other = seen.setdefault(alike_class(name), name)
        if other != name:
            raise DataError(
                f"the classes {other!r} and {name!r} differ only in case or spaces, and would be "
                "one folder on other systems",
                folder,
                "rename or merge them",
            )


def _class_notes(raws: Sequence[str], composed: Sequence[str]) -> tuple[str, ...]:
    notes = []
    for name in sorted({name for name in composed if composed.count(name) > 1}):
        notes.append(
            f"{composed.count(name)} folders or names are the same class {name!r}, written in two "
            "ways (Unicode); they were taken as one"
        )
    notes += [
        f"the class name {name!r} begins or ends with a space"
        for name in sorted(set(composed))
        if name != name.strip()
    ]
    return tuple(notes)
