"""Pictures that occur more than once in a dataset, by the exact pixels of the records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UInt64Array = NDArray[np.uint64]
Int64Array = NDArray[np.int64]

TRAIN, TEST, UNLABELED = 1, 2, 4
_NO_LABEL = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Groups:
    """Positions of pictures that are the same, group after group.

    Attributes:
      positions: int64 [n] into the arrays that were compared.
      starts: int64 [g], where each group begins in ``positions``.
      pictures: how many pictures the finding counts.
    """

    positions: Int64Array
    starts: Int64Array
    pictures: int

    def first(self, count: int) -> list[Int64Array]:
        """The positions of the first ``count`` groups."""
        ends = np.append(self.starts[1:], len(self.positions))
        return [
            self.positions[start:end]
            for start, end in zip(self.starts[:count], ends[:count], strict=True)
        ]


@dataclass(frozen=True)
class SamePictures:
    """What is worth a warning.

    Attributes:
      train_test: labelled training pictures that are test pictures too; counts the test pictures.
      unlabeled_test: unlabelled pictures that are test pictures too; counts the test pictures.
      contradictions: labelled pictures with more than one class; counts them all.
    """

    train_test: Groups
    unlabeled_test: Groups
    contradictions: Groups


def same_pictures(
    hashes: UInt64Array, parts: NDArray[np.uint8], labels: Int64Array
) -> SamePictures:
    """Compares pictures by their hashes.

    Args:
      hashes: [N], of the pixels.
      parts: [N], ``TRAIN``, ``TEST`` or ``UNLABELED``.
      labels: [N], class ids; those of unlabelled pictures do not count.
    """
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(new)
    if not len(starts):
        empty = Groups(np.zeros(0, np.int64), np.zeros(0, np.int64), 0)
        return SamePictures(empty, empty, empty)
    part = parts[order]
    label = labels[order]
    unlabeled = part == UNLABELED
    present = np.bitwise_or.reduceat(part, starts)
    lowest = np.minimum.reduceat(np.where(unlabeled, _NO_LABEL, label), starts)
    highest = np.maximum.reduceat(np.where(unlabeled, -1, label), starts)
    sizes = np.diff(np.append(starts, len(order)))
    in_test = np.add.reduceat(part == TEST, starts, dtype=np.int64)
    labeled = np.add.reduceat(~unlabeled, starts, dtype=np.int64)

    def groups(chosen: NDArray[np.bool_], counts: Int64Array) -> Groups:
        members = np.repeat(chosen, sizes)
        lengths = sizes[chosen]
        return Groups(order[members], np.cumsum(lengths) - lengths, int(counts[chosen].sum()))

    return SamePictures(
        groups((present & (TRAIN | TEST)) == TRAIN | TEST, in_test),
        groups((present & (UNLABELED | TEST)) == UNLABELED | TEST, in_test),
        groups((highest >= 0) & (lowest != highest), labeled),
    )
