"""Pillow's operations on pixel values, for batches, one parameter an image.

All take ``images`` uint8 [N, H, W, C] with C = 1 (Pillow's mode L) or 3 (RGB), H, W and C known and
at most 224×224 pixels, and return the same shape and type. Every byte equals the one that Pillow
computes: where Pillow works in double precision or truncates, so does the code here.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

# Red, green and blue in Pillow's conversion to grey, in 65536ths.
_LUMA = (19595, 38470, 7471)
_PIXELS = 8  # pixels a row of the matrix products below
_LEVELS = 256


def blend(first: tf.Tensor, second: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """``Image.blend``: first + weight·(second − first), clipped to [0, 255] and truncated.

    Args:
      first, second: uint8 of one shape [N, …].
      weight: float32 [N], any number; 0 gives ``first``, 1 gives ``second``.
    """
    start, end = tf.cast(first, tf.float32), tf.cast(second, tf.float32)
    mixed = start + per_image(weight, start) * (end - start)
    return tf.cast(tf.clip_by_value(mixed, 0.0, 255.0), tf.uint8)


def per_image(values: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """[N] → [N, 1, …] with the rank of ``like``."""
    return tf.reshape(values, [-1] + [1] * (like.shape.rank - 1))


def like(values: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Gives the values of images their shape."""
    return tf.reshape(values, [-1, *images.shape[1:]])


def invert(images: tf.Tensor) -> tf.Tensor:
    """``ImageOps.invert``."""
    return 255 - images


