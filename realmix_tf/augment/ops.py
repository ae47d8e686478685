"""Single image operations on batches; per-example random through their arguments.

All take ``images`` uint8 [N, H, W, C] and return the same shape and type.
"""

from __future__ import annotations

import tensorflow as tf

from realmix_tf.augment.views import to_float

__all__ = ["jitter_color", "mirror_shift", "random_erase", "to_float"]


def mirror_shift(
    images: tf.Tensor, mirror: tf.Tensor, dy: tf.Tensor, dx: tf.Tensor, reach: int
) -> tf.Tensor:
    """Mirrors some images left to right, then shifts each by whole pixels with reflection.

    Equals reflect-padding and cropping at an offset. Images with the same shift to the side are
    moved together, by copies of parts of rows, which costs less than half of gathering pixels.

    Args:
      images: uint8 [N, H, W, C]; H, W and C are known.
      mirror: bool [N].
      dy, dx: int32 [N], the crop's offset from the centre: output pixel (y, x) is input pixel
        (y + dy, x + dx), reflected at the borders without repeating the edge; |dy| < H.
      reach: the largest |dx| that can occur; less than W.
    """
    _, height, width, channels = images.shape
    offsets = 2 * reach + 1
    # Mirroring after a shift to the other side is the same, and half of the images need none.
    group = tf.where(mirror, offsets + reach - dx, reach + dx)
    flat = tf.reshape(images, [-1, height * width * channels])
    parts = tf.dynamic_partition(flat, group, 2 * offsets)
    shifted = [
        _shift_columns(tf.reshape(part, [-1, width, channels]), number % offsets - reach)
        for number, part in enumerate(parts)
    ]
    mirrored = tf.reverse(tf.concat(shifted[offsets:], 0), [1])
    rows = tf.reshape(tf.concat([*shifted[:offsets], mirrored], 0), [-1, width * channels])
    # Back into order and shifted up or down, both by gathering rows.
    count = tf.shape(images)[0]
    order = tf.concat(tf.dynamic_partition(tf.range(count), group, 2 * offsets), 0)
    source = _reflect(tf.range(height)[None, :] + dy[:, None], height)
    place = tf.math.invert_permutation(order)[:, None] * height + source
    moved = tf.reshape(tf.gather(rows, place), [-1, height, width, channels])
    return tf.ensure_shape(moved, images.shape)


def _shift_columns(rows: tf.Tensor, offset: int) -> tf.Tensor:
    """[M, W, C] → the same: column x is column x + offset, reflected at the borders."""
    width = rows.shape[1]
    if offset > 0:
        beyond = tf.reverse(rows[:, width - 1 - offset : width - 1], [1])
        return tf.concat([rows[:, offset:], beyond], 1)
    if offset < 0:
        beyond = tf.reverse(rows[:, 1 : 1 - offset], [1])
        return tf.concat([beyond, rows[:, :offset]], 1)
    return rows


def _reflect(index: tf.Tensor, size: int) -> tf.Tensor:
    return (size - 1) - tf.abs((size - 1) - tf.abs(index))


def random_erase(
    images: tf.Tensor,
    apply: tf.Tensor,
    area: tf.Tensor,
    aspect: tf.Tensor,
    top: tf.Tensor,
    left: tf.Tensor,
    noise_key: tf.Tensor,
) -> tf.Tensor:
    """Fills one rectangle an image with random bytes (Random Erasing, Zhong et al. 2017).

    Args:
      images: uint8 [N, H, W, C].
      apply: bool [N], which images.
      area: float32 [N], the rectangle's share of the image's area.
      aspect: float32 [N], its height over its width; a side longer than the image is cut to it.
      top, left: float32 [N] in [0, 1), its place among those where it lies wholly inside.
      noise_key: float32 [N] in [0, 1), from which the bytes are hashed.
    """
    shape = tf.shape(images)
    count, height, width, channels = shape[0], shape[1], shape[2], shape[3]
    pixels = tf.cast(height * width, tf.float32) * area
    box_height = tf.clip_by_value(tf.cast(tf.round(tf.sqrt(pixels * aspect)), tf.int32), 1, height)
    box_width = tf.clip_by_value(tf.cast(tf.round(tf.sqrt(pixels / aspect)), tf.int32), 1, width)
    first_row = _place(top, height - box_height)
    first_column = _place(left, width - box_width)
    rows = tf.range(height)[None, :]
    columns = tf.range(width)[None, :]
    in_rows = (rows >= first_row[:, None]) & (rows < (first_row + box_height)[:, None])
    in_columns = (columns >= first_column[:, None]) & (
        columns < (first_column + box_width)[:, None]
    )
    inside = (in_rows[:, :, None] & in_columns[:, None, :] & apply[:, None, None])[..., None]
    values = tf.cast(noise_key * 2.0**24, tf.uint32)[:, None] * tf.constant(0x9E3779B1, tf.uint32)
    places = tf.cast(tf.range(height * width * channels), tf.uint32)[None, :]
    noise = tf.reshape(_hash_byte(values + places), [count, height, width, channels])
    return tf.ensure_shape(tf.where(inside, noise, images), images.shape)


def _place(fraction: tf.Tensor, room: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.floor(fraction * tf.cast(room + 1, tf.float32)), tf.int32)


def _hash_byte(words: tf.Tensor) -> tf.Tensor:
    """One well-mixed byte a 32-bit word (the finaliser of MurmurHash3)."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        shifted = tf.bitwise.right_shift(words, tf.constant(shift, tf.uint32))
        words = tf.bitwise.bitwise_xor(words, shifted) * tf.constant(factor, tf.uint32)
    return tf.cast(tf.bitwise.right_shift(words, tf.constant(24, tf.uint32)), tf.uint8)


def jitter_color(
    images: tf.Tensor,
    brightness: tf.Tensor,
    hue: tf.Tensor,
    saturation: tf.Tensor,
    contrast: tf.Tensor,
) -> tf.Tensor:
    """Brightness, hue, saturation and contrast, in this order, one value an image.

    Args:
      images: uint8 [N, H, W, 3]; grey images [N, H, W, 1] keep hue and saturation.
      brightness: float32 [N], added to values in [0, 1].
      hue: float32 [N], turns of the colour circle.
      saturation: float32 [N] ≥ 0, factor on the HSV saturation.
      contrast: float32 [N] ≥ 0, factor on the distance from the channel's mean.
    """
    values = tf.cast(images, tf.float32) / 255.0
    values = tf.clip_by_value(values + _per_image(brightness), 0.0, 1.0)
    if images.shape[-1] == 3:
        hsv = tf.image.rgb_to_hsv(values)
        turned = tf.math.floormod(hsv[..., 0] + hue[:, None, None], 1.0)
        scaled = tf.clip_by_value(hsv[..., 1] * saturation[:, None, None], 0.0, 1.0)
        values = tf.image.hsv_to_rgb(tf.stack([turned, scaled, hsv[..., 2]], -1))
    mean = tf.reduce_mean(values, [1, 2], keepdims=True)
    values = (values - mean) * _per_image(contrast) + mean
    return tf.cast(tf.round(tf.clip_by_value(values, 0.0, 1.0) * 255.0), tf.uint8)


def _per_image(value: tf.Tensor) -> tf.Tensor:
    return value[:, None, None, None]
