"""Names of datasets and splits, and the files behind them.

A split is called ``<dataset>[_aug<N>].<seed>@<labels>-<valid>``, a fully supervised baseline
``<dataset>-<valid>``. Dataset names may contain ``-``, ``.`` and ``_``; sizes and seeds are free.
"""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from realmix_tf.errors import DataError, UsageError
from realmix_tf.files import read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_NAME_LENGTH = 100
EXPECTED = "<dataset>[_aug<copies>].<seed>@<labels>-<valid>, such as cifar10.1@250-5000"

_NUMBER = r"(?:0|[1-9][0-9]{0,9})"
_DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_COPIES_SUFFIX = re.compile(rf"_aug{_NUMBER}\Z")
_SPLIT = re.compile(
    rf"(?P<dataset>.+?)(?:_aug(?P<copies>{_NUMBER}))?"
    rf"\.(?P<seed>{_NUMBER})@(?P<labels>{_NUMBER})(?:-(?P<valid>{_NUMBER}))?",
    re.DOTALL,
)
_BASELINE = re.compile(rf"(?P<dataset>.+)-(?P<valid>{_NUMBER})", re.DOTALL)

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class DatasetName:
    """A parsed name.

    Attributes:
      dataset: the set the records come from.
      copies: augmented copies of every unlabelled image; None when there are none.
      seed: seed of the label draw; None for a fully supervised baseline.
      labels: labelled images; None for a fully supervised baseline.
      valid: validation images, at least 0.
    """

    dataset: str
    copies: int | None
    seed: int | None
    labels: int | None
    valid: int

    def __post_init__(self) -> None:
        check_dataset(self.dataset)
        if (self.seed is None) != (self.labels is None):
            raise UsageError("a split needs both a seed and a number of labels", self.dataset)
        if self.copies is not None and self.seed is None:
            raise UsageError("copies belong to a split, not to a whole dataset", self.dataset)
        for field, least in (("copies", 1), ("seed", 0), ("labels", 1), ("valid", 0)):
            value = getattr(self, field)
            if value is not None and value < least:
                raise UsageError(f"{field} is {value}, it must be at least {least}", self.dataset)

    @classmethod
    def parse(cls, text: str) -> DatasetName:
        """Parses a name; ``str`` of the result is ``text`` again.

        Raises:
          UsageError: the text is no such name; the message shows the expected form.
        """
        match = _SPLIT.fullmatch(text)
        if match and match["valid"] is not None:
            return cls._of_split(match)
        match = _BASELINE.fullmatch(text)
        if match and "@" not in text:
            return cls(match["dataset"], None, None, None, int(match["valid"]))
        raise UsageError(f"{text!r} is not a dataset name", "", EXPECTED)

    @classmethod
    def parse_split(cls, text: str) -> DatasetName:
        """Parses ``<dataset>[_aug<N>].<seed>@<labels>`` with or without ``-<valid>`` (then 0).

        Raises:
          UsageError: the text is no such name; the message shows the expected form.
        """
        match = _SPLIT.fullmatch(text)
        if not match:
            raise UsageError(
                f"{text!r} is not the name of a split",
                "",
                "<dataset>.<seed>@<labels>, such as cifar10.1@250",
            )
        return cls._of_split(match)

    @classmethod
    def _of_split(cls, match: re.Match[str]) -> DatasetName:
        copies = match["copies"]
        return cls(
            dataset=match["dataset"],
            copies=None if copies is None else int(copies),
            seed=int(match["seed"]),
            labels=int(match["labels"]),
            valid=int(match["valid"] or 0),
        )

    def __str__(self) -> str:
        return f"{self.split}-{self.valid}" if self.is_split else f"{self.dataset}-{self.valid}"

    @property
    def is_split(self) -> bool:
        """Whether there is a label draw; False for a fully supervised baseline."""
        return self.seed is not None

    @property
    def split(self) -> str:
        """The name without the validation size, the stem of the split's files."""
        self._require_split()
        copies = "" if self.copies is None else f"_aug{self.copies}"
        return f"{self.dataset}{copies}.{self.seed}@{self.labels}"

    def without_copies(self) -> DatasetName:
        """The split the copies were made from."""
        return dataclasses.replace(self, copies=None)

    def with_copies(self, copies: int) -> DatasetName:
        """The split with ``copies`` augmented copies of every unlabelled image."""
        return dataclasses.replace(self, copies=copies)

    def label_file(self, data_dir: PathLike) -> Path:
        """The labelled records. Copies do not change them, so it is the file of the base split.

        The original tools wrote one under the name with copies too; it is used where it is the
        only one.
        """
        base = Path(data_dir, "SSL", f"{self.without_copies().split}-label.tfrecord")
        return self._first_existing(base, f"{self.split}-label.tfrecord")

    def unlabel_file(self, data_dir: PathLike) -> Path:
        """The unlabelled records, or their augmented copies."""
        return Path(data_dir, "SSL", f"{self.split}-unlabel.tfrecord")

    def map_file(self, data_dir: PathLike) -> Path:
        """The ids of the split (of the base split when there are copies)."""
        return Path(data_dir, "SSL", f"{self.without_copies().split}-map.json")

    def train_file(self, data_dir: PathLike) -> Path:
        """All training records of the dataset."""
        return Path(data_dir, f"{self.dataset}-train.tfrecord")

    def test_file(self, data_dir: PathLike) -> Path:
        """The test records of the dataset (see ``label_file`` on copies)."""
        base = Path(data_dir, f"{self.dataset}-test.tfrecord")
        return self._first_existing(base, f"{self.dataset}_aug{self.copies}-test.tfrecord")

    def _first_existing(self, base: Path, of_copies: str) -> Path:
        original = base.with_name(of_copies)
        if self.copies is not None and not base.exists() and original.exists():
            return original
        return base

    def _require_split(self) -> None:
        if not self.is_split:
            raise UsageError(f"{self.dataset!r} is a whole dataset, not a split", "", EXPECTED)


def read_map(path: PathLike, expected: int) -> NDArray[np.int64]:
    """The ids of a split's unlabelled records in its input, in the order of their file.

    Args:
      path: what ``DatasetName.map_file`` names.
      expected: records of the unlabelled file.

    Raises:
      DataError: the file is missing or damaged, or does not list that many ids.
    """
    import numpy as np

    value = read_json(path)
    ids = value.get("unlabel") if isinstance(value, dict) else None
    if (
        not isinstance(ids, list)
        or len(ids) != expected
        or not all(type(i) is int and 0 <= i < 1 << 63 for i in ids)
        or len(set(ids)) != len(ids)
    ):
        raise DataError(
            f"the split's map does not list {expected} unlabelled ids, each once",
            path,
            "make the split again",
        )
    return np.array(ids, np.int64)


def check_dataset(dataset: str) -> str:
    """Returns ``dataset`` if it may be the name of a dataset.

    Raises:
      UsageError: it is empty, too long, could leave the folder of the datasets, or would be
        mistaken for a split.
    """
    if (
        not _DATASET.fullmatch(dataset)
        or ".." in dataset
        or len(dataset) > MAX_NAME_LENGTH
        or _COPIES_SUFFIX.search(dataset)
    ):
        raise UsageError(
            f"{dataset!r} cannot name a dataset",
            "",
            "letters, digits, '.', '_' and '-', starting with a letter or digit, "
            f"at most {MAX_NAME_LENGTH}, without '..' and not ending in _aug<number>",
        )
    return dataset