def posterize(images: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """``ImageOps.posterize``: keeps the highest bits.

    Args:
      images: uint8 [N, H, W, C].
      bits: int32 [N], from 0 (black) to 8 (no change).
    """
    masks = tf.constant([_LEVELS - (1 << (8 - bits)) for bits in range(9)], tf.uint8)
    return tf.bitwise.bitwise_and(images, per_image(tf.gather(masks, bits), images))


def solarize(images: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """``ImageOps.solarize``: inverts values at or above a threshold.

    Args:
      images: uint8 [N, H, W, C].
      threshold: int32 [N], from 0 (inverts everything) to 256 (nothing).
    """
    # A byte cannot say 256: then the flipped bits are none.
    flipped = tf.cast(tf.where(threshold < _LEVELS, 255, 0), tf.uint8)
    limit = tf.cast(tf.minimum(threshold, _LEVELS - 1), tf.uint8)
    bright = tf.cast(images >= per_image(limit, images), tf.uint8)
    return tf.bitwise.bitwise_xor(images, bright * per_image(flipped, images))


def autocontrast(images: tf.Tensor) -> tf.Tensor:
    """``ImageOps.autocontrast``: every channel stretched to [0, 255]; a flat channel stays."""
    _, height, width, channels = images.shape
    pixels = tf.reshape(images, [-1, height * width, channels])
    low = tf.cast(tf.reduce_min(pixels, 1), tf.float64)
    high = tf.cast(tf.reduce_max(pixels, 1), tf.float64)
    # Pillow truncates x·scale − low·scale in double precision, where whole numbers may come out a
    # hair too small: no shorter formula gives the same bytes. A flat channel is 0·x + low.
    scale = tf.math.divide_no_nan(tf.constant(255.0, tf.float64), high - low)
    offset = low * (tf.cast(high == low, tf.float64) - scale)
    rows = tf.cast(tf.reshape(images, [-1, height, width * channels]), tf.float64)
    stretched = rows * _along_a_row(scale, width) + _along_a_row(offset, width)
    return like(tf.cast(stretched, tf.uint8), images)


def _along_a_row(values: tf.Tensor, width: int) -> tf.Tensor:
    """[N, C] → [N, 1, W·C]: broadcasting along rows is fast, along three channels it is not."""
    return tf.tile(values, [1, width])[:, None, :]


def equalize(images: tf.Tensor) -> tf.Tensor:
    """``ImageOps.equalize``: every channel's histogram flattened."""
    _, height, width, channels = images.shape
    count = tf.shape(images)[0]
    tables = count * channels
    # A place in the histograms for every value: [image, channel, level].
    start = tf.reshape(tf.range(0, tables * _LEVELS, _LEVELS), [-1, channels])
    rows = tf.cast(tf.reshape(images, [-1, height, width * channels]), tf.int32)
    place = tf.reshape(rows + _along_a_row(start, width), [-1])
    histogram = tf.raw_ops.DenseBincount(
        input=place, size=tables * _LEVELS, weights=tf.zeros([0], tf.float32)
    )
    histogram = tf.reshape(histogram, [-1, _LEVELS])
    below = _sums_below(histogram)
    # Everything but the brightest level that occurs is spread over 255 steps; the counts are whole
    # and small enough for float32, quotients included.
    present = tf.minimum(histogram, 1.0)
    step = tf.reduce_max(below * present, 1, keepdims=True) // 255.0
    # Without as much as a step the levels stay: as many are below them as they say.
    levels = np.arange(_LEVELS, dtype=np.float32)
    below = levels + tf.minimum(step, 1.0) * (below - levels)
    table = tf.minimum((below + step // 2.0) // tf.maximum(step, 1.0), 255.0)
    table = tf.reshape(tf.cast(table, tf.uint8), [-1])
    return like(tf.gather_nd(table, place[:, None]), images)


def _sums_below(histogram: tf.Tensor) -> tf.Tensor:
    """Exclusive running sums along the last axis of float32 [M, 256], in two stages of 16."""
    earlier = np.triu(np.ones((16, 16), np.float32), 1)
    blocks = tf.reshape(histogram, [-1, 16])
    within = tf.reshape(tf.matmul(blocks, earlier), [-1, 16, 16])
    before = tf.matmul(tf.reshape(tf.reduce_sum(blocks, 1), [-1, 16]), earlier)
    return tf.reshape(within + before[:, :, None], [-1, _LEVELS])


def grey(images: tf.Tensor) -> tf.Tensor:
    """``convert("L")``, repeated for every channel."""
    if images.shape[-1] == 1:
        return images
    return like(tf.cast(_luma(images, 3) + 0.5, tf.uint8), images)


def mean_grey(images: tf.Tensor) -> tf.Tensor:
    """uint8 [N], the mean of an image in grey, rounded half up."""
    _, height, width, channels = images.shape
    size = height * width
    values = tf.cast(images, tf.float32) if channels == 1 else tf.floor(_luma(images, 1) + 0.5)
    # The sums are whole and below 2²⁴; the quotients need more digits than float32 has.
    total = tf.cast(tf.reduce_sum(tf.reshape(values, [-1, size]), 1), tf.float64)
    return tf.cast(tf.floor(total / float(size) + 0.5), tf.uint8)


def _luma(images: tf.Tensor, repeats: int) -> tf.Tensor:
    """Weighted sums over the channels, each written ``repeats`` times; unrounded, flat.

    A matrix product of float32 is exact here: with weights in 65536ths every partial sum is a
    whole number of them below 2²⁴.
    """
    _, height, width, channels = images.shape
    pixels = _PIXELS if height * width % _PIXELS == 0 else 1
    weights = np.outer(_LUMA, np.ones(repeats)) / 65536.0
    matrix = np.kron(np.eye(pixels), weights).astype(np.float32)
    return tf.matmul(tf.reshape(tf.cast(images, tf.float32), [-1, pixels * channels]), matrix)


def brightness(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """``ImageEnhance.Brightness``: 0 is black, 1 no change. ``factor`` is float32 [N]."""
    return blend(tf.zeros_like(images), images, factor)


def contrast(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """``ImageEnhance.Contrast``: 0 is the mean grey, 1 no change. ``factor`` is float32 [N]."""
    return blend(flat_grey(images), images, factor)


def flat_grey(images: tf.Tensor) -> tf.Tensor:
    """Images that show their mean grey everywhere."""
    return tf.zeros_like(images) + per_image(mean_grey(images), images)


def color(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """``ImageEnhance.Color``: 0 is grey, 1 no change. ``factor`` is float32 [N]."""
    return blend(grey(images), images, factor)
