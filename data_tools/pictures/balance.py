"""Balancing classes: fewer pictures of the common ones, augmented copies of the rare ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_tools.records.ordering import KeyedPermutation, by_class
from realmix_tf.errors import DataError, UsageError

Int64Array = NDArray[np.int64]


class Balanced(NamedTuple):
    """Which pictures a balanced set has, ascending by row, then by copy.

    Attributes:
      rows: int64 [M], positions in the labels that were given.
      copies: int64 [M], 0 for the picture itself and 1, 2, … for its augmented copies.
    """

    rows: Int64Array
    copies: Int64Array


def class_target(total: int, classes: int) -> int:
    """Pictures of each class where ``total`` are wanted: total / classes, rounded up."""
    return -(-total // classes)


def balance(labels: Int64Array, classes: Sequence[str], total: int, seed: int) -> Balanced:
    """Gives every class the same number of pictures, ``class_target(total, len(classes))``.

    Of a class with more, a seeded choice is kept. Every picture of a class with fewer is kept, and
    augmented copies fill up: each picture has ⌊missing/n⌋ of them or one more, and a seeded choice
    says which have one more.

    Args:
      labels: int64 [N], −1 for pictures without a class, which are left out.
      classes: names of the classes; position = label.
      total: pictures wanted in all, at least 1.
      seed: of the choices.

    Raises:
      UsageError: ``total`` is below 1.
      DataError: a class has no picture.
    """
    if total < 1:
        raise UsageError(f"{total} pictures were asked for", "", "a balanced size of at least 1")
    target = class_target(total, len(classes))
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    empty = [name for name, count in zip(classes, counts.tolist(), strict=True) if not count]
    if empty:
        raise DataError(
            f"the class {empty[0]!r} has no image, so the classes cannot be balanced",
            "",
            "add images of it, or build without balancing",
        )
    parts = [
        _fill(rows, target, seed, label)
        for label, rows in enumerate(by_class(labels, len(classes)))
    ]
    rows = np.concatenate([part.rows for part in parts])
    copies = np.concatenate([part.copies for part in parts])
    order = np.lexsort((copies, rows))
    return Balanced(rows[order], copies[order])


def _fill(rows: Int64Array, target: int, seed: int, label: int) -> Balanced:
    """``target`` pictures made of the pictures ``rows`` of one class."""
    shuffled = rows[KeyedPermutation(len(rows), seed, f"balance/{label}")(np.arange(len(rows)))]
    # Going round the shuffled pictures again and again is fair, and the first round takes every
    # picture itself before any has a copy.
    places = np.arange(target)
    return Balanced(shuffled[places % len(rows)], places // len(rows))
