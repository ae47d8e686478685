"""What records to make of the files of a dataset: in which order, balanced, with which labels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_tools.pictures.balance import Balanced
from data_tools.pictures.decoding import Item, PostStep
from data_tools.pictures.listing import Listing, Rows
from data_tools.records.ordering import class_mixed_order

Int64Array = NDArray[np.int64]
IntegerArray = NDArray[np.integer]


@dataclass(frozen=True)
class Work:
    """Records to make from the files of one part, in this order.

    Attributes:
      part: ``train``, ``test`` or ``unlabeled``.
      listing: the files.
      rows: integers [n], positions in ``listing``.
      labels: integers [n], class ids, −1 for unlabelled ones.
      pseudo: integers [n], labels that a model gave, −1 for none; None: none at all.
      sources: integers [n], the record of the same file this is a copy of, −1 for none; None:
        none at all.
      numbers: integers [n], what the post-step is given, −1 leaves the image as it is; None: none
        at all.
      step: the post-step; see ``data_tools.pictures.decoding.PostStep``.
    """

    part: str
    listing: Listing
    rows: Rows
    labels: IntegerArray
    pseudo: IntegerArray | None = None
    sources: IntegerArray | None = None
    numbers: IntegerArray | None = None
    step: PostStep | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def items(self, start: int, stop: int) -> list[Item]:
        """The items start … stop − 1."""
        none = [-1] * (stop - start)
        columns = [
            none if column is None else column[start:stop].tolist()
            for column in (self.labels, self.pseudo, self.sources, self.numbers)
        ]
        return [
            Item(entry.path, entry.problem, f"{self.part}/{entry.name}", *numbers)
            for entry, *numbers in zip(
                self.listing.entries(self.rows[start:stop]), *columns, strict=True
            )
        ]


@dataclass(frozen=True)
class Job:
    """The records of one part: the pictures themselves, then augmented copies of them.

    Attributes:
      originals: the work on the pictures.
      copies: the work on the copies, whose ``sources`` are places in ``originals``; None for none.
    """

    originals: Work
    copies: Work | None = None

    def __len__(self) -> int:
        return len(self.originals) + (0 if self.copies is None else len(self.copies))

    @property
    def labels(self) -> IntegerArray:
        """The labels of all records."""
        parts = [work.labels for work in (self.originals, self.copies) if work is not None]
        return np.concatenate(parts)

    def copies_of(self, kept: Int64Array, first: int) -> Work | None:
        """The work on the copies, once it is known which pictures became records.

        Args:
          kept: ascending places in ``originals``.
          first: the place in the record file of the first of them.
        """
        if self.copies is None or self.copies.sources is None:
            return None
        records = np.full(len(self.originals), -1, np.int64)
        records[kept] = first + np.arange(len(kept))
        sources = records[self.copies.sources]
        there = np.flatnonzero(sources >= 0)
        work = self.copies
        return dataclasses.replace(
            work,
            rows=np.asarray(work.rows)[there],
            labels=work.labels[there],
            pseudo=None if work.pseudo is None else work.pseudo[there],
            sources=sources[there],
            numbers=None if work.numbers is None else work.numbers[there],
        )


def make_job(
    part: str,
    listing: Listing,
    labels: IntegerArray,
    *,
    pseudo: IntegerArray | None = None,
    balanced: Balanced | None = None,
    mix: bool = False,
    cutout: float = 0.0,
    seed: int = 0,
) -> Job:
    """Plans the records of one part.

    Args:
      part: ``train``, ``test`` or ``unlabeled``.
      listing: its files, N of them.
      labels: integers [N], −1 for unlabelled ones.
      pseudo: integers [N], labels that a model gave.
      balanced: which files are used and which copies are made; all and none when None.
      mix: bring them into a seeded order in which every prefix has the classes in proportion.
      cutout: the probability of erasing a rectangle of an image.
      seed: of the order, the copies and the erasing.
    """

    def ordered(rows: IntegerArray) -> IntegerArray:
        if not mix or not len(rows):
            return rows
        return rows[class_mixed_order(labels[rows].astype(np.int64), seed)]

    if balanced is None:
        count = len(listing)
        rows: Rows = ordered(np.arange(count, dtype=np.uint32)) if mix else range(count)
        chosen = labels[rows] if isinstance(rows, np.ndarray) else labels
        step, numbers = _augmentation(part, cutout, seed, count, 0)
        return Job(Work(part, listing, rows, chosen, pseudo, None, numbers, step))

    original = balanced.copies == 0
    firsts = ordered(balanced.rows[original])
    place = np.full(len(listing), -1, np.int64)
    place[firsts] = np.arange(len(firsts))
    # Two copies of one picture differ in their numbers alone, so their order does not matter.
    copies = ordered(balanced.rows[~original])
    step, numbers = _augmentation(part, cutout, seed, len(firsts), len(copies))
    works = []
    for some, sources, own in (
        (firsts, None, slice(0, len(firsts))),
        (copies, place[copies], slice(len(firsts), None)),
    ):
        marked = None if pseudo is None else pseudo[some]
        given = None if numbers is None else numbers[own]
        works.append(Work(part, listing, some, labels[some], marked, sources, given, step))
    return Job(works[0], works[1] if len(copies) else None)


def _augmentation(
    part: str, cutout: float, seed: int, originals: int, copies: int
) -> tuple[PostStep | None, Int64Array | None]:
    """The post-step of a part, and what it is given for each picture; None where not needed."""
    if not (cutout or copies):
        return None, None
    # Only here, as it brings in SciPy, for which most datasets have no use.
    from data_tools.pictures.distort import BuildAugmentation

    is_copy = np.repeat(np.array([0, 1]), [originals, copies])
    return BuildAugmentation(seed, part, cutout), BuildAugmentation.numbers(is_copy)
