"""Pillow's small filters, for batches: every byte equals the one that Pillow computes.

All take ``images`` uint8 [N, H, W, C] with C = 1 or 3, H, W and C known, and return the same shape
and type. As in Pillow the outermost pixels, which a kernel would overlap, keep their values.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from realmix_tf.augment.pillow_color import blend, like


def smooth(images: tf.Tensor) -> tf.Tensor:
    """``ImageFilter.SMOOTH``: the 3×3 neighbourhood with the centre counted five times, over 13.

    The border of 1 pixel keeps its values.
    """
    values = _flat(images)
    # Square + 4·centre, less 13·centre for the change.
    square = _three(_three(values, _row(images)), images.shape[-1])
    return _rounded(images, values, square - 9.0 * values, 13, 1)


def blur(images: tf.Tensor) -> tf.Tensor:
    """``ImageFilter.BLUR``: the mean of the 16 pixels at distance 2 (a 5×5 ring).

    The border of 2 pixels keeps its values.
    """
    values, row, pixel = _flat(images), _row(images), images.shape[-1]
    ends = _two(values, 2 * row)
    # The two outer columns are whole, the three in between have ends.
    ring = _two(_three(values, row) + ends, 2 * pixel) + _three(ends, pixel)
    return _rounded(images, values, ring - 16.0 * values, 16, 2)


def sharpness(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """``ImageEnhance.Sharpness``: 0 is smooth, 1 no change. ``factor`` is float32 [N]."""
    return blend(smooth(images), images, factor)


def _flat(images: tf.Tensor) -> tf.Tensor:
    """float32 [N, H·W·C]; neighbours are then rolls, which copy whole images at a time."""
    _, height, width, channels = images.shape
    return tf.cast(tf.reshape(images, [-1, height * width * channels]), tf.float32)


def _row(images: tf.Tensor) -> int:
    return images.shape[2] * images.shape[3]


def _two(values: tf.Tensor, distance: int) -> tf.Tensor:
    """The two values so far away; wrong at the border, which is not used."""
    return tf.roll(values, distance, 1) + tf.roll(values, -distance, 1)


def _three(values: tf.Tensor, distance: int) -> tf.Tensor:
    return values + _two(values, distance)


def _rounded(
    images: tf.Tensor, values: tf.Tensor, change: tf.Tensor, divisor: int, border: int
) -> tf.Tensor:
    """``values`` + ``change`` / ``divisor``, rounded; the border keeps its values.

    Pillow adds up products in float32 and a half, and truncates. With whole numbers over 13 or 16
    no sum comes so near to the next byte that rounding errors, of 10⁻⁴ at most, could reach it.
    """
    _, height, width, channels = images.shape
    weight = np.zeros((height, width, channels), np.float32)
    weight[border : height - border, border : width - border] = 1.0 / divisor
    return like(tf.cast(values + (change * weight.reshape(1, -1) + 0.5), tf.uint8), images)
