"""Sharpening, alignment and one-hot labels against the papers' numbers."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from realmix_tf.methods import alignment, targets

P = np.array([[0.5, 0.3, 0.2]], np.float32)


def random_rows(rows: int = 50, classes: int = 7) -> np.ndarray:
    return np.random.default_rng(0).dirichlet(np.ones(classes), rows).astype(np.float32)


def entropy(p: np.ndarray) -> np.ndarray:
    return -np.sum(np.where(p > 0, p * np.log(np.maximum(p, 1e-30)), 0), -1)


def test_sharpening_by_one_half():
    sharp = targets.sharpen(tf.constant(P), 0.5)
    np.testing.assert_allclose(sharp, [[0.65789, 0.23684, 0.10526]], atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.8, 0.5, 0.1, 0.001])
def test_sharpening_keeps_the_order_and_never_adds_entropy(temperature):
    rows = random_rows()
    sharp = targets.sharpen(tf.constant(rows), temperature).numpy()
    np.testing.assert_allclose(sharp.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(sharp.argmax(-1), rows.argmax(-1))
    assert (entropy(sharp) <= entropy(rows) + 1e-5).all()
    exact = rows.astype(np.float64) ** (1 / temperature) if temperature > 0.01 else None
    if exact is not None:
        np.testing.assert_allclose(sharp, exact / exact.sum(-1, keepdims=True), atol=1e-5)


def test_temperature_one_changes_nothing_and_a_tiny_one_gives_one_hot():
    rows = random_rows()
    np.testing.assert_allclose(targets.sharpen(tf.constant(rows), 1.0), rows, rtol=1e-5)
    cold = targets.sharpen(tf.constant(P), 0.001).numpy()
    np.testing.assert_array_equal(cold, [[1, 0, 0]])


def test_sharpening_certain_predictions_has_finite_values_and_gradients():
    rows = tf.constant([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1.0, 1e-38, 1e-45]])
    for temperature in (1.0, 0.5, 0.3):
        with tf.GradientTape() as tape:
            tape.watch(rows)
            sharp = targets.sharpen(rows, temperature)
            value = tf.reduce_sum(sharp**2)
        assert np.isfinite(sharp).all()
        assert np.isfinite(tape.gradient(value, rows)).all()


def test_alignment_and_then_sharpening():
    third = tf.fill([3], 1 / 3)
    aligned = alignment.align(tf.constant(P), third, tf.constant([0.6, 0.3, 0.1]))
    np.testing.assert_allclose(aligned, [[0.21739, 0.26087, 0.52174]], atol=1e-5)
    sharp = targets.sharpen(aligned, 0.5)
    np.testing.assert_allclose(sharp, [[0.12195, 0.17561, 0.70244]], atol=1e-5)


def test_alignment_to_what_is_observed_changes_nothing_and_rows_always_sum_to_one():
    rows = random_rows()
    random = np.random.default_rng(1)
    a, b = (tf.constant(random.dirichlet(np.ones(7)), tf.float32) for _ in range(2))
    same = alignment.align(tf.constant(rows), a, a)
    np.testing.assert_allclose(same, rows, rtol=1e-5)
    other = alignment.align(tf.constant(rows), a, b)
    np.testing.assert_allclose(tf.reduce_sum(other, -1), 1, rtol=1e-5)
    absent = alignment.align(tf.constant(rows), a, tf.one_hot(0, 7))
    assert np.isfinite(absent).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.001, 0.5, 1.0])
def test_smoothing_takes_from_the_class_and_gives_to_all(smoothing):
    labels = targets.one_hot(tf.constant([2, 0], tf.int64), 4, smoothing).numpy()
    plain = np.array([[0, 0, 1, 0], [1, 0, 0, 0]], np.float64)
    plain = plain * (1 - smoothing) + smoothing / 4
    np.testing.assert_allclose(labels, plain, atol=1e-7)
    assert labels.dtype == np.float32
