"""From a dataset's name to the sets that training reads, with nothing leaking between them.

| set | which records |
|---|---|
| labeled | ``…-label``, or all truly labelled records of ``…-train`` for ``<dataset>-<valid>`` |
| valid | the first V truly labelled records, of ``…-unlabel`` or of ``…-train`` |
| unlabeled | the other records of ``…-unlabel``; of copies, those of no validation image |
| test | ``…-test``, all of it |
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from realmix_tf.data.manifest import Manifest
from realmix_tf.data.names import DatasetName, read_map
from realmix_tf.data.records import RecordReader
from realmix_tf.data.stores import ImageStore
from realmix_tf.errors import DataError, UsageError
from realmix_tf.files import read_json, sha256_file

_GUESSED_MEMORY = 4 << 30
_MEMORY_SHARE = 0.5  # of the free memory that decoded images may take


@dataclass(frozen=True)
class DataSettings:
    """What to load.

    Attributes:
      name: dataset name, parsed.
      data_dir: folder of the datasets.
      num_classes: expected number of classes; 0 takes the data's.
      image_size: expected side in pixels; 0 takes the data's.
      class_mapping: JSON file {id: name} that overrides the class names; may be empty.
      in_memory: hold decoded images in memory where they fit.
      need_unlabeled: the method reads unlabelled images.
      train_record, test_record: file names that override the dataset's; may be empty.
    """

    name: DatasetName
    data_dir: Path
    num_classes: int = 0
    image_size: int = 0
    class_mapping: str = ""
    in_memory: bool = True
    need_unlabeled: bool = True
    train_record: str = ""
    test_record: str = ""


@dataclass
class TrainingData:
    """The sets of a run.

    Attributes:
      classes: names by id.
      shape: (height, width, channels).
      sources: role → {file, sha256, records}: what the run rests on.
      notes: what the user should be told once.
    """

    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    labeled: ImageStore
    unlabeled: ImageStore | None
    valid: ImageStore | None
    test: ImageStore | None
    sources: dict[str, dict[str, Any]]
    notes: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Images by set."""
        sets = ("labeled", "unlabeled", "valid", "test")
        return {name: len(getattr(self, name) or ()) for name in sets}


def load_training_data(settings: DataSettings) -> TrainingData:
    """Opens, checks and divides the files of a dataset.

    Raises:
      DataError: a file is missing or damaged, its manifest disagrees, or sets do not fit together.
      UsageError: the name, --nclass, --img_size or the validation size does not fit the data.
    """
    opened = _Opened(settings)
    name = settings.name
    if name.is_split:
        labeled = opened.open("labeled", name.label_file(settings.data_dir))
        original = name.without_copies().unlabel_file(settings.data_dir)
        unused = not name.valid and (bool(name.copies) or not settings.need_unlabeled)
        pool = opened.open("pool", original, optional=unused)
    else:
        labeled = opened.open("labeled", opened.train_path())
        pool = labeled
    test = opened.open("test", opened.test_path(), optional=True)
    if labeled is None:
        raise DataError("there is no labelled set", settings.data_dir)

    valid_ids = _first_labeled(pool, name.valid)
    labeled_ids = np.flatnonzero(labeled.labeled)
    if not name.is_split:
        labeled_ids = labeled_ids[name.valid :]
    unlabeled, unlabeled_ids = None, np.zeros(0, np.int64)
    if settings.need_unlabeled:
        unlabeled, unlabeled_ids = _unlabeled(settings, opened, pool, valid_ids)

    shape, classes = opened.shape_and_classes(labeled)
    in_memory = settings.in_memory
    images = len(labeled_ids) + len(unlabeled_ids) + len(valid_ids)
    needed = int(np.prod(shape)) * (images + (0 if test is None else len(test)))
    if in_memory and needed > _MEMORY_SHARE * _free_memory():
        in_memory = False
        opened.notes.append("the images do not fit the free memory and are read from their files")

    def store(reader: RecordReader | None, ids: np.ndarray, memory: bool) -> ImageStore | None:
        return None if reader is None or not len(ids) else ImageStore(reader, ids, shape, memory)

    labeled_store = store(labeled, labeled_ids, in_memory)
    if labeled_store is None:
        raise DataError("there is no labelled image left to train on", labeled.path)
    test_ids = np.zeros(0, np.int64) if test is None else np.flatnonzero(test.labeled)
    return TrainingData(
        classes,
        shape,
        labeled_store,
        store(unlabeled, unlabeled_ids, in_memory),
        store(pool, valid_ids, in_memory),
        store(test, test_ids, in_memory),
        opened.sources,
        opened.notes,
    )


def _first_labeled(pool: RecordReader | None, count: int) -> np.ndarray:
    """The first ``count`` truly labelled records of the pool, in its order."""
    if not count:
        return np.zeros(0, np.int64)
    if pool is None:
        raise DataError("validation images come from the unlabelled file, which is missing")
    ids = np.flatnonzero(pool.labeled)[:count]
    if len(ids) < count:
        raise UsageError(
            f"{count} validation images were asked for but only {len(ids)} have a true label",
            pool.path,
            f"a name that ends in -{len(ids)} or less",
        )
    return ids


