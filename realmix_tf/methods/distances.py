"""How far a prediction is from what it should be, one number a row (pure functions, float32)."""

from __future__ import annotations

from realmix_tf.lazy import tf


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """−Σ_c label_c·log p_c: float32 [N, C] distributions (or int64 [N] classes), [N, C] → [N]."""
    if labels.shape.rank == 1:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.nn.softmax_cross_entropy_with_logits(labels, logits)


def squared(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """The mean over classes of (a − b)², so a factor 1/C on the sum: twice [N, C] → [N]."""
    return tf.reduce_mean((one - other) ** 2, -1)


def entropy(logits: tf.Tensor) -> tf.Tensor:
    """H(p) of p = softmax(logits), in nats: [N, C] → [N]."""
    return tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(logits), logits)


def divergence(p_logits: tf.Tensor, q_logits: tf.Tensor) -> tf.Tensor:
    """KL(p ‖ q) of two softmax distributions, in nats: twice [N, C] → [N]."""
    difference = tf.nn.log_softmax(p_logits) - tf.nn.log_softmax(q_logits)
    return tf.reduce_sum(tf.nn.softmax(p_logits) * difference, -1)
