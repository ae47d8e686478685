"""MixUp and interleaving."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from realmix_tf.methods import mixing


def _rows(count: int = 30, classes: int = 5):
    random = np.random.default_rng(0)
    images = random.uniform(-1, 1, (count, 4, 3, 2)).astype(np.float32)
    labels = random.dirichlet(np.ones(classes), count).astype(np.float32)
    return images, labels


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.75, 2.0])
def test_every_row_has_a_ratio_of_its_own_in_the_upper_half(beta):
    ratio = mixing.mix_ratio(tf.constant([1, 2]), beta, 192).numpy()
    assert ratio.min() >= 0.5
    assert ratio.max() <= 1
    resolved = ratio[ratio < 0.999]  # float32 has few numbers just below 1
    assert len(np.unique(resolved)) == len(resolved) > 80


def test_a_tiny_beta_returns_the_input():
    images, labels = _rows()
    ratio = mixing.mix_ratio(tf.constant([1, 2]), 1e-3, 30)
    partner = mixing.shuffled(tf.constant([3, 4]), 30)
    mixed = mixing.mixup(tf.constant(images), tf.constant(labels), ratio, partner)
    np.testing.assert_allclose(mixed[0], images, atol=1e-3)
    np.testing.assert_allclose(mixed[1], labels, atol=1e-3)


def test_mixup_equals_a_plain_loop_and_label_rows_keep_their_sum():
    images, labels = _rows()
    ratio = mixing.mix_ratio(tf.constant([1, 2]), 0.75, 30)
    partner = mixing.shuffled(tf.constant([3, 4]), 30)
    mixed, mixed_labels = mixing.mixup(tf.constant(images), tf.constant(labels), ratio, partner)
    for i, (share, other) in enumerate(zip(ratio.numpy(), partner.numpy(), strict=True)):
        plain = share * images[i] + (1 - share) * images[other]
        np.testing.assert_allclose(mixed[i], plain, atol=1e-6)
        plain = share * labels[i] + (1 - share) * labels[other]
        np.testing.assert_allclose(mixed_labels[i], plain, atol=1e-6)
    np.testing.assert_allclose(tf.reduce_sum(mixed_labels, -1), 1, atol=1e-6)


def test_partners_are_a_permutation_that_depends_on_the_seed():
    one, again, other = (
        mixing.shuffled(tf.constant(s), 192).numpy() for s in ([1, 2], [1, 2], [1, 3])
    )
    np.testing.assert_array_equal(np.sort(one), np.arange(192))
    np.testing.assert_array_equal(one, again)
    assert (one == other).sum() < 10
    assert (one == np.arange(192)).sum() < 10


@pytest.mark.parametrize(
    ("size", "groups", "sizes"),
    [
        (64, 3, [21, 21, 22]),
        (64, 10, [6] * 6 + [7] * 4),
        (64, 2, [32, 32]),
        (5, 4, [1, 1, 1, 2]),
        (2, 3, [0, 1, 1]),
        (7, 1, [7]),
    ],
)
def test_what_is_left_over_goes_to_the_last_groups(size, groups, sizes):
    assert mixing.group_sizes(size, groups) == sizes


@pytest.mark.parametrize(("size", "blocks"), [(64, 3), (64, 2), (10, 4), (2, 3), (3, 17)])
def test_interleaving_twice_is_the_identity(size, blocks):
    rows = tf.split(tf.reshape(tf.range(size * blocks * 2), [-1, 2]), blocks)
    twice = mixing.interleave(mixing.interleave(rows))
    for one, other in zip(twice, rows, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_first_of_three_blocks_of_64_samples_all_and_the_others_keep_their_places():
    x, u1, u2 = (np.arange(64) + 100 * i for i in range(3))
    first, second, third = (
        b.numpy() for b in mixing.interleave([tf.constant(b) for b in (x, u1, u2)])
    )
    np.testing.assert_array_equal(first, np.concatenate([x[:21], u1[21:42], u2[42:]]))
    np.testing.assert_array_equal(second, np.concatenate([u1[:21], x[21:42], u1[42:]]))
    np.testing.assert_array_equal(third, np.concatenate([u2[:42], x[42:]]))
