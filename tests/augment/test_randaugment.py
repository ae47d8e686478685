"""RandAugment: drawn as published, and every view replayed with Pillow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from pillow_reference import as_float, replayed, varied, window

from realmix_tf.augment import levels, views
from realmix_tf.augment.chain import Op
from realmix_tf.augment.codes import parse_strong
from realmix_tf.augment.randaugment import RandAugment
from realmix_tf.randomness import uniforms

CODES = ("ra", "rac", "ra5", "rac9", "r3_7_25", "r1_15_50", "r2_10_0", "rap", "rapc", "rau")
OPS = (
    Op.IDENTITY, Op.AUTOCONTRAST, Op.EQUALIZE, Op.ROTATE, Op.SOLARIZE, Op.COLOR, Op.CONTRAST,
    Op.BRIGHTNESS, Op.SHARPNESS, Op.SHEAR_X, Op.TRANSLATE_X, Op.TRANSLATE_Y, Op.POSTERIZE,
    Op.SHEAR_Y,
)  # fmt: skip
ENHANCED = (Op.COLOR, Op.CONTRAST, Op.BRIGHTNESS, Op.SHARPNESS)


def policy(code: str) -> RandAugment:
    return RandAugment(parse_strong(code))


def numbers(code: str, count: int, seed: int = 0) -> np.ndarray:
    return uniforms(seed, "strong", 0, count, policy(code).width).numpy()


def pick(uniform: np.float32, count: int) -> int:
    return int(uniform * np.float32(count))


def plain_amount(paper, op, m, height, width):
    """What a level means, straight from the published tables."""
    scale = min(1, min(height, width) / 32)
    if op in ENHANCED:
        return 0.05 + 0.09 * m if paper else 0.1 + 0.18 * m
    return {
        Op.ROTATE: 3 * m,
        Op.SOLARIZE: max(256 - int(25.6 * m), 0),
        Op.POSTERIZE: min(4 + int(0.4 * m), 8) if paper else max(4 - int(0.4 * m), 1),
        Op.SHEAR_X: 0.03 * m,
        Op.SHEAR_Y: 0.03 * m,
        Op.TRANSLATE_X: int(0.03 * m * width + 1e-9) if paper else math.floor(m * scale + 0.5),
        Op.TRANSLATE_Y: int(0.03 * m * height + 1e-9) if paper else math.floor(m * scale + 0.5),
    }.get(op, 1)


def plain_uniform(op, u, height, width):
    u = float(u)
    if op in ENHANCED:
        return 0.05 + 0.9 * u
    return {
        Op.ROTATE: 60 * u - 30,
        Op.SOLARIZE: math.ceil(256 * u),
        Op.POSTERIZE: int(4 + 4 * u),
        Op.SHEAR_X: 0.6 * u - 0.3,
        Op.SHEAR_Y: 0.6 * u - 0.3,
        Op.TRANSLATE_X: (0.6 * u - 0.3) * width,
        Op.TRANSLATE_Y: (0.6 * u - 0.3) * height,
    }.get(op, 1)


def plain_chain(code, row, height, width):
    """The operations that a row of numbers stands for."""
    settings, chain = parse_strong(code), []
    for at in range(0, 4 * settings.operations, 4):
        op = OPS[pick(row[at], 14)]
        if settings.ranges == "uniform":
            chain.append((op, plain_uniform(op, row[at + 1], height, width), 0, (0, 0)))
            continue
        m = 1 + pick(row[at + 1], 9) if settings.level is None else settings.level
        if not settings.always and row[at + 2] >= 0.5:
            continue
        amount = plain_amount(settings.ranges == "paper", op, m, height, width)
        minus = op >= Op.ROTATE and row[at + 3] < 0.5
        chain.append((op, -amount if minus else amount, 0, (0, 0)))
    return chain


def plain_side(code, row, height, width):
    settings, smaller = parse_strong(code), min(height, width)
    if settings.ranges == "uniform":
        return int(row[-1] * np.float32(0.5 * smaller))
    if settings.cutout_percent is not None:
        return settings.cutout_percent * smaller // 100
    return math.floor(16 * min(1, smaller / 32) + 0.5)


@pytest.mark.parametrize("size", [(32, 32, 3), (8, 8, 1), (31, 40, 3)], ids=str)
@pytest.mark.parametrize("code", CODES)
def test_whole_views_are_those_of_pillow_and_a_plain_composition(code, size):
    height, width, _ = size
    count = 250
    images, drawn = varied(count, *size), numbers(code, count)
    view = policy(code)(tf.constant(images), tf.constant(drawn))
    result, hidden = views.to_float(view).numpy(), view.hidden.numpy()
    assert result.shape == images.shape
    for i, row in enumerate(drawn):
        pixels, gone = replayed(images[i], plain_chain(code, row, height, width))
        if parse_strong(code).cutout:
            centre = pick(row[-3], height), pick(row[-2], width)
            gone = gone | window(height, width, *centre, plain_side(code, row, height, width))
        np.testing.assert_array_equal(result[i], as_float(pixels, gone))
        np.testing.assert_array_equal(hidden[i], gone)


@pytest.mark.parametrize("code", ["rac", "rau"])
def test_the_same_bytes_alone_in_a_parallel_pipeline_and_one_at_a_time(code):
    strong, images = policy(code), tf.constant(varied(48, 16, 12, 3))

    def view(start, count=8):
        return views.filled(
            strong(images[start : start + count], uniforms(9, "s", start, count, strong.width))
        )

    alone = view(0, 48).numpy()
    piped = tf.data.Dataset.range(0, 48, 8).map(view, num_parallel_calls=4)
    singly = tf.data.Dataset.range(48).map(lambda start: view(start, 1), num_parallel_calls=2)
    for pipeline in (piped, singly):
        np.testing.assert_array_equal(np.concatenate(list(pipeline.as_numpy_iterator())), alone)


def test_every_operation_is_drawn_equally_often_and_applied_half_the_time():
    count = 40_000
    steps = policy("ra").steps(tf.constant(numbers("ra", count)), 32, 32)
    ops = np.concatenate([step.op.numpy() for step in steps])
    frequency = np.bincount(ops, minlength=len(Op)) / len(ops)
    each = 1 / 28
    for op in OPS[1:]:
        assert abs(frequency[op] - each) < 5 * math.sqrt(each / len(ops))
    assert abs(frequency[Op.IDENTITY] - (0.5 + each)) < 5 * math.sqrt(0.25 / len(ops))
    # The two operations are independent, and may be the same one twice.
    together = np.zeros((len(Op), len(Op)))
    np.add.at(together, tuple(step.op.numpy() for step in steps), 1 / count)
    outer = np.outer(frequency, frequency)
    assert np.abs(together - outer).max() < 5 * math.sqrt(0.3 / count)
    assert (np.diag(together)[[Op.EQUALIZE, Op.ROTATE]] > 0).all()


def test_levels_are_one_to_nine_and_signs_are_even():
    count = 60_000
    steps = policy("ra").steps(tf.constant(numbers("ra", count)), 32, 32)
    op = np.concatenate([step.op.numpy() for step in steps])
    amount = np.concatenate([step.amount.numpy() for step in steps])
    degrees = amount[op == Op.ROTATE]
    found, times = np.unique(degrees, return_counts=True)
    assert set(found) == {sign * 3.0 * m for m in range(1, 10) for sign in (-1, 1)}
    assert np.abs(times / len(degrees) - 1 / 18).max() < 5 * math.sqrt(1 / 18 / len(degrees))
    assert set(amount[op == Op.POSTERIZE]) == {4, 3, 2, 1}
    assert set(np.abs(amount[op == Op.TRANSLATE_X])) == set(range(1, 10))
    thresholds = amount[op == Op.SOLARIZE]
    assert (thresholds.min(), thresholds.max()) == (256 - 230, 256 - 25)
    factors = amount[op == Op.COLOR]
    np.testing.assert_allclose([factors.min(), factors.max()], [0.28, 1.72])


def test_posterizing_gets_stronger_with_the_level():
    bits = [levels.code_amount(Op.POSTERIZE, m, 32, 32) for m in range(11)]
    assert bits == sorted(bits, reverse=True)
    assert bits[0] > bits[9]


@pytest.mark.parametrize("code", ["rac", "rapc"])
def test_the_window_is_always_there_cut_off_at_the_borders_and_anywhere(code):
    count = 4096
    drawn = numbers(code, count)
    drawn[:, 0] = drawn[:, 4] = 0  # identity
    images = np.full((count, 32, 32, 1), 200, np.uint8)
    hidden = policy(code)(tf.constant(images), tf.constant(drawn)).hidden.numpy()
    area = hidden.sum((1, 2))
    assert area.min() == 64
    assert area.max() == 256
    for axis in (1, 2):
        lines = hidden.any(axis)
        assert set(lines.argmax(1)) == set(range(24))
        assert set(32 - lines[:, ::-1].argmax(1)) == set(range(8, 33))
    # The mean number of rows of a window whose centre is uniform over 32 rows is 14.
    assert abs(hidden.any(2).sum(1).mean() - 14) < 0.2
    assert abs(hidden.any(1).sum(1).mean() - 14) < 0.2


def test_on_large_images_the_window_stays_16_pixels_and_on_small_ones_it_shrinks():
    for side, expected in ((96, 16), (32, 16), (28, 14), (16, 8), (8, 4)):
        images = tf.zeros([64, side, side, 1], tf.uint8)
        drawn = numbers("rac", 64)
        drawn[:, 0] = drawn[:, 4] = 0
        drawn[:, -3:-1] = 0.5
        hidden = policy("rac")(images, tf.constant(drawn)).hidden.numpy()
        assert set(hidden.sum((1, 2))) == {expected**2}


def test_random_windows_of_rau_have_every_side_up_to_half():
    drawn = numbers("rau", 2000)
    drawn[:, [0, 4, 8]] = 0
    drawn[:, -3:-1] = 0.5
    hidden = policy("rau")(tf.zeros([2000, 32, 32, 1], tf.uint8), tf.constant(drawn)).hidden
    sides = hidden.numpy().any(1).sum(1)
    assert set(sides) == {0, 2, 4, 6, 8, 10, 12, 14}


@pytest.mark.parametrize("code", CODES)
def test_an_image_that_is_left_alone_keeps_every_byte(code):
    images = varied(32, 32, 32, 3)
    drawn = numbers(code, 32)
    drawn[:, : 4 * parse_strong(code).operations : 4] = 0
    view = policy(code)(tf.constant(images), tf.constant(drawn))
    seen = ~view.hidden.numpy()
    np.testing.assert_array_equal(view.pixels.numpy()[seen], images[seen])


def test_images_draw_independently():
    same = tf.constant(np.repeat(varied(4, 32, 32, 3)[3:4], 64, 0))
    view = views.filled(policy("rac")(same, tf.constant(numbers("rac", 64)))).numpy()
    assert len({image.tobytes() for image in view}) > 60
