"""Pillow's geometry with nearest neighbours, and its resampling, for batches.

``images`` are uint8 [N, H, W, C] with C = 1 or 3 and H, W, C known, of up to 224×224 pixels; every
byte equals the one that Pillow computes. ``hidden`` (bool [N, H, W] or None) says which pixels show
nothing; it moves with the pixels, and what geometry uncovers is added. Uncovered pixels are 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from realmix_tf.augment.pillow_color import like

Moved = tuple[tf.Tensor, tf.Tensor]
Doubles = npt.NDArray[np.float64]

LANCZOS, BICUBIC, BILINEAR, BOX, HAMMING, NEAREST = range(6)
# A row of six: the source of output pixel (x, y) is (a·x + b·y + c, d·x + e·y + f).
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def rotate(images: tf.Tensor, degrees: tf.Tensor, hidden: tf.Tensor | None = None) -> Moved:
    """``Image.rotate``: counter-clockwise about the centre. ``degrees`` is float64 [N]."""
    return affine(images, rotation(degrees, images.shape[1], images.shape[2]), hidden)


def shear_x(images: tf.Tensor, factor: tf.Tensor, hidden: tf.Tensor | None = None) -> Moved:
    """``Image.transform`` with (1, factor, 0, 0, 1, 0). ``factor`` is float64 [N]."""
    return affine(images, _one_entry(factor, 1), hidden)


def shear_y(images: tf.Tensor, factor: tf.Tensor, hidden: tf.Tensor | None = None) -> Moved:
    """``Image.transform`` with (1, 0, 0, factor, 1, 0). ``factor`` is float64 [N]."""
    return affine(images, _one_entry(factor, 3), hidden)


def translate_x(images: tf.Tensor, pixels: tf.Tensor, hidden: tf.Tensor | None = None) -> Moved:
    """``Image.transform`` with (1, 0, pixels, 0, 1, 0). ``pixels`` is float64 [N]."""
    return affine(images, _one_entry(whole_shift(pixels), 2), hidden)


def translate_y(images: tf.Tensor, pixels: tf.Tensor, hidden: tf.Tensor | None = None) -> Moved:
    """``Image.transform`` with (1, 0, 0, 0, 1, pixels). ``pixels`` is float64 [N]."""
    return affine(images, _one_entry(whole_shift(pixels), 5), hidden)


def _one_entry(values: tf.Tensor, entry: int) -> tf.Tensor:
    return tf.constant(IDENTITY, tf.float64) + values[:, None] * tf.one_hot(
        entry, 6, dtype=tf.float64
    )


def whole_shift(pixels: tf.Tensor) -> tf.Tensor:
    """What a shift by part of a pixel is with nearest neighbours: half a pixel rounds up."""
    return tf.floor(pixels + 0.5)


def rotation(degrees: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """float64 [N, 6], the matrix of a rotation about the centre; ``degrees`` is float64 [N].

    Pillow rounds sine and cosine to 15 decimals. That cannot be seen: what follows is fixed-point
    numbers with 16 binary digits, and no product of a centre in half pixels lies that near to the
    middle of two of them.
    """
    angle = degrees * (math.pi / 180.0)
    x, y = width / 2.0, height / 2.0
    cosine = (1.0, 0.0, -x, 0.0, 1.0, -y)
    sine = (0.0, -1.0, y, 1.0, 0.0, -x)
    parts = tf.constant([cosine, sine], tf.float64)
    turned = tf.matmul(tf.stack([tf.cos(angle), tf.sin(angle)], 1), parts)
    return turned + tf.constant([0.0, 0.0, x, 0.0, 0.0, y], tf.float64)


def affine(images: tf.Tensor, matrix: tf.Tensor, hidden: tf.Tensor | None = None) -> Moved:
    """``Image.transform`` with AFFINE and NEAREST.

    Args:
      images: uint8 [N, H, W, C].
      matrix: float64 [N, 6]: the source of output pixel (x, y) is (a·x + b·y + c, d·x + e·y + f).
        Shifts must be whole where a = e = 1 and b = d = 0 (``whole_shift``), since Pillow has a
        routine of its own for those; sources of the image's pixels must lie within 256 pixels of
        its centre, or anywhere outside the image.
      hidden: bool [N, H, W] or None.

    Returns:
      The moved images and bool [N, H, W], where they show nothing.
    """
    _, height, width, channels = images.shape
    middle_x, middle_y = width // 2, height // 2
    columns, rows = tf.unstack(_sources(matrix, height, width), axis=1)
    # A frame of one pixel around every image catches what lies outside of it.
    place = tf.clip_by_value(rows, -1.0 - middle_y, float(height - middle_y)) * float(width + 2)
    place += tf.clip_by_value(columns, -1.0 - middle_x, float(width - middle_x))
    middle = (middle_y + 1) * (width + 2) + middle_x + 1
    first = tf.range(tf.shape(images)[0]) * ((height + 2) * (width + 2)) + middle
    place = (tf.cast(place, tf.int32) + first[:, None, None])[..., None]
    framed = tf.pad(
        tf.reshape(images, [-1, height, width * channels]), [[0, 0], [1, 1], [channels, channels]]
    )
    pixels = tf.reshape(framed, [-1] if channels == 1 else [-1, channels])
    moved = like(tf.gather_nd(pixels, place), images)
    if hidden is not None:
        framed = tf.pad(hidden, [[0, 0], [1, 1], [1, 1]], constant_values=True)
        return moved, tf.gather_nd(tf.reshape(framed, [-1]), place)
    outside_rows = (rows < -middle_y) | (rows >= height - middle_y)
    return moved, outside_rows | (columns < -middle_x) | (columns >= width - middle_x)


def _sources(matrix: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """float32 [N, 2, H, W], whole: column and row of every output pixel's source.

    They are counted from the middle of the image, (W // 2, H // 2). Pillow counts in 16.16 fixed
    point, from half a pixel for the centres, and rounds down; from the middle, float32 has room for
    all the digits.
    """
    middle = np.array([width // 2, height // 2])
    to_fixed = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]]) * 65536.0
    to_middle = np.array([[1.0, 0.0, middle[0]], [0.0, 1.0, middle[1]], [0.0, 0.0, 1.0]]) / 65536.0
    fixed = tf.floor(tf.matmul(tf.reshape(matrix, [-1, 3]), to_fixed) + 0.5)
    fixed = tf.reshape(tf.matmul(fixed, to_middle), [-1, 2, 3])
    steps = tf.cast(fixed - middle[:, None] * np.array([0.0, 0.0, 1.0]), tf.float32)
    columns = np.arange(width, dtype=np.float32) - middle[0]
    rows = np.arange(height, dtype=np.float32) - middle[1]
    down = steps[:, :, 1:2] * rows + steps[:, :, 2:]
    across = steps[:, :, :1] * columns
    return tf.floor(down[:, :, :, None] + across[:, :, None, :])


def rescale(
    images: tf.Tensor, margin: tf.Tensor, filters: tf.Tensor, hidden: tf.Tensor | None = None
) -> Moved:
    """Crops the same share of every side and resizes back: ``crop`` and ``resize`` of Pillow.

    The box is (margin·W, margin·H, W − margin·W, H − margin·H), rounded to whole pixels, halves to
    even. Pillow resamples along rows, rounds to bytes, and resamples along columns.

    Args:
      images: uint8 [N, H, W, C].
      margin: float64 [N] from 0 to 0.25.
      filters: int32 [N]: LANCZOS, BICUBIC, BILINEAR, BOX, HAMMING or NEAREST.
      hidden: bool [N, H, W] or None; it is moved as by NEAREST.

    Returns:
      The resized images and bool [N, H, W], where they show nothing.
    """
    _, height, width, channels = images.shape
    along_rows, nearest_column = _resampling(margin, filters, width)
    along_columns, nearest_row = (
        (along_rows, nearest_column) if height == width else _resampling(margin, filters, height)
    )
    values = tf.transpose(tf.cast(images, tf.float32), [0, 2, 1, 3])
    values = _resampled(tf.reshape(values, [-1, width, height * channels]), along_rows)
    values = tf.transpose(tf.reshape(values, [-1, width, height, channels]), [0, 2, 1, 3])
    values = _resampled(tf.reshape(values, [-1, height, width * channels]), along_columns)
    resized = like(tf.cast(values, tf.uint8), images)
    if hidden is None:
        return resized, tf.zeros(tf.shape(images)[:3], tf.bool)
    first = tf.range(tf.shape(images)[0]) * (height * width)
    rows = nearest_row * width + first[:, None]
    place = rows[:, :, None] + nearest_column[:, None, :]
    return resized, tf.gather_nd(tf.reshape(hidden, [-1]), place[..., None])


def _resampled(values: tf.Tensor, matrices: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """Applies coefficients along axis 1 of float32 [M, size, K] and rounds to whole 0 … 255.

    Pillow sums coefficients of 22 binary digits in integers. Two products with half of the digits
    each have room in float32:
    ⌊(4096·high + low + 2²¹) / 2²²⌋ = ⌊(high + ⌊low / 4096⌋ + 512) / 1024⌋.
    """
    high, low = (tf.matmul(matrix, values) for matrix in matrices)
    return tf.floor(tf.clip_by_value((high + tf.floor(low)) * (1.0 / 1024.0) + 0.5, 0.0, 255.0))


def _resampling(
    margin: tf.Tensor, filters: tf.Tensor, size: int
) -> tuple[tuple[tf.Tensor, tf.Tensor], tf.Tensor]:
    """What a pass along one axis needs.

    Returns:
      The upper and the lower (over 4096) digits of the coefficients, float32 [N, size, size], and
      the pixel that NEAREST takes, int32 [N, size].
    """
    table, starts = _coefficients(size)
    low = tf.round(margin * size)  # to even, as Python does
    high = tf.round(size * (1.0 - margin))
    longer = high - (size - low)  # −1, 0 or 1: an odd size rounds its halves to either side
    box = tf.cast(low * 3.0 + longer + 1.0, tf.int32)
    entry = filters * (len(starts) // 6) + box
    first = tf.gather(starts, entry)  # [N, size]
    taps = table.shape[-1] - 2  # there is a 0 at both ends
    tap = tf.range(size) - first[:, :, None] + 1
    tap = tf.clip_by_value(tap, 0, taps + 1)
    line = (entry[:, None] * size + tf.range(size)) * (taps + 2)
    place = (line[:, :, None] + tap)[..., None]
    coefficients = tf.gather_nd(tf.reshape(tf.constant(table), [-1]), place)
    upper = tf.floor(coefficients * (1.0 / 4096.0) + 0.5)
    lower = coefficients * (1.0 / 4096.0) - upper
    return (upper, lower), tf.gather(starts, NEAREST * (len(starts) // 6) + box)


@functools.lru_cache(maxsize=8)
def _coefficients(size: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """All coefficients that boxes with margins of up to a quarter need, for all six filters.

    Returns:
      float32 [6·B, size, taps + 2], in units of 2⁻²², whole numbers, with a 0 at both ends; and the
      pixel of the first tap, int32 [6·B, size]. Entry 3·low + longer + 1 of a filter is for the
      box from ``low`` to ``size − low + longer``.
    """
    boxes = [
        (low, min(size - low + longer, size))
        for low in range(int(size * 0.25 + 0.5) + 1)
        for longer in (-1, 0, 1)
    ]
    made = [_taps(*box, size, *kernel) for kernel in _KERNELS for box in boxes]
    made += [_nearest(*box, size) for box in boxes]
    taps = max(weights.shape[1] for _, weights in made)
    table = np.zeros((len(made), size, taps + 2), np.float32)
    for row, (_, weights) in zip(table, made, strict=True):
        row[:, 1 : 1 + weights.shape[1]] = weights
    return table, np.stack([starts for starts, _ in made]).astype(np.int32)


def _taps(
    low: int, high: int, size: int, kernel: Callable[[Doubles], Doubles], support: float
) -> tuple[npt.NDArray[np.int64], Doubles]:
    """First source pixels [size] and weights [size, taps] of stretching a box to ``size``."""
    box = high - low
    centres = (np.arange(size) + 0.5) * (box / size)
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + support + 0.5).astype(np.int64), box)
    taps = first[:, None] + np.arange(math.ceil(support) * 2 + 1)
    weights = kernel(taps - centres[:, None] + 0.5) * (taps < last[:, None])
    shares = weights / weights.sum(1, keepdims=True)
    return low + first, np.trunc(shares * (1 << 22) + np.copysign(0.5, shares))


def _nearest(low: int, high: int, size: int) -> tuple[npt.NDArray[np.int64], Doubles]:
    """The same for NEAREST: one source pixel each, found by adding up steps as Pillow does."""
    step = (high - low) / size
    starts, place = np.zeros(size, np.int64), step * 0.5
    for i in range(size):
        starts[i] = low + int(place)
        place += step
    return starts, np.full((size, 1), float(1 << 22))


def _lanczos(x: Doubles) -> Doubles:
    return np.where((x >= -3.0) & (x < 3.0), np.sinc(x) * np.sinc(x / 3.0), 0.0)


def _bicubic(x: Doubles) -> Doubles:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _triangle(x: Doubles) -> Doubles:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _rectangle(x: Doubles) -> Doubles:
    return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)


def _hamming(x: Doubles) -> Doubles:
    # The two constants are single precision numbers in Pillow.
    share = float(np.float32(0.54)) + float(np.float32(0.46)) * np.cos(np.pi * x)
    return np.where(np.abs(x) < 1.0, np.sinc(x) * share, 0.0)


_KERNELS = ((_lanczos, 3.0), (_bicubic, 2.0), (_triangle, 1.0), (_rectangle, 0.5), (_hamming, 1.0))
