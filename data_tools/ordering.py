"""Orders: the class-proportional rule of the published splits, and keyed permutations."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]


class Proportional:
    """The greedy rule that keeps every prefix of an order close to given class shares.

    With shares s_c (the largest is 1) and n_c records of class c taken so far, the next class is
    argmax_c (s_c − n_c / max(max n, 1)), the first of equals. Written with the same floating-point
    operations as the published tool, so that ties fall the same way.

    Args:
      counts: records of each class; the shares are ``counts / max(counts)``.
      uniform: all shares 1 instead.
    """

    def __init__(self, counts: Int64Array, uniform: bool = False) -> None:
        largest = max(int(counts.max(initial=0)), 1)
        self._shares = np.ones(len(counts)) if uniform else counts.astype(np.float64) / largest
        # An empty class could win a tie, and the published tool then fails or stalls.
        self._shares[(counts == 0) & (not uniform)] = -np.inf
        self._taken = np.zeros(len(counts), np.int64)
        self._largest = 0

    def next_class(self) -> int:
        """The class whose turn it is."""
        return int(np.argmax(self._shares - self._taken / max(self._largest, 1)))

    def take(self, label: int) -> None:
        """Counts a record of class ``label`` as taken."""
        self._taken[label] += 1
        self._largest = max(self._largest, int(self._taken[label]))


def class_mixed_order(labels: Sequence[int] | Int64Array, seed: int) -> Int64Array:
    """A seeded order in which every prefix has the classes in proportion.

    Args:
      labels: [N] ids ≥ 0.
      seed: of the shuffle within the classes.

    Returns:
      int64 [N], positions into ``labels``.
    """
    ids = np.asarray(labels, np.int64)
    counts = np.bincount(ids)
    random = np.random.RandomState(seed)
    queues = [random.permutation(np.flatnonzero(ids == c)).tolist() for c in range(len(counts))]
    # Record k of n in its class belongs at the fraction (k + ½)/n of the whole order; sorting by
    # that keeps every class in proportion everywhere, and cannot run out of a class early.
    keys = [
        ((k + 0.5) / len(queue), c, i)
        for c, queue in enumerate(queues)
        for k, i in enumerate(queue)
    ]
    return np.array([i for _, _, i in sorted(keys)], np.int64)


class KeyedPermutation:
    """A permutation of 0..size−1 that is computed, not stored.

    A Feistel network over the smallest even number of bits that holds ``size``; values outside
    the range are sent through again until they fall inside (cycle walking).

    Args:
      size: how many positions; at least 1 and below 2⁶².
      seed: another seed gives another permutation.
      purpose: likewise.
    """

    _ROUNDS = 6

    def __init__(self, size: int, seed: int, purpose: str) -> None:
        if not 1 <= size < 2**62:
            raise ValueError(f"size {size} is not in 1..2^62")
        self._size = size
        self._half = max((size - 1).bit_length() + 1, 2) // 2
        digest = hashlib.sha512(f"{seed}/{purpose}".encode()).digest()
        self._keys = np.frombuffer(digest[: 8 * self._ROUNDS], np.uint64)

    def __call__(self, positions: Int64Array) -> Int64Array:
        """int64 [n] in 0..size−1 → int64 [n] in 0..size−1."""
        values = self._mix(positions.astype(np.uint64))
        outside = np.flatnonzero(values >= np.uint64(self._size))
        while len(outside):
            values[outside] = self._mix(values[outside])
            outside = outside[values[outside] >= np.uint64(self._size)]
        return values.astype(np.int64)

    def _mix(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        half, mask = np.uint64(self._half), np.uint64((1 << self._half) - 1)
        left, right = values >> half, values & mask
        for key in self._keys:
            # One round of the splitmix64 finaliser; uint64 products wrap, as they should.
            mixed = (right ^ key) * np.uint64(0xBF58476D1CE4E5B9)
            mixed ^= mixed >> np.uint64(29)
            mixed *= np.uint64(0x94D049BB133111EB)
            left, right = right, left ^ (mixed >> np.uint64(32) & mask)
        return left << half | right
