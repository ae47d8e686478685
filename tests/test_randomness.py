"""Random numbers are pure functions of (seed, purpose, position)."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from realmix_tf import randomness

WIDTHS = (1, 3, 4, 7)


@pytest.mark.parametrize("width", WIDTHS)
def test_any_batching_of_the_positions_gives_the_same_numbers(width):
    whole = randomness.uniforms(5, "view", 0, 60, width).numpy()
    for size in (1, 7, 30):
        parts = [
            randomness.uniforms(5, "view", at, min(size, 60 - at), width)
            for at in range(0, 60, size)
        ]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("width", WIDTHS)
def test_parallel_pipelines_give_the_same_numbers(width):
    whole = randomness.uniforms(5, "view", 1000, 64, width).numpy()
    starts = tf.data.Dataset.range(1000, 1064, 4)
    drawn = starts.map(
        lambda at: randomness.uniforms(5, "view", at, 4, width), num_parallel_calls=4
    )
    np.testing.assert_array_equal(np.concatenate(list(drawn.as_numpy_iterator())), whole)


def test_positions_far_out_have_numbers_of_their_own():
    far = [
        randomness.uniforms(0, "view", start, 2, 7).numpy() for start in (0, 2**32, 2**40, 2**60)
    ]
    assert len(np.unique(np.concatenate(far).ravel())) > 50


def test_seeds_and_purposes_are_unrelated():
    count = 20_000
    base = randomness.uniforms(1, "a", 0, count, 1).numpy()[:, 0]
    for other in (
        randomness.uniforms(2, "a", 0, count, 1),
        randomness.uniforms(1, "b", 0, count, 1),
        randomness.uniforms(1, "a", 1, count, 1),
        randomness.uniforms(11, "", 0, count, 1),
    ):
        assert abs(np.corrcoef(base, other.numpy()[:, 0])[0, 1]) < 4 / np.sqrt(count)
    assert randomness.key(1, "2/a") != randomness.key(12, "/a")


def test_uniforms_are_uniform_and_independent():
    numbers = randomness.uniforms(3, "view", 0, 100_000, 3).numpy()
    assert numbers.dtype == np.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 4 * np.sqrt(1 / 12 / numbers.size)
    assert abs(numbers.var() - 1 / 12) < 1e-3
    for column in numbers.T:
        assert scipy.stats.kstest(column, "uniform").pvalue > 1e-4
    correlation = np.corrcoef(numbers.T) - np.eye(3)
    assert np.abs(correlation).max() < 4 / np.sqrt(len(numbers))
    assert abs(np.corrcoef(numbers[1:, 0], numbers[:-1, 0])[0, 1]) < 4 / np.sqrt(len(numbers))


def test_all_24_bits_vary():
    whole = (randomness.uniforms(3, "view", 0, 10_000, 1).numpy() * 2.0**24).astype(np.int64)
    for bit in range(24):
        assert abs(np.mean(whole >> bit & 1) - 0.5) < 0.03


@pytest.mark.parametrize("concentration", [0.1, 0.5, 0.75, 2.0])
def test_beta_follows_scipys_distribution(concentration):
    drawn = randomness.beta_symmetric(tf.constant([4, 9]), concentration, 5000).numpy()
    assert drawn.dtype == np.float32
    exact = scipy.stats.beta(concentration, concentration)
    # Near 1 a float32 has few values, so the distributions are compared where both resolve.
    grid = np.linspace(0.001, 0.999, 200)
    empirical = np.searchsorted(np.sort(drawn), grid, side="right") / len(drawn)
    assert np.abs(empirical - exact.cdf(grid)).max() < 1.95 / np.sqrt(len(drawn))  # KS at 0.001


@pytest.mark.parametrize("concentration", [0.001, 0.01, 1000.0])
def test_beta_is_finite_at_its_extremes(concentration):
    drawn = randomness.beta_symmetric(tf.constant([4, 9]), concentration, 2000).numpy()
    assert np.isfinite(drawn).all()
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert abs(drawn.mean() - 0.5) < 0.05


def test_beta_depends_on_its_seed_only():
    draw = [
        randomness.beta_symmetric(tf.constant(s), 0.75, 9).numpy() for s in ([1, 2], [1, 2], [2, 1])
    ]
    np.testing.assert_array_equal(draw[0], draw[1])
    assert (draw[0] != draw[2]).all()
