"""The sets of pictures that record files hold, as check_split and inspect_dataset look at them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.looking.inputs import Inputs
from data_tools.records.split_map import map_beside, read_split_map
from realmix_tf.data.division import Files, divide
from realmix_tf.data.names import DatasetName
from realmix_tf.data.records import RecordReader

UNKNOWN = -1  # the family of a record of which nothing is known

Int64Array = NDArray[np.int64]
Opener = Callable[[Path], RecordReader]

_KINDS = {
    "train": "labeled",
    "label": "labeled",
    "test": "test",
    "unlabel": "unlabeled",
    "unlabeled": "unlabeled",
    "extra": "unlabeled",
}


@dataclass(frozen=True)
class ImageSet:
    """Records that are compared as one set.

    Attributes:
      name: as shown; kind: labeled, unlabeled, validation, test or other.
      reader: the file; ids: int64 [n], its records.
      families: int64 [n], the id of each record's original; −1 where nothing is known.
      space: families of one space compare.
    """

    name: str
    kind: str
    reader: RecordReader
    ids: Int64Array
    families: Int64Array
    space: str


def open_sets(inputs: Inputs, stack: ExitStack) -> tuple[list[ImageSet], list[str]]:
    """The sets of a dataset, or each record file as one set, and remarks.

    Readers stay open until ``stack`` closes. A dataset's sets are those that training divides it
    into by families, before it compares pixels (see ``division``).

    Raises:
      DataError: a file is missing or damaged, or its copies cannot be told from each other.
      UsageError: fewer validation images than the name asks for.
    """

    def opened(path: Path) -> RecordReader:
        return stack.enter_context(RecordReader(path))

    if inputs.name is not None:
        return _sets_of(inputs.name, inputs.data_dir, opened)
    sets: list[ImageSet] = []
    for path in inputs.files:
        name = path.name.removesuffix(".tfrecord")
        if any(other.name == name for other in sets):
            name = str(path)
        sets.append(_whole_file(name, opened(path)))
    return sets, []


def _whole_file(name: str, reader: RecordReader) -> ImageSet:
    """All records of a file, whatever is in it."""
    manifest = reader.manifest
    kind = "other" if manifest is None else _KINDS[manifest.role]
    own: Int64Array = np.arange(len(reader))
    space = str(reader.path)
    if manifest is not None and manifest.role in ("label", "unlabel"):
        own = np.full(len(reader), UNKNOWN)
        path = map_beside(reader.path, manifest)
        ids = None if path is None else getattr(read_split_map(path), manifest.role)
        if ids is not None and len(ids) == len(reader):
            own, space = ids, str(path)
    families = np.where(reader.sources >= 0, reader.sources, own)
    return ImageSet(name, kind, reader, np.arange(len(reader)), families, space)


def _sets_of(name: DatasetName, data_dir: Path, opened: Opener) -> tuple[list[ImageSet], list[str]]:
    opened_files = _files_of(name, data_dir, opened)
    division = divide(opened_files, compare=False)
    notes = list(division.notes)
    labeled = opened_files.labeled
    pool = labeled if opened_files.pool is None else opened_files.pool
    own = {"labeled": np.arange(len(labeled)), "pool": np.arange(len(pool))}
    map_file = opened_files.map_file
    if map_file is not None:
        own = {key: np.full(len(ids), UNKNOWN) for key, ids in own.items()}
        if map_file.exists():
            known = read_split_map(map_file)
            if len(known.label) == len(labeled) and len(known.unlabel) == len(pool):
                own = {"labeled": known.label, "pool": known.unlabel}

    def part(kind: str, reader: RecordReader, key: str, ids: Int64Array) -> ImageSet:
        families = np.where(reader.sources >= 0, reader.sources, own[key])[ids]
        return ImageSet(kind, kind, reader, ids, families, "training")

    sets = [part("labeled", labeled, "labeled", division.labeled)]
    if name.is_split:
        sets.append(part("unlabeled", pool, "pool", division.originals))
    if len(division.valid):
        sets.append(part("validation", pool, "pool", division.valid))
    if opened_files.test is not None:
        ids = np.arange(len(opened_files.test))
        sets.append(ImageSet("test", "test", opened_files.test, ids, ids, "test"))
    else:
        notes.append(f"there is no test set {name.test_file(data_dir).name}")
    if opened_files.copies is not None:
        out = len(opened_files.copies) - len(division.unlabeled)
        notes.append(
            f"{len(opened_files.copies)} augmented copies go by the images they were made from; "
            f"{out} of validation images are left out of training"
        )
    return sets, notes


def _files_of(name: DatasetName, data_dir: Path, opened: Opener) -> Files:
    test_path = name.test_file(data_dir)
    test = opened(test_path) if test_path.exists() else None
    if not name.is_split:
        train = opened(name.train_file(data_dir))
        return Files(name, train, train, test=test)
    labeled = opened(name.label_file(data_dir))
    pool = opened(name.without_copies().unlabel_file(data_dir))
    copies = opened(name.unlabel_file(data_dir)) if name.copies else None
    return Files(name, labeled, pool, copies, test, name.map_file(data_dir))
