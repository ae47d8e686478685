"""Near-duplicates: the same picture encoded again, brightened, shifted by a pixel or mirrored.

Pictures are brought to a working size of at most 32×32. Two steps decide:

1. Candidates. A picture's descriptor is its lowest cosine coefficients (luminance 6×6, colour
   differences 3×3) without the mean, each times its frequency, scaled to length 1. Natural
   pictures differ mostly in their lowest frequencies, so that the weights make unlike pictures
   nearly orthogonal. Mirroring flips the sign of the odd horizontal coefficients. All pairs are
   compared by matrix products; those with a cosine of at least 0.8, mirrored or not, go on.
2. Confirmation. From the working-size luminance, lightly smoothed, the mean of its neighbourhood
   is taken away. What is left (edges, texture), but for its border, must correlate by at least
   0.92 at the best of nine shifts by up to one working pixel. Grey pictures (digits, clothes) are
   drawn alike far more often than photographs: for them it is 0.97, as it is for pictures of less
   than 16 pixels, which are not shifted either.

Neither step sees brightness or contrast. A picture with next to no detail is compared with none.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

SIDE = 32  # of the working size, in pixels, at most
CANDIDATE_COSINE = 0.8
CONFIRMED = 0.92  # least correlation of photographs
CONFIRMED_DRAWING = 0.97  # of grey and of small pictures
LEAST_DETAIL = 1.5  # grey levels, root mean square, of what confirmation compares
ROWS, COLUMNS = 512, 1024  # of one matrix product, which stays in the processor's cache

_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
_GREY_FREQUENCIES, _COLOR_FREQUENCIES = 6, 3
_SMALL = 16  # below, a pixel is a large part of the drawing: neither smoothed nor shifted
_SHIFT, _BORDER = 1, 2  # working pixels; within the border smoothing has seen beyond the edge
_BATCH = 2048  # pairs confirmed at once
_QUANTUM = 32.0  # steps a standard deviation of the stored detail

FloatArray = NDArray[np.float32]
UInt8Array = NDArray[np.uint8]
Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class Descriptors:
    """What N pictures are compared by.

    Attributes:
      even: float32 [N, E], coefficients that mirroring keeps.
      odd: float32 [N, O], coefficients whose sign it flips.
      detail: int8 [N, h, w], edges and texture at working size in 1/32 standard deviations.
      plain: bool [N]: too little detail; such a picture is like no other.
      least: the correlation of the detail from which on two pictures are the same.
    """

    even: FloatArray
    odd: FloatArray
    detail: NDArray[np.int8]
    plain: NDArray[np.bool_]
    least: float


def working_size(shapes: list[tuple[int, int, int]]) -> tuple[int, int]:
    """(height, width) at which pictures of these shapes are compared."""
    return (
        min(SIDE, *(shape[0] for shape in shapes)),
        min(SIDE, *(shape[1] for shape in shapes)),
    )


class Describer:
    """Makes descriptors.

    Args:
      size: working height and width.
      color: whether colour counts; without it grey and colour pictures compare alike.
    """

    def __init__(self, size: tuple[int, int], color: bool) -> None:
        self.size, self.color = size, color
        self._grey = _Cosines(size, _GREY_FREQUENCIES)
        self._hue = _Cosines(size, _COLOR_FREQUENCIES)

    @property
    def bytes_per_picture(self) -> int:
        """Memory that a descriptor takes."""
        numbers = self._grey.count + (2 * self._hue.count if self.color else 0)
        return 4 * numbers + math.prod(self.size) + 1

    def __call__(self, images: UInt8Array) -> Descriptors:
        """Descriptors of uint8 [N, height, width, 1 or 3]."""
        planes = images.astype(np.float32)
        grey = planes[..., 0] if planes.shape[3] == 1 else planes @ _LUMINANCE
        parts = [self._grey(_resized(grey, self.size))]
        if self.color:
            # Differences from the luminance, red and blue: contrast scales them alike.
            parts += [
                self._hue(_resized(planes[..., channel] - grey, self.size)) for channel in (0, 2)
            ]
        length = np.sqrt(sum((part**2).sum((1, 2)) for part in parts))
        scale = 1 / np.maximum(length, 1e-3)[:, None]
        even = np.concatenate([part[:, :, 0::2].reshape(len(part), -1) for part in parts], 1)
        odd = np.concatenate([part[:, :, 1::2].reshape(len(part), -1) for part in parts], 1)
        detail = _detail(_resized(grey, self.size))
        spread = np.sqrt((detail**2).mean((1, 2)))
        stored = np.rint(detail * (_QUANTUM / np.maximum(spread, 1e-3))[:, None, None])
        return Descriptors(
            np.ascontiguousarray(even * scale),
            np.ascontiguousarray(odd * scale),
            np.clip(stored, -127, 127).astype(np.int8),
            spread < LEAST_DETAIL,
            CONFIRMED if self.color and min(self.size) >= _SMALL else CONFIRMED_DRAWING,
        )


def join(parts: list[Descriptors]) -> Descriptors:
    """The descriptors of all parts (at least one, of one describer), one after the other."""
    return Descriptors(
        np.concatenate([part.even for part in parts]),
        np.concatenate([part.odd for part in parts]),
        np.concatenate([part.detail for part in parts]),
        np.concatenate([part.plain for part in parts]),
        parts[0].least,
    )


def confirmed_pairs(
    pictures: Descriptors,
    wanted: Callable[[Int64Array, Int64Array], NDArray[np.bool_]],
    done: Callable[[int], None] = lambda pairs: None,
) -> Iterator[tuple[Int64Array, Int64Array, FloatArray]]:
    """Near-duplicates among N pictures, in batches.

    Args:
      pictures: their descriptors.
      wanted: (i, j) → bool, which candidates are worth confirming; asked before each batch.
      done: told how many more pairs have been compared, of ``pairs_of(N)`` in all.

    Yields:
      (i, j, correlation): int64 [n], int64 [n], float32 [n]; i < j.
    """
    for (i, j), pairs in _blocks(pictures):
        for start in range(0, len(i), _BATCH):
            a, b = i[start : start + _BATCH], j[start : start + _BATCH]
            chosen = wanted(a, b)
            a, b = a[chosen], b[chosen]
            score = correlation(pictures, a, b)
            good = score >= pictures.least
            if good.any():
                yield a[good], b[good], score[good]
        done(pairs)


def _blocks(pictures: Descriptors) -> Iterator[tuple[tuple[Int64Array, Int64Array], int]]:
    """The candidates of one block after the other, and how many pairs it has."""
    count = len(pictures.even)
    workers = os.cpu_count() or 1
    waiting: deque[tuple[Future[tuple[Int64Array, Int64Array]], int]] = deque()
    # Threads of our own do all the work on their block; those that a matrix product starts would
    # wait for each other at every one of them.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        try:
            for first in range(0, count, ROWS):
                rows = slice(first, min(first + ROWS, count))
                for begin in range(first, count, COLUMNS):
                    columns = slice(begin, min(begin + COLUMNS, count))
                    pairs = (rows.stop - rows.start) * (columns.stop - columns.start)
                    waiting.append((pool.submit(_candidates, pictures, rows, columns), pairs))
                    if len(waiting) > 4 * workers:
                        future, pairs = waiting.popleft()
                        yield future.result(), pairs
            while waiting:
                future, pairs = waiting.popleft()
                yield future.result(), pairs
        finally:
            for future, _ in waiting:
                future.cancel()


def pairs_of(count: int) -> int:
    """How many pairs ``confirmed_pairs`` looks at among so many pictures."""
    return sum(min(ROWS, count - first) * (count - first) for first in range(0, count, ROWS))


def sample_pairs(pictures: Descriptors) -> int:
    """Compares some pictures (at least one) with themselves, over and over, for timing it.

    Returns:
      How many pairs that were.
    """
    rows = np.arange(8 * COLUMNS) % len(pictures.even)
    none = np.ones(len(rows), np.bool_)  # confirming them would count copies of one picture
    many = Descriptors(
        pictures.even[rows], pictures.odd[rows], pictures.detail[:1], none, pictures.least
    )
    return sum(pairs for _, pairs in _blocks(many))


def correlation(pictures: Descriptors, i: Int64Array, j: Int64Array) -> FloatArray:
    """float32 [n]: how well the detail of pictures i and j (int64 [n]) agrees, in [−1, 1]."""
    a = pictures.detail[i].astype(np.float32)
    b = pictures.detail[j].astype(np.float32)
    mirrored = (pictures.odd[i] * pictures.odd[j]).sum(1) < 0
    b[mirrored] = b[mirrored, :, ::-1]
    large = min(a.shape[1:]) >= _SMALL
    shift, border = (_SHIFT, _BORDER) if large else (0, 0)
    height, width = (side - 2 * (shift + border) for side in a.shape[1:])
    start = shift + border
    a = np.ascontiguousarray(a[:, start : start + height, start : start + width])
    length = np.sqrt(np.einsum("nij,nij->n", a, a))
    squares = b * b
    best = np.full(len(i), -1.0, np.float32)
    for top in range(border, border + 2 * shift + 1):
        for left in range(border, border + 2 * shift + 1):
            window = np.s_[:, top : top + height, left : left + width]
            both = np.einsum("nij,nij->n", a, b[window])
            other = np.sqrt(np.einsum("nij->n", squares[window]))
            np.maximum(best, both / np.maximum(length * other, 1e-3), out=best)
    return best


def _candidates(
    pictures: Descriptors, rows: slice, columns: slice
) -> tuple[Int64Array, Int64Array]:
    """Pairs i < j of a block whose descriptors are near each other, mirrored or not."""
    cosine = pictures.even[rows] @ pictures.even[columns].T
    flipped = pictures.odd[rows] @ pictures.odd[columns].T
    np.abs(flipped, out=flipped)
    cosine += flipped
    flat = np.flatnonzero(cosine.ravel() >= CANDIDATE_COSINE)
    i, j = flat // cosine.shape[1] + rows.start, flat % cosine.shape[1] + columns.start
    good = (i < j) & ~pictures.plain[i] & ~pictures.plain[j]
    return i[good], j[good]


class _Cosines:
    """The lowest cosine coefficients of a picture, times their frequency, without the mean."""

    def __init__(self, size: tuple[int, int], count: int) -> None:
        self._down, self._across = (_cosines(side, min(count, side)) for side in size)
        vertical, horizontal = np.indices((len(self._down), len(self._across)))
        frequency = np.hypot(vertical, horizontal)
        self._weights = np.where(frequency <= count + 0.5, frequency, 0).astype(np.float32)
        self.count = self._weights.size

    def __call__(self, planes: FloatArray) -> FloatArray:
        """float32 [N, vertical, horizontal] of float32 [N, height, width]."""
        return np.asarray((self._down @ planes @ self._across.T) * self._weights)


def _cosines(side: int, count: int) -> FloatArray:
    """float32 [count, side], the orthonormal cosine basis."""
    place = (np.arange(side) + 0.5) / side
    basis = np.cos(np.pi * np.arange(count)[:, None] * place) * math.sqrt(2 / side)
    basis[0] /= math.sqrt(2)
    return basis.astype(np.float32)


def _resized(planes: FloatArray, size: tuple[int, int]) -> FloatArray:
    """float32 [N, *size]: averages over areas."""
    if planes.shape[1:] == size:
        return planes
    down, across = (_areas(old, new) for old, new in zip(planes.shape[1:], size, strict=True))
    return np.asarray(down @ planes @ across.T)


def _areas(old: int, new: int) -> FloatArray:
    """float32 [new, old]: the share that each old pixel has in each new one."""
    edges = np.linspace(0, old, new + 1)
    pixels = np.arange(old)
    upper, lower = np.minimum(edges[1:, None], pixels + 1), np.maximum(edges[:-1, None], pixels)
    shares = np.clip(upper - lower, 0, None)
    return (shares / shares.sum(1, keepdims=True)).astype(np.float32)


def _detail(grey: FloatArray) -> FloatArray:
    """Edges and texture: smoothed by (1 2 1)/4, minus the mean of about a quarter of the side."""
    smoothed, around = grey, grey
    large = min(grey.shape[1:]) >= _SMALL
    for axis in (1, 2):
        side = grey.shape[axis]
        if large:
            smoothed = _averaged(smoothed, axis, np.array([0.25, 0.5, 0.25], np.float32))
        window = max(side * 9 // 32 // 2, 1) * 2 + 1
        around = _averaged(around, axis, np.full(window, np.float32(1 / window)))
    return smoothed - around


def _averaged(planes: FloatArray, axis: int, weights: FloatArray) -> FloatArray:
    """A moving average along an axis; beyond the border the border's value goes on."""
    reach = len(weights) // 2
    side = planes.shape[axis]
    matrix = np.zeros((side, side), np.float32)
    for offset, weight in enumerate(weights, -reach):
        np.add.at(matrix, (np.arange(side), np.clip(np.arange(side) + offset, 0, side - 1)), weight)
    return np.asarray(matrix @ planes if axis == 1 else planes @ matrix.T)
