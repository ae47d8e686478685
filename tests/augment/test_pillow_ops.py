"""Each operation against Pillow, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pillow_reference import applied, moved, picture, pixels_of, varied

from realmix_tf.augment import pillow_color as color
from realmix_tf.augment import pillow_filters as filters
from realmix_tf.augment import pillow_geometry as geometry
from realmix_tf.augment.chain import Op

SIZES = ((8, 8), (32, 32), (31, 33), (96, 96))
COUNT = 48


class Case(NamedTuple):
    """An operation: on a batch, with Pillow, and amounts from (random generator, count, size)."""

    batch: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    op: Op
    amounts: Callable[[np.random.Generator, int, int], np.ndarray]


def _share(op):
    def batch(images, amount):
        return color.blend(images, op(images), tf.cast(amount, tf.float32))

    return batch


def _factor(op):
    return lambda images, amount: op(images, tf.cast(amount, tf.float32))


def _whole(op):
    return lambda images, amount: op(images, tf.cast(amount, tf.int32))


def _moved(op):
    return lambda images, amount: op(images, amount)[0]


def _around(low, high, *special):
    """Uniform amounts, of which the first are special ones."""

    def draw(random, count, size):
        amounts = random.uniform(low, high, count)
        amounts[: len(special)] = special
        return amounts

    return draw


def _integers(low, high):
    def draw(random, count, size):
        amounts = random.integers(low, high + 1, count).astype(np.float64)
        amounts[:2] = low, high
        return amounts

    return draw


def _degrees(random, count, size):
    amounts = random.uniform(-180, 180, count)
    amounts[: count // 2] = random.integers(-45, 46, count // 2)
    amounts[:6] = 0, 90, 180, -90, 45, 360
    return amounts


def _pixels(random, count, size):
    amounts = random.uniform(-0.5, 0.5, count) * size
    amounts[:8] = 0, 0.5, -0.5, 1, -1, size + 2, -size - 2, 1.5
    return amounts


_FACTORS = _around(0, 2.5, 0, 1, 2, 0.1, 1.9)
_SHARES = _around(0, 1, 0, 1, 0.5)
CASES = {
    "autocontrast": Case(_share(color.autocontrast), Op.AUTOCONTRAST, _SHARES),
    "equalize": Case(_share(color.equalize), Op.EQUALIZE, _SHARES),
    "invert": Case(_share(color.invert), Op.INVERT, _SHARES),
    "smooth": Case(_share(filters.smooth), Op.SMOOTH, _SHARES),
    "blur": Case(_share(filters.blur), Op.BLUR, _SHARES),
    "posterize": Case(_whole(color.posterize), Op.POSTERIZE, _integers(1, 8)),
    "solarize": Case(_whole(color.solarize), Op.SOLARIZE, _integers(0, 256)),
    "brightness": Case(_factor(color.brightness), Op.BRIGHTNESS, _FACTORS),
    "color": Case(_factor(color.color), Op.COLOR, _FACTORS),
    "contrast": Case(_factor(color.contrast), Op.CONTRAST, _FACTORS),
    "sharpness": Case(_factor(filters.sharpness), Op.SHARPNESS, _FACTORS),
    "rotate": Case(_moved(geometry.rotate), Op.ROTATE, _degrees),
    "shear_x": Case(_moved(geometry.shear_x), Op.SHEAR_X, _around(-0.45, 0.45, 0, 0.3, -0.3)),
    "shear_y": Case(_moved(geometry.shear_y), Op.SHEAR_Y, _around(-0.45, 0.45, 0, 0.3, -0.3)),
    "translate_x": Case(_moved(geometry.translate_x), Op.TRANSLATE_X, _pixels),
    "translate_y": Case(_moved(geometry.translate_y), Op.TRANSLATE_Y, _pixels),
}


def _expected(op, images, amounts, options=None):
    options = np.zeros(len(images), int) if options is None else options
    return np.stack(
        [
            pixels_of(applied(picture(image), op, amount, option))
            for image, amount, option in zip(images, amounts, options, strict=True)
        ]
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_every_byte_is_pillows(name, size, channels):
    case = CASES[name]
    images = varied(COUNT, *size, channels)
    amounts = case.amounts(np.random.default_rng(1), COUNT, size[1])
    result = case.batch(tf.constant(images), tf.constant(amounts)).numpy()
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, _expected(case.op, images, amounts))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_alone_in_a_parallel_pipeline_and_one_at_a_time_are_the_same(name, channels):
    case = CASES[name]
    images = varied(COUNT, 16, 12, channels)
    amounts = case.amounts(np.random.default_rng(1), COUNT, 12)
    alone = case.batch(tf.constant(images), tf.constant(amounts)).numpy()
    # The last batch is shorter: its size is not known in the graph.
    piped = tf.data.Dataset.from_tensor_slices((images, amounts)).batch(COUNT // 3 + 5)
    piped = piped.map(case.batch, num_parallel_calls=4)
    singly = tf.data.Dataset.from_tensor_slices((images, amounts)).batch(1).map(case.batch)
    for pipeline in (piped, singly):
        np.testing.assert_array_equal(np.concatenate(list(pipeline.as_numpy_iterator())), alone)


@pytest.mark.parametrize("channels", [1, 3])
def test_no_images_are_no_images(channels):
    empty = np.zeros((0, 16, 12, channels), np.uint8)
    for case in CASES.values():
        result = tf.function(case.batch)(tf.constant(empty), tf.zeros([0], tf.float64))
        assert result.shape == empty.shape


def test_every_whole_degree_is_pillows():
    degrees = np.arange(-45, 46).astype(np.float64)
    for size in ((32, 32), (31, 33), (9, 64)):
        images = varied(len(degrees), *size, 1)
        result, _ = geometry.rotate(tf.constant(images), tf.constant(degrees))
        np.testing.assert_array_equal(result.numpy(), _expected(Op.ROTATE, images, degrees))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("option", range(6))
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_byte_of_rescaling_is_pillows_with_every_filter(size, option, channels):
    images = varied(COUNT, *size, channels)
    margin = np.random.default_rng(option).uniform(0, 0.25, COUNT)
    margin[:5] = 0, 0.25, 0.125, 2.5 / size[1], 1.5 / size[0]
    options = np.full(COUNT, option)
    result, hidden = geometry.rescale(
        tf.constant(images), tf.constant(margin), tf.constant(options, tf.int32)
    )
    expected = _expected(Op.RESCALE, images, margin, options)
    np.testing.assert_array_equal(result.numpy(), expected)
    assert not hidden.numpy().any()


@pytest.mark.parametrize("size", [(224, 200), (200, 224)], ids=str)
def test_large_images_are_pillows_too(size):
    images = varied(8, *size, 3)
    random = np.random.default_rng(1)
    for case in CASES.values():
        amounts = case.amounts(random, 16, size[1])[-8:]
        result = case.batch(tf.constant(images), tf.constant(amounts)).numpy()
        np.testing.assert_array_equal(result, _expected(case.op, images, amounts), case.op.name)
    margin, options = random.uniform(0, 0.25, 8), np.arange(8) % 6
    result, _ = geometry.rescale(
        tf.constant(images), tf.constant(margin), tf.constant(options, tf.int32)
    )
    np.testing.assert_array_equal(result.numpy(), _expected(Op.RESCALE, images, margin, options))


def test_means_that_almost_reach_a_half_are_rounded_as_pillow_does():
    # 224×224 grey values whose mean misses 127.5 by one part in 50176.
    images = np.full((3, 224, 224, 1), 127, np.uint8)
    for image, bright in zip(images, (25087, 25088, 25089), strict=True):
        image.reshape(-1)[:bright] = 128
    factors = np.zeros(3)
    result = color.contrast(tf.constant(images), tf.constant(factors, tf.float32)).numpy()
    np.testing.assert_array_equal(result, _expected(Op.CONTRAST, images, factors))
    assert [image[0, 0, 0] for image in result] == [127, 128, 128]


def test_zero_bits_are_black():
    images = tf.constant(varied(8, 8, 8, 3))
    assert not color.posterize(images, tf.zeros([8], tf.int32)).numpy().any()


GEOMETRY = [name for name, case in CASES.items() if case.op >= Op.ROTATE]


@pytest.mark.parametrize("given", [False, True], ids=["nothing hidden", "some hidden"])
@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_reports_what_it_uncovered_and_moves_what_was_hidden(name, given):
    case, size = CASES[name], (31, 33)
    random = np.random.default_rng(3)
    images = np.maximum(varied(COUNT, *size, 3), 1)
    amounts = case.amounts(random, COUNT, size[1])
    before = random.random((COUNT, *size)) < 0.3
    function = getattr(geometry, name)
    result, hidden = function(
        tf.constant(images), tf.constant(amounts), tf.constant(before) if given else None
    )
    for i in range(COUNT):
        seen = np.where(before[i] & given, 0, 255).astype(np.uint8)
        seen = np.asarray(moved(Image.fromarray(seen), case.op, amounts[i], 0))
        np.testing.assert_array_equal(hidden[i].numpy(), seen == 0)
    if not given:
        # No image had a black pixel: the black ones are the uncovered ones.
        np.testing.assert_array_equal((result.numpy() == 0).any(-1), hidden.numpy())


def test_rescaling_moves_what_was_hidden_as_nearest_neighbours():
    random = np.random.default_rng(3)
    images, before = varied(COUNT, 31, 33, 3), random.random((COUNT, 31, 33)) < 0.3
    margin, options = random.uniform(0, 0.25, COUNT), np.arange(COUNT) % 6
    _, hidden = geometry.rescale(
        tf.constant(images),
        tf.constant(margin),
        tf.constant(options, tf.int32),
        tf.constant(before),
    )
    for i in range(COUNT):
        seen = Image.fromarray(np.where(before[i], 0, 255).astype(np.uint8))
        seen = np.asarray(moved(seen, Op.RESCALE, margin[i], geometry.NEAREST))
        np.testing.assert_array_equal(hidden[i].numpy(), seen == 0)
