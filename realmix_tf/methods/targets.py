"""Targets made from predictions (pure functions; all float32)."""

from __future__ import annotations

from realmix_tf.lazy import tf


def one_hot(labels: tf.Tensor, num_classes: int, smoothing: float = 0.0) -> tf.Tensor:
    """int64 [N] → float32 [N, C]; with smoothing s every value l becomes l − s·(l − 1/C)."""
    hard = tf.one_hot(labels, num_classes, dtype=tf.float32)
    return hard - smoothing * (hard - 1.0 / num_classes)


def sharpen(probabilities: tf.Tensor, temperature: float) -> tf.Tensor:
    """p^(1/T) normalised (MixMatch, equation 7): [N, C] → [N, C]; T = 1 changes nothing.

    Powers of ratios to the row's maximum stay finite for small T and for p = 0.
    """
    relative = probabilities / tf.reduce_max(probabilities, -1, keepdims=True)
    power = tf.pow(relative, 1.0 / temperature)
    return power / tf.reduce_sum(power, -1, keepdims=True)
