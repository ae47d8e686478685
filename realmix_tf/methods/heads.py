"""Layers that methods put on the network's features: their initial weights and their use.

Pure functions over named weights: what ``Method.heads`` returned is what ``context.weights`` holds.
"""

from __future__ import annotations

from collections.abc import Mapping

from realmix_tf.lazy import tf


def dense_weights(name: str, inputs: int, outputs: int, seed: int) -> dict[str, tf.Tensor]:
    """``name/kernel`` [inputs, outputs], glorot normal, and ``name/bias`` [outputs], zero."""
    from realmix_tf.nets.layers import initial_normal

    deviation = (2.0 / (inputs + outputs)) ** 0.5
    kernel = initial_normal(seed, f"heads/{name}", (inputs, outputs), deviation)
    return {f"{name}/kernel": kernel, f"{name}/bias": tf.zeros([outputs])}


def dense(weights: Mapping[str, tf.Tensor], name: str, x: tf.Tensor) -> tf.Tensor:
    """float32 [N, inputs] → [N, outputs]."""
    return tf.matmul(x, weights[f"{name}/kernel"]) + weights[f"{name}/bias"]


def projection_weights(inputs: int, outputs: int, seed: int) -> dict[str, tf.Tensor]:
    """Weights of ``projection``: inputs → inputs → outputs."""
    first = dense_weights("projection/hidden", inputs, inputs, seed)
    return first | dense_weights("projection/output", inputs, outputs, seed)


def projection(weights: Mapping[str, tf.Tensor], features: tf.Tensor) -> tf.Tensor:
    """Dense, ReLU, dense, scaled to length 1: float32 [N, D] → [N, outputs]."""
    hidden = tf.nn.relu(dense(weights, "projection/hidden", features))
    return tf.nn.l2_normalize(dense(weights, "projection/output", hidden), -1)
