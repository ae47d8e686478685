"""Each operation against a slow plain version in NumPy."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import tensorflow as tf

from realmix_tf.augment import ops


def photos(count: int, height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(
        0, 256, (count, height, width, channels), dtype=np.uint8
    )


def test_floats_are_exact_for_every_byte_alone_and_in_a_pipeline():
    levels = np.arange(256, dtype=np.uint8)
    plain = levels.astype(np.float32) * np.float32(2 / 255) - np.float32(1)
    alone = ops.to_float(tf.constant(levels)).numpy()
    piped = next(tf.data.Dataset.from_tensors(levels).map(ops.to_float).as_numpy_iterator())
    np.testing.assert_array_equal(alone, plain)
    np.testing.assert_array_equal(piped, plain)
    assert alone.min() == -1
    assert alone.max() == 1
    assert len(np.unique(alone)) == 256


def test_floats_go_back_to_the_same_bytes():
    levels = np.arange(256, dtype=np.uint8)
    back = np.rint((ops.to_float(tf.constant(levels)).numpy() + 1) * 127.5)
    np.testing.assert_array_equal(back.astype(np.uint8), levels)


@pytest.mark.parametrize(
    ("pad", "height", "width", "channels"), [(4, 9, 6, 3), (1, 8, 8, 1), (12, 13, 14, 3)]
)
@pytest.mark.parametrize("mirror", [False, True])
def test_mirror_and_shift_is_flip_then_reflect_pad_then_crop(pad, height, width, channels, mirror):
    side = 2 * pad + 1
    dy, dx = np.divmod(np.arange(side * side), side)
    images = photos(side * side, height, width, channels)
    result = ops.mirror_shift(
        tf.constant(images),
        tf.fill([side * side], mirror),
        tf.constant(dy - pad, tf.int32),
        tf.constant(dx - pad, tf.int32),
        pad,
    ).numpy()
    for image, y, x, shifted in zip(images, dy, dx, result, strict=True):
        flipped = image[:, ::-1] if mirror else image
        padded = np.pad(flipped, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
        np.testing.assert_array_equal(shifted, padded[y : y + height, x : x + width])


def test_mirror_is_chosen_for_each_image():
    images = photos(6, 5, 5, 3)
    mirror = np.array([True, False, False, True, True, False])
    zeros = tf.zeros([6], tf.int32)
    result = ops.mirror_shift(tf.constant(images), tf.constant(mirror), zeros, zeros, 1).numpy()
    plain = np.where(mirror[:, None, None, None], images[:, :, ::-1], images)
    np.testing.assert_array_equal(result, plain)


def _erased(count, area, aspect, top, left, apply=None, size=(20, 16), channels=3, key=None):
    images = photos(count, *size, channels)
    key = np.random.default_rng(5).random(count) if key is None else key
    result = ops.random_erase(
        tf.constant(images),
        tf.constant(np.ones(count, bool) if apply is None else apply),
        *(tf.constant(np.asarray(v), tf.float32) for v in (area, aspect, top, left, key)),
    ).numpy()
    return images, result


def _box(changed: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def test_erasing_fills_one_rectangle_of_the_asked_area_and_aspect_and_nothing_else():
    random = np.random.default_rng(1)
    count, height, width = 300, 20, 16
    area, aspect = random.uniform(0.05, 0.4, count), random.uniform(0.3, 1 / 0.3, count)
    top, left = random.random(count), random.random(count)
    images, result = _erased(count, area, aspect, top, left)
    for i in range(count):
        box_height = min(
            max(round(np.sqrt(np.float32(height * width * area[i]) * aspect[i])), 1), height
        )
        box_width = min(
            max(round(np.sqrt(np.float32(height * width * area[i]) / aspect[i])), 1), width
        )
        first_row = int(top[i] * (height - box_height + 1))
        first_column = int(left[i] * (width - box_width + 1))
        inside = np.zeros((height, width), bool)
        inside[first_row : first_row + box_height, first_column : first_column + box_width] = True
        changed = (images[i] != result[i]).any(-1)
        assert not (changed & ~inside).any()
        # Three random bytes equal the old ones once in 2²⁴ pixels: the box is filled wholly.
        assert (changed == inside).all()


def test_the_first_and_the_last_place_of_the_rectangle_occur():
    top = np.array([0, np.nextafter(np.float32(1), np.float32(0))])
    images, result = _erased(2, [0.1, 0.1], [1, 1], top, top, size=(20, 20))
    boxes = [_box((a != b).any(-1)) for a, b in zip(images, result, strict=True)]
    assert boxes[0][0] == boxes[0][2] == 0
    assert boxes[1][1] == boxes[1][3] == 20


def test_a_side_longer_than_the_image_is_cut_to_it():
    images, result = _erased(1, [0.4], [1 / 0.3], [0.5], [0.5], size=(8, 32))
    first_row, last_row, _, _ = _box((images[0] != result[0]).any(-1))
    assert (first_row, last_row) == (0, 8)


def test_only_the_chosen_images_are_erased():
    apply = np.array([True, False, True, False])
    images, result = _erased(4, [0.3] * 4, [1] * 4, [0.2] * 4, [0.2] * 4, apply)
    np.testing.assert_array_equal((images != result).any((1, 2, 3)), apply)


def test_the_filling_is_random_bytes_of_its_own_for_each_image():
    _, result = _erased(40, [1.0] * 40, [1.0] * 40, [0] * 40, [0] * 40, size=(32, 32))
    assert abs(result.mean() - 127.5) < 1
    assert abs(result.var() - (256**2 - 1) / 12) < 40
    counts = np.bincount(result.ravel(), minlength=256)
    assert ((counts - result.size / 256) ** 2 / (result.size / 256)).sum() < 360  # χ², 255
    flat = result.reshape(40, -1).astype(np.float64)
    assert np.abs(np.corrcoef(flat) - np.eye(40)).max() < 0.1
    assert abs(np.corrcoef(flat[:, 1:].ravel(), flat[:, :-1].ravel())[0, 1]) < 0.02


def _plain_jitter(image, brightness, hue, saturation, contrast):
    values = np.clip(image.astype(np.float64) / 255 + brightness, 0, 1)
    if image.shape[-1] == 3:
        for y, x in np.ndindex(image.shape[:2]):
            h, s, v = colorsys.rgb_to_hsv(*values[y, x])
            values[y, x] = colorsys.hsv_to_rgb((h + hue) % 1, min(s * saturation, 1), v)
    mean = values.mean((0, 1))
    return np.rint(np.clip((values - mean) * contrast + mean, 0, 1) * 255).astype(int)


@pytest.mark.parametrize("channels", [1, 3])
def test_color_jitter_equals_the_plain_one_to_one_level(channels):
    random = np.random.default_rng(2)
    images = photos(24, 9, 7, channels, seed=3)
    images[0], images[1] = 0, 255  # black and white have no hue
    arguments = [random.uniform(*r, 24) for r in ((-0.1, 0.1), (-0.5, 0.5), (0.1, 3), (0.5, 1.5))]
    result = ops.jitter_color(
        tf.constant(images), *(tf.constant(a, tf.float32) for a in arguments)
    ).numpy()
    plain = np.stack([_plain_jitter(*one) for one in zip(images, *arguments, strict=True)])
    difference = np.abs(result - plain)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3  # rounding ties only


def test_color_jitter_that_changes_nothing_is_lossless():
    images = photos(8, 16, 16, 3)
    zeros, ones = tf.zeros([8]), tf.ones([8])
    result = ops.jitter_color(tf.constant(images), zeros, zeros, ones, ones).numpy()
    np.testing.assert_array_equal(result, images)
