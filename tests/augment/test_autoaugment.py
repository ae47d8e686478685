"""AutoAugment: the published pairs, drawn as published, every view replayed with Pillow."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from pillow_reference import as_float, replayed, varied, window
from test_randaugment import pick, plain_amount

from realmix_tf.augment import views
from realmix_tf.augment.autoaugment import CIFAR10, SVHN, AutoAugment, searched_policy
from realmix_tf.augment.chain import Op
from realmix_tf.randomness import uniforms

# How often an operation occurs in the paper's tables, both places together.
OCCURRENCES = {
    "cifar10": {
        Op.INVERT: 3, Op.CONTRAST: 2, Op.ROTATE: 1, Op.TRANSLATE_X: 2, Op.SHARPNESS: 5,
        Op.SHEAR_Y: 2, Op.TRANSLATE_Y: 5, Op.AUTOCONTRAST: 7, Op.EQUALIZE: 9, Op.POSTERIZE: 1,
        Op.COLOR: 5, Op.BRIGHTNESS: 4, Op.SOLARIZE: 4,
    },
    "svhn": {
        Op.SHEAR_X: 6, Op.SHEAR_Y: 8, Op.INVERT: 12, Op.EQUALIZE: 6, Op.SOLARIZE: 5,
        Op.ROTATE: 4, Op.AUTOCONTRAST: 3, Op.TRANSLATE_Y: 4, Op.CONTRAST: 1, Op.TRANSLATE_X: 1,
    },
}  # fmt: skip


def numbers(policy: AutoAugment, count: int) -> np.ndarray:
    return uniforms(0, "strong", 0, count, policy.width).numpy()


@pytest.mark.parametrize(("dataset", "pairs"), [("cifar10", CIFAR10), ("svhn", SVHN)])
def test_there_are_25_pairs_with_the_published_operations(dataset, pairs):
    assert len(pairs) == 25
    parts = [part for pair in pairs for part in pair]
    assert Counter(op for op, _, _ in parts) == OCCURRENCES[dataset]
    assert all(0 <= level <= 9 for _, _, level in parts)
    assert all(math.isclose(p * 10 % 1, 0, abs_tol=1e-9) for _, p, _ in parts)


def test_pairs_that_are_known_from_the_paper():
    assert CIFAR10[2] == ((Op.SHARPNESS, 0.8, 1), (Op.SHARPNESS, 0.9, 3))
    assert CIFAR10[21] == ((Op.TRANSLATE_Y, 0.9, 9), (Op.TRANSLATE_Y, 0.7, 9))
    assert SVHN[14] == ((Op.CONTRAST, 0.3, 3), (Op.ROTATE, 0.8, 4))
    assert SVHN[22] == ((Op.SHEAR_X, 0.7, 9), (Op.TRANSLATE_Y, 0.8, 3))


def test_svhn_has_its_own_policy_and_all_others_that_of_cifar10():
    assert searched_policy("svhn") is SVHN
    assert searched_policy("svhn_noextra") is SVHN
    for dataset in ("cifar10", "cifar100", "stl10", "pets"):
        assert searched_policy(dataset) is CIFAR10


@pytest.mark.parametrize("size", [(32, 32, 3), (8, 8, 1)], ids=str)
@pytest.mark.parametrize("cutout", [False, True], ids=["aa", "aac"])
@pytest.mark.parametrize("pairs", [CIFAR10, SVHN], ids=["cifar10", "svhn"])
def test_whole_views_are_those_of_pillow_and_a_plain_composition(pairs, cutout, size):
    height, width, _ = size
    policy, count = AutoAugment(pairs, cutout), 400
    images, drawn = varied(count, *size), numbers(policy, count)
    view = policy(tf.constant(images), tf.constant(drawn))
    result = views.to_float(view).numpy()
    for i, row in enumerate(drawn):
        chain = []
        for number, (op, probability, level) in enumerate(pairs[pick(row[0], 25)]):
            if row[1 + 2 * number] < np.float32(probability):
                amount = plain_amount(False, op, level, height, width)
                minus = op >= Op.ROTATE and row[2 + 2 * number] < 0.5
                chain.append((op, -amount if minus else amount, 0, (0, 0)))
        pixels, hidden = replayed(images[i], chain)
        if cutout:
            side = 16 if height == 32 else 4
            hidden = hidden | window(height, width, pick(row[5], height), pick(row[6], width), side)
        np.testing.assert_array_equal(result[i], as_float(pixels, hidden))


def test_every_pair_is_drawn_equally_often():
    policy, count = AutoAugment(CIFAR10), 50_000
    drawn = numbers(policy, count)
    steps = policy.steps(tf.constant(drawn), 32, 32)
    first, second = (step.op.numpy() for step in steps)
    # Pair 3 alone shears first and translates along y second, with probabilities 0.5 and 0.7.
    both = ((first == Op.SHEAR_Y) & (second == Op.TRANSLATE_Y)).mean()
    assert abs(both - 0.35 / 25) < 5 * math.sqrt(0.35 / 25 / count)
    # Invert as the second of pair 14 has probability 0, of pair 23 it has 0.1.
    inverted = (second == Op.INVERT).mean()
    assert abs(inverted - 0.1 / 25) < 5 * math.sqrt(0.1 / 25 / count)
    pairs = np.bincount((drawn[:, 0] * np.float32(25)).astype(int), minlength=25)
    assert ((pairs - count / 25) ** 2 / (count / 25)).sum() < 60  # χ², 24


def test_the_same_bytes_alone_in_a_parallel_pipeline_and_one_at_a_time():
    policy, images = AutoAugment(SVHN, True), tf.constant(varied(48, 16, 12, 3))

    def view(start, count=8):
        drawn = uniforms(9, "s", start, count, policy.width)
        return views.filled(policy(images[start : start + count], drawn))

    alone = view(0, 48).numpy()
    piped = tf.data.Dataset.range(0, 48, 8).map(view, num_parallel_calls=4)
    singly = tf.data.Dataset.range(48).map(lambda start: view(start, 1), num_parallel_calls=2)
    for pipeline in (piped, singly):
        np.testing.assert_array_equal(np.concatenate(list(pipeline.as_numpy_iterator())), alone)
