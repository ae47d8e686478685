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
    total = _three(_three(values, _row(images)), images.shape[-1]) + values * 4
    # Pillow's float32 sums lie within 10⁻⁴ of the quotient plus a half, which itself is never
    # nearer than 1/26 to a whole number: truncating gives the same byte.
    result = tf.cast((tf.cast(total, tf.float32) + 6.5) * (1.0 / 13.0), tf.uint8)
    return _inside(images, result, 1)


def blur(images: tf.Tensor) -> tf.Tensor:
    """``ImageFilter.BLUR``: the mean of the 16 pixels at distance 2 (a 5×5 ring).

    The border of 2 pixels keeps its values.
    """
    row, pixel = _row(images), images.shape[-1]
    column_3 = _three(_flat(images), row)
    column_5 = column_3 + tf.roll(_flat(images), 2 * row, 1) + tf.roll(_flat(images), -2 * row, 1)
    square_3, square_5 = _three(column_3, pixel), _three(column_5, pixel)
    square_5 += tf.roll(column_5, 2 * pixel, 1) + tf.roll(column_5, -2 * pixel, 1)
    ring = tf.cast(square_5 - square_3, tf.float32)
    return _inside(images, tf.cast((ring + 8.0) * (1.0 / 16.0), tf.uint8), 2)


def sharpness(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """``ImageEnhance.Sharpness``: 0 is smooth, 1 no change. ``factor`` is float32 [N]."""
    return blend(smooth(images), images, factor)


def _flat(images: tf.Tensor) -> tf.Tensor:
    """int16 [N, H·W·C]; neighbours are then rolls, which copy whole images at a time."""
    _, height, width, channels = images.shape
    return tf.cast(tf.reshape(images, [-1, height * width * channels]), tf.int16)


def _row(images: tf.Tensor) -> int:
    return images.shape[2] * images.shape[3]


def _three(values: tf.Tensor, distance: int) -> tf.Tensor:
    """Each value and its two neighbours; wrong at the border, which is not used."""
    return values + tf.roll(values, distance, 1) + tf.roll(values, -distance, 1)


def _inside(images: tf.Tensor, result: tf.Tensor, border: int) -> tf.Tensor:
    """``result`` with the border of ``images``."""
    _, height, width, channels = images.shape
    mask = np.zeros((height, width, channels), np.uint8)
    mask[border : height - border, border : width - border] = 255
    inner = tf.bitwise.bitwise_and(result, mask.reshape(1, -1))
    outer = tf.bitwise.bitwise_and(tf.reshape(images, [-1, mask.size]), ~mask.reshape(1, -1))
    return like(tf.bitwise.bitwise_or(inner, outer), images)
