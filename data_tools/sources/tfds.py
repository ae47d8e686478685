"""``tfds:NAME[/CONFIG]``: an image-classification set of TensorFlow Datasets.

TensorFlow Datasets downloads and prepares the set; its record files are then read directly, so that
the pictures go through the one decoder of this project and keep the order of the files.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_tools.parallel import in_order
from data_tools.plan import FileUse, Plan, resident_bytes
from data_tools.sources import TFDS
from data_tools.sources.archives import rows_of_block
from data_tools.sources.building import UNLABELED, Block, BuildOptions, Contents, Source
from data_tools.sources.download import reach
from realmix_tf.data import manifest as manifests
from realmix_tf.data.images import decode_image
from realmix_tf.data.names import check_dataset
from realmix_tf.data.records import RecordReader
from realmix_tf.errors import DataError, ResourceError, UsageError

# Names of code that would come from the network first (namespace:name) are none of these.
_TITLE = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9_]*)(?:/(?P<config>\w[\w.\-]*))?(?P<version>:[0-9]+\.[0-9]+\.[0-9]+)?"
)
_EXAMPLE = f"{TFDS}beans, or {TFDS}NAME/CONFIG for one of several"
# Role → names of the splits it may come from, the first that exists.
_SPLITS = {
    "train": ("train",),
    "test": ("test", "validation"),
    "extra": ("extra",),
    UNLABELED: ("unlabelled", "unlabeled"),
}
_ROLES_KEY = "splits"  # in the provenance: role → split and records
_NO_LABELS = tuple(_SPLITS)


def source(title: str, options: BuildOptions) -> Source:
    """The set as a source; TensorFlow Datasets prepares it if it has not yet.

    Raises:
      UsageError: the name is not one, or ``options.size`` is missing or differs from what exists.
      DataError: this is no set of labelled images.
      ResourceError: it is not prepared and cannot be had.
    """
    dataset = _dataset(title)
    if not options.overwrite:
        built = _built(title, dataset, options)
        if built is not None:
            return built
    prepared = _Prepared(title, options)
    _check_features(title, prepared, options)
    prepared.prepare()
    return _described(title, dataset, prepared, options)


def plan_preparation(title: str, options: BuildOptions) -> Plan | None:
    """What preparing the set would take; None when it is prepared or built already.

    How many images it has is known only after that.

    Raises:
      UsageError, DataError, ResourceError: as ``source``.
    """
    dataset = _dataset(title)
    if not options.overwrite and _built(title, dataset, options) is not None:
        return None
    prepared = _Prepared(title, options)
    _check_features(title, prepared, options)
    if prepared.is_there:
        return None
    prepared.require_network_allowed()
    size = prepared.download_bytes
    return Plan(
        reads=(FileUse(prepared.address, size),),
        writes=(FileUse(str(prepared.folder), size),),
        memory=resident_bytes(),
        facts={"download": size},
        notes=(
            f"{title} is not on this machine; TensorFlow Datasets would download and prepare it, "
            "and only then its number of images is known",
        ),
    )


def _dataset(title: str) -> str:
    match = _TITLE.fullmatch(title.removeprefix(TFDS))
    if match is None:
        raise UsageError(f"{title!r} is not a set of TensorFlow Datasets", "", _EXAMPLE)
    config = f"-{match['config']}" if match["config"] else ""
    return check_dataset(match["name"] + config)


def _built(title: str, dataset: str, options: BuildOptions) -> Source | None:
    """The source as its training manifest describes it; None when there is no such."""
    path = options.data_dir / f"{dataset}-train.tfrecord"
    try:
        manifest = manifests.read_manifest(path)
    except DataError:
        return None
    splits = {} if manifest is None else manifest.provenance.get(_ROLES_KEY)
    if manifest is None or not isinstance(splits, dict) or "train" not in splits:
        return None
    shape = (manifest.height, manifest.width, manifest.channels)
    if options.size not in (None, shape[:2]):
        raise UsageError(
            f"this set exists with images of {shape[0]}x{shape[1]}",
            path,
            "--overwrite, or without --img_size",
        )

    def read(archives: Mapping[str, Path], source: Source) -> Contents:
        prepared = _Prepared(title, options)
        prepared.prepare()
        fresh = _described(title, dataset, prepared, options)
        return fresh.read(archives, source)

    records = {role: int(splits[role]["records"]) for role in _SPLITS if role in splits}
    return Source(
        name=dataset,
        shape=shape,
        records=records,
        read=read,
        title=title,
        lacks_labels=_NO_LABELS,
        origin={_ROLES_KEY: splits, "tfds_version": manifest.provenance.get("tfds_version")},
    )


class _Prepared:
    """A set of TensorFlow Datasets, on the disk or yet to come.

    Raises:
      UsageError: there is no such set.
    """

    def __init__(self, title: str, options: BuildOptions) -> None:
        self._title, self._options = title, options
        self.builder = self._find({})

    def _find(self, more: dict[str, Any]) -> Any:
        name = self._title.removeprefix(TFDS)
        tfds = _library()
        folder = self._options.tfds_dir
        try:
            with _quietly():
                return tfds.builder(
                    name, data_dir=None if folder is None else str(folder), try_gcs=False, **more
                )
        except tfds.core.registered.DatasetNotFoundError as error:
            known = tfds.list_builders(with_community_datasets=False)
            nearest = difflib.get_close_matches(name.split("/")[0], known, n=3, cutoff=0.5)
            raise UsageError(
                f"TensorFlow Datasets has no set {name!r}",
                "",
                " or ".join(TFDS + other for other in nearest) or _EXAMPLE,
            ) from error
        except Exception as error:
            # An unknown configuration or version is told in many ways.
            raise UsageError(
                f"TensorFlow Datasets cannot open {name!r}: {_first_line(error)}", "", _EXAMPLE
            ) from error

    @property
    def is_there(self) -> bool:
        """Whether it is prepared."""
        with _quietly():
            return bool(self.builder.is_prepared())

    @property
    def folder(self) -> Path:
        """Where it is, or will be."""
        return Path(str(self.builder.data_dir))

    @property
    def address(self) -> str:
        """An address it is downloaded from."""
        urls = sorted(self._urls())
        return urls[0] if urls else "https://storage.googleapis.com"

    @property
    def download_bytes(self) -> int:
        """Bytes to download as far as they are known."""
        return sum(int(info.size) for info in self._urls().values())

    def _urls(self) -> dict[str, Any]:
        return dict(getattr(self.builder, "url_infos", None) or {})

    def require_network_allowed(self) -> None:
        """Raises ``ResourceError`` when it would have to be downloaded and that is forbidden."""
        if self._options.access.offline:
            raise ResourceError(
                f"{self._title} is not prepared, and --offline forbids to download it",
                self.folder,
                "--tfds_dir=FOLDER of TensorFlow Datasets that has it, or a run without --offline",
            )

    def prepare(self) -> None:
        """Downloads and prepares it where needed.

        Raises:
          ResourceError: the network is forbidden or not there, or TensorFlow Datasets fails.
        """
        if self.is_there:
            return
        self.require_network_allowed()
        problem = reach(self.address)
        if problem:
            raise ResourceError(
                f"{self._title} is not prepared and cannot be downloaded: {problem}",
                self.folder,
                "a network, or --tfds_dir=FOLDER of TensorFlow Datasets that has it",
            )
        tfds = _library()
        if not sys.stderr.isatty():
            tfds.disable_progress_bar()
        self.builder = self._find({"file_format": "tfrecord"})
        try:
            with _quietly():
                self.builder.download_and_prepare(
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False)
                )
        except Exception as error:
            # Whatever it is (no network, a changed file, a manual download): one line, not a trace.
            by_hand = getattr(self.builder, "MANUAL_DOWNLOAD_INSTRUCTIONS", None)
            remedy = " ".join(str(by_hand).split())[:300] if by_hand else "later, or another mirror"
            raise ResourceError(
                f"TensorFlow Datasets cannot prepare {self._title}: {_first_line(error)}",
                self.folder,
                remedy,
            ) from error


@dataclass(frozen=True)
class _Split:
    """A split of a prepared set: its record files with the number of records in each."""

    name: str
    files: tuple[tuple[Path, int], ...]

    @property
    def records(self) -> int:
        """How many records it has."""
        return sum(count for _, count in self.files)


def _described(title: str, dataset: str, prepared: _Prepared, options: BuildOptions) -> Source:
    builder = prepared.builder
    features = builder.info.features
    shape, classes = _shape(title, features, options.size), _classes(title, features)
    splits = _splits(title, builder.info.splits)
    files_format = str(getattr(builder.info.file_format, "value", builder.info.file_format))
    if files_format != "tfrecord":
        raise DataError(
            f"{title} is prepared in the format {files_format}",
            prepared.folder,
            "--tfds_dir=FOLDER, where it can be prepared as tfrecord",
        )

    def read(archives: Mapping[str, Path], source: Source) -> Contents:
        unreadable: list[tuple[str, str]] = []
        parts = (
            (role, _blocks(split, role, shape, options.size, unreadable))
            for role, split in splits.items()
        )
        return Contents(classes, parts, unreadable=unreadable)

    return Source(
        name=dataset,
        shape=shape,
        records={role: split.records for role, split in splits.items()},
        read=read,
        title=title,
        lacks_labels=_NO_LABELS,
        origin={
            _ROLES_KEY: {
                role: {"split": split.name, "records": split.records}
                for role, split in splits.items()
            },
            "tfds_version": str(builder.info.version),
        },
        inputs=tuple(path for split in splits.values() for path, _ in split.files),
        notes=_notes(splits, builder.info.splits),
    )


def _notes(splits: Mapping[str, _Split], found: Any) -> tuple[str, ...]:
    notes: list[str] = []
    if "test" not in splits:
        notes.append("this set has no test or validation split; training needs a test file")
    elif splits["test"].name != "test":
        notes.append(f"the {splits['test'].name} split is taken for testing")
    left_out = sorted(set(found) - {split.name for split in splits.values()})
    if left_out:
        notes.append(f"not used: the splits {', '.join(left_out)}")
    return tuple(notes)


def _check_features(title: str, prepared: _Prepared, options: BuildOptions) -> None:
    """Refuses, before anything is downloaded, what could not be used after it."""
    features = prepared.builder.info.features
    _classes(title, features)
    _shape(title, features, options.size)


def _shape(title: str, features: Any, size: tuple[int, int] | None) -> tuple[int, int, int]:
    """Height, width and channels of the records' images.

    Raises:
      DataError: the set has no images that can be used.
      UsageError: they differ in size, and none was asked for.
    """
    image = _feature(features, "image")
    known = isinstance(image, _library().features.Image)
    if not known or np.dtype(image.np_dtype).name not in ("uint8", "uint16"):
        raise _no_classification(title, features)
    height, width, depth = image.shape
    channels = 1 if depth == 1 else 3
    if size is not None:
        return (*size, channels)
    if height is None or width is None:
        raise UsageError(f"the images of {title} differ in size", "", "--img_size=32 or another")
    return int(height), int(width), channels


def _classes(title: str, features: Any) -> tuple[str, ...]:
    label = _feature(features, "label")
    if not isinstance(label, _library().features.ClassLabel) or not label.num_classes:
        raise _no_classification(title, features)
    return tuple(map(str, label.names))


def _feature(features: Any, name: str) -> Any:
    return features[name] if hasattr(features, "keys") and name in features else None


def _no_classification(title: str, features: Any) -> DataError:
    found = ", ".join(sorted(features)) if hasattr(features, "keys") else type(features).__name__
    return DataError(
        f"{title} is no set of 8- or 16-bit images with one class each; it has {found}",
        "",
        "a set with the features image and label",
    )


def _splits(title: str, found: Any) -> dict[str, _Split]:
    splits: dict[str, _Split] = {}
    for role, names in _SPLITS.items():
        name = next((name for name in names if name in found), None)
        if name is not None:
            info = found[name]
            paths = [Path(str(path)) for path in info.filepaths]
            splits[role] = _Split(name, tuple(zip(paths, info.shard_lengths, strict=True)))
    if "train" not in splits:
        raise DataError(
            f"{title} has no split named train; it has {', '.join(found)}", "", "another set"
        )
    return splits


class _Task(NamedTuple):
    """Some encoded pictures with their labels; ``where`` names the first, the others follow."""

    images: list[bytes]
    labels: list[int]
    where: str
    first: int


class _Decoded(NamedTuple):
    """A block, and (picture, reason) of what could not be read."""

    block: Block
    problems: list[tuple[str, str]]


def _blocks(
    split: _Split,
    role: str,
    shape: tuple[int, int, int],
    size: tuple[int, int] | None,
    unreadable: list[tuple[str, str]],
) -> Iterator[Block]:
    def decode(task: _Task) -> _Decoded:
        return _decode(task, shape, size)

    for block, problems in in_order(decode, _tasks(split, rows_of_block(int(np.prod(shape))))):
        unreadable += problems
        if len(block.labels):
            yield block


def _tasks(split: _Split, rows: int) -> Iterator[_Task]:
    for path, count in split.files:
        with RecordReader(path) as reader:
            if len(reader) != count:
                raise DataError(
                    f"the file has {len(reader)} records instead of {count}",
                    path,
                    "remove it and let TensorFlow Datasets prepare it again",
                )
            for first in range(0, count, rows):
                records = [reader.record(i) for i in range(first, min(first + rows, count))]
                images, labels = [r.image for r in records], [r.label for r in records]
                yield _Task(images, labels, str(path), first)


def _decode(task: _Task, shape: tuple[int, int, int], size: tuple[int, int] | None) -> _Decoded:
    pixels: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    problems: list[tuple[str, str]] = []
    for i, (data, label) in enumerate(zip(task.images, task.labels, strict=True)):
        where = f"{task.where}, record {task.first + i}"
        try:
            image = decode_image(data, size=size, channels=shape[2])
            if image.shape != shape:
                raise DataError(f"an image of {image.shape} among images of {shape}")
        except DataError as error:
            if label >= 0:
                raise DataError(error.what, where, "prepare the set again") from error
            problems.append((where, error.what))
            continue
        pixels.append(image)
        labels.append(label)
    images = np.stack(pixels) if pixels else np.empty((0, *shape), np.uint8)
    return _Decoded(Block(images, np.array(labels, np.int64)), problems)


def _library() -> Any:
    """TensorFlow Datasets, imported at its first use and kept off Google's own network."""
    os.environ["NO_GCE_CHECK"] = "true"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ResourceError(
            f"TensorFlow Datasets cannot be imported: {_first_line(error)}",
            "",
            "pip install tensorflow-datasets",
        ) from error
    return tensorflow_datasets


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps the library's warnings about folders that are not there yet off the terminal."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
