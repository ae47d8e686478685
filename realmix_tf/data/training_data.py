"""From a dataset's name to the sets that training reads, with nothing leaking between them.

``division`` says which record belongs to which set; here the files are opened and checked, and the
images decoded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from realmix_tf.data.division import Files, divide, training_labels
from realmix_tf.data.manifest import RESIZES, Manifest
from realmix_tf.data.names import DatasetName
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
      allow_overlap: labelled images that are in the test set too are a note instead of an error.
      use_pseudo_labels: images with a pseudo label are trained on as labelled ones; only for a
        whole dataset, never for validation.
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
    allow_overlap: bool = False
    use_pseudo_labels: bool = False


@dataclass
class TrainingData:
    """The sets of a run.

    Attributes:
      classes: names by id.
      shape: (height, width, channels).
      sources: role → {file, sha256, records}: what the run rests on.
      notes: what the user should be told once.
      files: the record files.
      resize: how their pictures came to their size, one of ``realmix_tf.data.manifest.RESIZES``.
    """

    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    labeled: ImageStore
    unlabeled: ImageStore | None
    valid: ImageStore | None
    test: ImageStore | None
    sources: dict[str, dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    files: tuple[Path, ...] = ()
    resize: str = RESIZES[0]

    def counts(self) -> dict[str, int]:
        """Images by set."""
        sets = ("labeled", "unlabeled", "valid", "test")
        return {name: len(getattr(self, name) or ()) for name in sets}


def load_training_data(settings: DataSettings) -> TrainingData:
    """Opens, checks and divides the files of a dataset (see ``divide``).

    Raises:
      DataError: a file is missing or damaged, its manifest disagrees, sets do not fit together,
        or labelled images are in the test set.
      UsageError: the name, --nclass, --img_size or the validation size does not fit the data.
    """
    opened = _Opened(settings)
    files = opened.files()
    shape, classes = opened.shape_and_classes(files.labeled)
    division = divide(
        files,
        need_unlabeled=settings.need_unlabeled,
        pseudo_labels=settings.use_pseudo_labels,
        allow_overlap=settings.allow_overlap,
    )
    opened.notes += division.notes
    if not len(division.labeled):
        raise DataError("there is no labelled image left to train on", files.labeled.path)
    in_memory = settings.in_memory
    sets = (division.labeled, division.valid, division.test)
    needed = int(np.prod(shape)) * sum(map(len, (*sets, division.unlabeled)))
    if in_memory and needed > _MEMORY_SHARE * _free_memory():
        in_memory = False
        opened.notes.append("the images do not fit the free memory and are read from their files")

    def store(reader: RecordReader | None, ids: np.ndarray) -> ImageStore | None:
        return None if reader is None or not len(ids) else ImageStore(reader, ids, shape, in_memory)

    labeled = ImageStore(files.labeled, division.labeled, shape, in_memory)
    labeled.labels = training_labels(files.labeled, settings.use_pseudo_labels)[division.labeled]
    return TrainingData(
        classes,
        shape,
        labeled,
        store(files.pool if files.copies is None else files.copies, division.unlabeled),
        store(files.pool, division.valid),
        store(files.test, division.test),
        opened.sources,
        opened.notes,
        tuple(dict.fromkeys(reader.path for reader in opened.readers.values())),
        files.labeled.manifest.resize if files.labeled.manifest else RESIZES[0],
    )


class _Opened:
    """The record files of a run, opened once, with what they agree on."""

    def __init__(self, settings: DataSettings) -> None:
        self.settings = settings
        self.sources: dict[str, dict[str, Any]] = {}
        self.notes: list[str] = []
        self.readers: dict[str, RecordReader] = {}

    def files(self) -> Files:
        """Opens the files that this run needs."""
        name, data_dir = self.settings.name, self.settings.data_dir
        needed = self.settings.need_unlabeled
        if needed and not name.is_split:
            raise UsageError(
                f"the method reads unlabelled images, which {str(name)!r} does not name",
                "--dataset",
                "a split such as cifar10.1@250-5000, made by scripts/create_split.py",
            )
        if not name.is_split:
            labeled = self.open("labeled", self.train_path())
            test = self.open_if_there("test", self.test_path())
            return Files(name, labeled, labeled, test=test)
        labeled = self.open("labeled", name.label_file(data_dir))
        original = name.without_copies().unlabel_file(data_dir)
        unused = not name.valid and (bool(name.copies) or not needed)
        pool = (self.open_if_there if unused else self.open)("pool", original)
        copies = None
        if needed and name.copies:
            copies = self.open("unlabeled", name.unlabel_file(data_dir))
        test = self.open_if_there("test", self.test_path())
        return Files(name, labeled, pool, copies, test, name.map_file(data_dir))

    def train_path(self) -> Path:
        override = self.settings.train_record
        data_dir = self.settings.data_dir
        return data_dir / override if override else self.settings.name.train_file(data_dir)

    def test_path(self) -> Path:
        override = self.settings.test_record
        data_dir = self.settings.data_dir
        return data_dir / override if override else self.settings.name.test_file(data_dir)

    def open_if_there(self, role: str, path: Path) -> RecordReader | None:
        if path.exists():
            return self.open(role, path)
        self.notes.append(f"there is no {path.name}: nothing is reported on that set")
        return None

    def open(self, role: str, path: Path) -> RecordReader:
        if not path.exists():
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
        self.readers[role] = reader
        self.sources[role] = {
            "file": path.name,
            "records": len(reader),
            "sha256": digest,
        }
        return reader

    def shape_and_classes(
        self, labeled: RecordReader
    ) -> tuple[tuple[int, int, int], tuple[str, ...]]:
        described = {r: reader.manifest for r, reader in self.readers.items() if reader.manifest}
        for role, manifest in described.items():
            first_role, first = next(iter(described.items()))
            # Names say nothing about images without a label: those may be of any class.
            named = bool(manifest.labeled) and manifest.classes != first.classes
            if named or _shape(manifest) != _shape(first):
                raise DataError(
                    f"the {role} and {first_role} sets disagree on image size or classes",
                    self.readers[role].path,
                    "build and split them from the same dataset",
                )
            if manifest.resize != first.resize:
                raise DataError(
                    f"the pictures of the {role} set were resized by {manifest.resize!r}, those of "
                    f"the {first_role} set by {first.resize!r}",
                    self.readers[role].path,
                    "build both with the same --crop",
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
        highest = max(int(reader.labels.max(initial=0)) for reader in self.readers.values())
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
        for reader in self.readers.values():
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
