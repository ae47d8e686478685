"""The order of images is a keyed permutation an epoch."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from realmix_tf.data.sampling import permuted


def order(start: int, stop: int, size: int, seed: int = 0, purpose: str = "x") -> np.ndarray:
    return permuted(tf.range(start, stop, dtype=tf.int64), size, seed, purpose).numpy()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1797, 2048, 2049, 5000])
def test_each_epoch_holds_every_image_once(size):
    for epoch in (0, 1, 5, 10**9):
        found = order(epoch * size, (epoch + 1) * size, size)
        np.testing.assert_array_equal(np.sort(found), np.arange(size))


@pytest.mark.parametrize("size", [500, 5000])
def test_epochs_seeds_and_purposes_have_orders_of_their_own(size):
    base = order(0, size, size)
    others = [
        order(size, 2 * size, size),
        order(0, size, size, seed=1),
        order(0, size, size, purpose="y"),
        np.arange(size),
    ]
    for other in others:
        # Unrelated permutations agree in one place on average.
        assert (base == other).sum() < 8
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.2


@pytest.mark.parametrize("size", [2, 10, 97, 2100])
def test_any_batching_gives_the_same_stream_also_across_an_epochs_edge(size):
    whole = order(0, 300, size)
    for batch in (1, 7, 64):
        parts = [order(at, min(at + batch, 300), size) for at in range(0, 300, batch)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_parallel_pipeline_gives_the_same_stream():
    starts = tf.data.Dataset.range(0, 512, 8).map(
        lambda at: permuted(at + tf.range(8, dtype=tf.int64), 30, 0, "x"), num_parallel_calls=4
    )
    np.testing.assert_array_equal(
        np.concatenate(list(starts.as_numpy_iterator())), order(0, 512, 30)
    )


@pytest.mark.parametrize("size", [2, 3, 4, 10, 100])
def test_no_image_prefers_a_place(size):
    epochs = 2000
    places = order(0, epochs * size, size).reshape(epochs, size)
    expected = epochs / size
    counts = np.stack([np.bincount(column, minlength=size) for column in places.T])
    chi_square = ((counts - expected) ** 2 / expected).sum(1)
    assert chi_square.max() < size + 6 * np.sqrt(2 * size) + 5
    assert abs(chi_square.mean() - (size - 1)) < 4 * np.sqrt(2 * (size - 1) / size) + 1


@pytest.mark.parametrize("size", [20, 1000, 3000])
def test_orders_do_not_come_back_after_some_epochs(size):
    epochs = 600
    orders = order(0, epochs * size, size).reshape(epochs, size)
    assert len(np.unique(orders, axis=0)) == epochs


def test_neighbours_in_a_large_set_are_unrelated():
    size, epochs = 45_000, 4
    found = order(0, epochs * size, size).reshape(epochs, size)
    steps = np.bincount(((found[:, 1:] - found[:, :-1]) % size).ravel(), minlength=size)[1:]
    assert steps.max() < 8 * steps.mean()  # Poisson with mean 4: 22 at the most
    coarse = steps[:44_900].reshape(100, -1).sum(1)
    assert ((coarse - coarse.mean()) ** 2 / coarse.mean()).sum() < 100 + 6 * np.sqrt(200)
