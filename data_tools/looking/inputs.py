"""What a user names: record files, or a dataset or split by its name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from realmix_tf.data.names import DatasetName
from realmix_tf.errors import DataError, UsageError
from realmix_tf.files import resource_error

SUFFIX = ".tfrecord"
FILE_ROLES = ("train", "unlabeled", "extra", "test")  # of the files of a whole dataset


@dataclass(frozen=True)
class Inputs:
    """Record files, or the name of a dataset and its folder.

    Attributes:
      files: the record files that were named; empty when a dataset was.
      name: the dataset, with the validation size 0 where none was said.
      data_dir: where the dataset lies.
    """

    files: tuple[Path, ...] = ()
    name: DatasetName | None = None
    data_dir: Path = Path()


def parse_inputs(words: Sequence[str], data_dir: str) -> Inputs:
    """Tells record files from the name of a dataset.

    A word is a file when there is one of that path, here or in the folder of the datasets, or when
    it ends in ``.tfrecord``.

    Args:
      words: what the user typed, at least one.
      data_dir: folder of the datasets; empty when none was given.

    Raises:
      DataError: a file does not exist, or there are no files of such a dataset.
      UsageError: a name was given without a folder, or together with other things.
    """
    files = [_file(word, data_dir) for word in words]
    if all(path is not None for path in files):
        return Inputs(tuple(path for path in files if path is not None))
    word = words[[path is None for path in files].index(True)]
    if len(words) > 1:
        raise UsageError(
            f"{word!r} is no record file; a dataset is named alone",
            "",
            "either record files, or the name of one dataset",
        )
    if not data_dir:
        raise UsageError(f"the folder that holds {word!r} is missing", "", "--data_dir=FOLDER")
    return Inputs(name=dataset_name(word, Path(data_dir)), data_dir=Path(data_dir))


def dataset_name(text: str, data_dir: Path) -> DatasetName:
    """A dataset or split by name, with or without ``-<valid>``, whose files exist.

    Raises:
      UsageError: it can be no such name.
      DataError: there are no files of it in the folder.
    """
    if "@" in text:
        name = DatasetName.parse_split(text)
        if not name.label_file(data_dir).exists():
            raise DataError(
                f"there is no split {name.split!r} in this folder",
                data_dir,
                "scripts/create_split.py makes one",
            )
        return name
    whole = DatasetName(text, copies=None, seed=None, labels=None, valid=0)
    # A dataset may be called so that its name looks like one with a validation size.
    if whole.train_file(data_dir).exists():
        return whole
    try:
        name = DatasetName.parse(text)
    except UsageError:
        name = whole
    if not name.train_file(data_dir).exists():
        raise DataError(
            f"there is no dataset {name.dataset!r} in this folder",
            data_dir,
            "scripts/create_datasets.py makes one; or the path of a record file",
        )
    return name


def walk(folder: Path, skipped: list[str]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """A folder and those below it, each with its names; nothing is left out in silence.

    Args:
      folder: where to begin; may be a link itself.
      skipped: links to folders, which are not followed, are added here.

    Yields:
      (folder, names of the folders in it, names of everything else in it)

    Raises:
      ResourceError: a folder may not be read.
    """

    def stop(error: OSError) -> None:
        # Other processes may remove what is below meanwhile.
        if not isinstance(error, FileNotFoundError) or error.filename == str(folder):
            raise resource_error(error, error.filename) from error

    for place, folders, names in os.walk(folder, onerror=stop):
        here = Path(place)
        skipped += sorted(str(here / name) for name in folders if (here / name).is_symlink())
        yield here, folders, names


def _file(word: str, data_dir: str) -> Path | None:
    places = [Path(word), *([Path(data_dir, word)] if data_dir else [])]
    for place in places:
        # Of that ending also what is no file: the reader says so.
        if place.is_file() or (word.endswith(SUFFIX) and place.exists()):
            return place
    if word.endswith(SUFFIX):
        raise DataError("there is no such record file", word, "check the name and --data_dir")
    return None
