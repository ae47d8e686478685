"""Orders: the class-proportional rule of the published splits, and keyed permutations."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]


class Turns(NamedTuple):
    """Whose turn it is, under the greedy rule of ``proportional_turns``.

    Attributes:
      classes: int64 [n], the class of each turn.
      numbers: int64 [n], how many records of that class were taken before.
      exhausted: the class whose turn came next but which had no record left; −1 when none was.
    """

    classes: Int64Array
    numbers: Int64Array
    exhausted: int


def proportional_turns(
    counts: Int64Array, available: Int64Array, *, uniform: bool = False, most: int | None = None
) -> Turns:
    """The greedy rule that keeps every prefix of an order close to given class shares.

    With shares s_c (the largest is 1) and n_c records of class c taken so far, the next class is
    argmax_c (s_c − n_c / max(max n, 1)), the first of equals. The turns end at a class that has no
    record left.

    They are computed all at once. Let m be the first class with share 1. While N = max n stays
    the same, every class whose value lies above m's (which is 0, so ties go by position) has its
    turns, by falling values, and then m, which makes it N + 1. Hence turn k of class c belongs to
    the first N with s_c − k / N > 0 (≥ 0 before m), and turn k of m ends N = k. The values are
    computed with the published tool's floating-point operations, so that ties fall the same way.

    Args:
      counts: int64 [C], records of each class; the shares are ``counts / max(counts)``.
      available: int64 [C], how many of them there are to take.
      uniform: all shares 1 instead.
      most: stop after so many turns.
    """
    largest = max(int(counts.max(initial=0)), 1)
    shares = np.ones(len(counts)) if uniform else counts / largest
    first = int(np.argmax(shares)) if len(counts) else 0
    # An empty class could win a tie, and the published tool then fails or stalls.
    taking = np.flatnonzero((counts > 0) | uniform)
    # One turn more than there are records shows where a class is exhausted.
    lengths = available[taking] + 1
    if most is not None:
        lengths = np.minimum(lengths, most + 1)
    classes = np.repeat(taking, lengths)
    numbers = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    rounds, values = _rounds(shares[classes], numbers, classes < first)
    own = classes == first
    rounds[own], values[own] = numbers[own], -np.inf
    # Within a round by falling values; classes and turns are in order already, and stay so.
    order = np.lexsort((-values, rounds))
    ends = np.flatnonzero(numbers[order] == available[classes[order]])
    stop = int(ends[0]) if len(ends) else len(order)
    exhausted = int(classes[order[stop]]) if len(ends) else -1
    if most is not None and stop >= most:
        stop, exhausted = most, -1
    return Turns(classes[order[:stop]], numbers[order[:stop]], exhausted)


def _rounds(
    shares: NDArray[np.float64], numbers: Int64Array, before: NDArray[np.bool_]
) -> tuple[Int64Array, NDArray[np.float64]]:
    """For each turn the first N in which it comes, and its value then."""

    def comes(rounds: Int64Array) -> NDArray[np.bool_]:
        values = shares - numbers / rounds
        return (values > 0) | (before & (values == 0))

    # Division rounds, so the quotient may be off by one; the exact test settles it.
    rounds = np.maximum((numbers / shares).astype(np.int64), 1)
    while (late := ~comes(rounds)).any():
        rounds += late
    while (early := (rounds > 1) & comes(np.maximum(rounds - 1, 1))).any():
        rounds -= early
    return rounds, shares - numbers / rounds


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
    members = by_class(ids, len(counts))
    shuffled = np.concatenate([random.permutation(queue) for queue in members] or [ids])
    # Record k of n in its class belongs at the fraction (k + ½)/n of the whole order; sorting by
    # that keeps every class in proportion everywhere, and cannot run out of a class early.
    numbers = np.concatenate([np.arange(count) for count in counts] or [ids])
    return shuffled[np.argsort((numbers + 0.5) / np.repeat(counts, counts), kind="stable")]


def by_class(labels: Int64Array, classes: int) -> list[Int64Array]:
    """The positions of each class's members in ``labels`` (int64 [N]), ascending; others not."""
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(classes + 1))
    return np.split(order, bounds)[1:-1]


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
