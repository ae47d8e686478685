"""An augmented batch: its pixels, and which of them show nothing.

Geometry uncovers places for which there is no source pixel, and cutout covers places. Both are
*hidden*: networks see mid-grey there, exactly 0.0, whatever later operations made of the value.
While a chain runs, a hidden pixel holds 0 in every channel, as an uncovered one does in Pillow.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

GREY = 128  # the byte that stands for a hidden pixel in a picture


class View(NamedTuple):
    """Images after a policy.

    Attributes:
      pixels: uint8 [N, H, W, C].
      hidden: bool [N, H, W], pixels that show nothing; None where no image can have any.
    """

    pixels: tf.Tensor
    hidden: tf.Tensor | None


def to_float(images: tf.Tensor | View) -> tf.Tensor:
    """uint8 → float32 in [−1, 1]: x·(2/255) − 1, what every network here reads; hidden → 0.

    Args:
      images: uint8 of any shape, or a view.
    """
    if not isinstance(images, View):
        return tf.cast(images, tf.float32) * (2.0 / 255.0) - 1.0
    values = _in_one_pass(images.pixels)
    if images.hidden is None:
        return values
    seen = tf.cast(tf.logical_not(images.hidden), tf.float32)
    # A plain product would give −0 for dark pixels; this one gives 0 where anything is not seen.
    return tf.math.multiply_no_nan(values, per_channel(seen, values.shape[-1]))


def _in_one_pass(pixels: tf.Tensor) -> tf.Tensor:
    """x·(2/255) − 1, the same bits as from three operations at half their time.

    Views are made where batches are, in the input pipeline; this operation exists for CPUs only,
    and exported models do better without it.
    """
    return tf.raw_ops.Dequantize(
        input=tf.bitcast(pixels, tf.quint8), min_range=-1.0, max_range=1.0, mode="MIN_COMBINED"
    )


def filled(view: tf.Tensor | View) -> tf.Tensor:
    """uint8 [N, H, W, C] to look at or to store: hidden pixels are grey (128)."""
    if not isinstance(view, View):
        return view
    if view.hidden is None:
        return view.pixels
    return tf.where(view.hidden[..., None], tf.constant(GREY, tf.uint8), view.pixels)


def cut_out(view: View, row: tf.Tensor, column: tf.Tensor, side: tf.Tensor | int) -> View:
    """Hides one square window an image (Cutout, DeVries & Taylor 2017, arXiv 1708.04552).

    Args:
      view: what to cut from.
      row, column: int32 [N], the window's centre.
      side: int32 [N] or one number, in pixels, see ``window``.
    """
    _, height, width, _ = view.pixels.shape
    hidden = window(row, column, side, height, width)
    return View(view.pixels, hidden if view.hidden is None else hidden | view.hidden)


def window(
    row: tf.Tensor, column: tf.Tensor, side: tf.Tensor | int, height: int, width: int
) -> tf.Tensor:
    """bool [N, H, W], the pixels of a square window, cut off at all four borders.

    It reaches ``side // 2`` pixels to either side of the centre's upper left corner, as in the
    published code, so an odd side covers one pixel less and a side of 1 nothing.

    Args:
      row, column: int32 [N], the centre.
      side: int32 [N] or one number.
      height, width: of the images.
    """
    half = tf.reshape(tf.convert_to_tensor(side, tf.int32) // 2, [-1, 1])
    inside = [
        (places >= centre[:, None] - half) & (places < centre[:, None] + half)
        for places, centre in ((tf.range(height)[None], row), (tf.range(width)[None], column))
    ]
    return inside[0][:, :, None] & inside[1][:, None, :]


def per_channel(values: tf.Tensor, channels: int) -> tf.Tensor:
    """Repeats float32 [N, H, W] for every channel: [N, H, W, C], exactly.

    The product with a matrix of zeros and ones does that several times faster than broadcasting
    along an innermost axis of three.
    """
    if channels == 1:
        return values[..., None]
    _, height, width = values.shape
    block = math.gcd(height * width, 8)
    spread = np.kron(np.eye(block), np.ones((1, channels))).astype(np.float32)
    return tf.reshape(
        tf.matmul(tf.reshape(values, [-1, block]), spread), [-1, height, width, channels]
    )