def _unlabeled(
    settings: DataSettings, opened: _Opened, pool: RecordReader | None, valid_ids: np.ndarray
) -> tuple[RecordReader, np.ndarray]:
    name = settings.name
    if not name.is_split:
        raise UsageError(
            f"the method reads unlabelled images, which {str(name)!r} does not name",
            "--dataset",
            "a split such as cifar10.1@250-5000, made by scripts/create_split.py",
        )
    if not name.copies:
        if pool is None:
            raise DataError("there is no unlabelled set", name.unlabel_file(settings.data_dir))
        return pool, np.setdiff1d(np.arange(len(pool)), valid_ids)
    copies = opened.open("unlabeled", name.unlabel_file(settings.data_dir))
    if copies is None:
        raise DataError("there are no augmented copies", name.unlabel_file(settings.data_dir))
    if not len(valid_ids):
        return copies, np.arange(len(copies))
    if (copies.sources < 0).any():
        raise DataError(
            "these copies do not say which image they were made from, so copies of validation "
            "images cannot be kept out of training",
            copies.path,
            "scripts/make_aug_copy.py again, or a name that ends in -0",
        )
    # A copy's source is the id its image has in the split's map, else its place in the file.
    map_file = name.without_copies().map_file(settings.data_dir)
    held_out = valid_ids
    if os.path.exists(map_file):
        held_out = read_map(map_file, len(pool or ()))[valid_ids]
    return copies, np.flatnonzero(~np.isin(copies.sources, held_out))


class _Opened:
    """The record files of a run, opened once, with what they agree on."""

    def __init__(self, settings: DataSettings) -> None:
        self.settings = settings
        self.sources: dict[str, dict[str, Any]] = {}
        self.notes: list[str] = []
        self._readers: dict[str, RecordReader] = {}

    def train_path(self) -> Path:
        override = self.settings.train_record
        data_dir = self.settings.data_dir
        return data_dir / override if override else self.settings.name.train_file(data_dir)

    def test_path(self) -> Path:
        override = self.settings.test_record
        data_dir = self.settings.data_dir
        return data_dir / override if override else self.settings.name.test_file(data_dir)

    def open(self, role: str, path: Path, optional: bool = False) -> RecordReader | None:
        if not path.exists():
            if optional:
                self.notes.append(f"there is no {path.name}: nothing is reported on that set")
                return None
            raise DataError(
                "a file of this dataset is missing",
                path,
                "scripts/create_datasets.py and scripts/create_split.py make it",
            )
        reader = RecordReader(path)
        manifest = reader.manifest
        if manifest is None:
            self.notes.append(f"{path.name} has no manifest; every label in it is taken as true")
        digest = sha256_file(path)
        if manifest is not None and digest != manifest.sha256:
            raise DataError(
                "this file is not the one its manifest describes (SHA-256 differs)",
                path,
                "scripts/verify.py on it, then build it again",
            )
        self._readers[role] = reader
        self.sources[role] = {
            "file": path.name,
            "records": len(reader),
            "sha256": digest,
        }
        return reader

    def shape_and_classes(
        self, labeled: RecordReader
    ) -> tuple[tuple[int, int, int], tuple[str, ...]]:
        described = {r: reader.manifest for r, reader in self._readers.items() if reader.manifest}
        for role, manifest in described.items():
            first_role, first = next(iter(described.items()))
            # Names say nothing about images without a label: those may be of any class.
            named = bool(manifest.labeled) and manifest.classes != first.classes
            if named or _shape(manifest) != _shape(first):
                raise DataError(
                    f"the {role} and {first_role} sets disagree on image size or classes",
                    self._readers[role].path,
                    "build and split them from the same dataset",
                )
        if described:
            manifest = next(iter(described.values()))
            shape, classes = _shape(manifest), manifest.classes
        else:
            shape, classes = self._guess(labeled)
        self._check_expected(shape, classes)
        return shape, self._renamed(classes)

    def _guess(self, labeled: RecordReader) -> tuple[tuple[int, int, int], tuple[str, ...]]:
        png = bytes(labeled.image(0))
        colors = {0: 1, 2: 3}.get(png[25] if len(png) > 25 else -1)
        if colors is None:
            raise DataError("the first record holds no grey or RGB PNG", labeled.path)
        shape = int.from_bytes(png[20:24], "big"), int.from_bytes(png[16:20], "big"), colors
        highest = max(int(reader.labels.max(initial=0)) for reader in self._readers.values())
        return shape, tuple(map(str, range(self.settings.num_classes or highest + 1)))

    def _check_expected(self, shape: tuple[int, int, int], classes: Sequence[str]) -> None:
        settings = self.settings
        if settings.num_classes and settings.num_classes != len(classes):
            raise UsageError(
                f"--nclass is {settings.num_classes} but the data have {len(classes)} classes",
                ", ".join(classes[:12]),
                "leave --nclass out",
            )
        if settings.image_size and (settings.image_size,) * 2 != shape[:2]:
            raise UsageError(
                f"--img_size is {settings.image_size} but the images are {shape[0]}×{shape[1]}",
                settings.data_dir,
                "leave --img_size out, or build the dataset at that size",
            )
        for reader in self._readers.values():
            if reader.labels.max(initial=0) >= len(classes):
                raise DataError(
                    f"label {int(reader.labels.max())} does not belong to {len(classes)} classes",
                    reader.path,
                    "--nclass with the right number, or build the dataset again",
                )

    def _renamed(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        if not self.settings.class_mapping:
            return classes
        value = read_json(self.settings.class_mapping)
        expected = {str(index) for index in range(len(classes))}
        if not isinstance(value, dict) or set(value) != expected:
            raise DataError(
                f"this class mapping does not name the ids 0 to {len(classes) - 1}: "
                f"{json.dumps(value)[:80]}",
                self.settings.class_mapping,
            )
        return tuple(str(value[str(index)]) for index in range(len(classes)))


def _shape(manifest: Manifest) -> tuple[int, int, int]:
    return manifest.height, manifest.width, manifest.channels


def _free_memory() -> int:
    """Bytes free for use, or a cautious guess where the system does not tell (macOS)."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return _GUESSED_MEMORY
