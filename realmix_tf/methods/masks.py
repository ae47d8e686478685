"""Which rows of a batch count (pure functions; masks are float32 0 or 1 and carry no gradient)."""

from __future__ import annotations

from realmix_tf.lazy import tf


def tsa_mask(probabilities: tf.Tensor, labels: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """Training signal annealing for mixed labels: 1 while a row still teaches something.

    A row is dropped once every class its label names is predicted at least as strongly as its
    share of the threshold, p_c ≥ label_c·η. With a hard label this is UDA's rule (appendix A.1),
    but for rows exactly at the threshold, which UDA keeps.

    Args:
      probabilities: [N, C], softmax outputs.
      labels: [N, C], rows that sum to 1.
      threshold: scalar η in [1/C, 1].

    Returns:
      float32 [N].
    """
    behind = (labels > 0) & (probabilities < labels * threshold)
    return tf.stop_gradient(tf.cast(tf.reduce_any(behind, -1), tf.float32))


def lowest_fraction_mask(confidence: tf.Tensor, fraction: float) -> tf.Tensor:
    """0 for the ⌊fraction·N⌋ rows of lowest confidence, 1 for the others.

    Rows are ranked, ties by position, so exactly that many are dropped however many are equal.
    Under several replicas each ranks its own rows.

    Args:
      confidence: [N].
      fraction: q in [0, 1).

    Returns:
      float32 [N].
    """
    count = tf.shape(confidence)[0]
    # The small constant undoes products such as 0.3·10 = 2.9999998.
    dropped = tf.cast(tf.floor(fraction * tf.cast(count, tf.float32) + 1e-4), tf.int32)
    rank = tf.argsort(tf.argsort(confidence, stable=True), stable=True)
    return tf.stop_gradient(tf.cast(rank >= dropped, tf.float32))


def at_least(confidence: tf.Tensor, threshold: tf.Tensor | float) -> tf.Tensor:
    """1 where confidence ≥ threshold (one, or one a row): [N] → float32 [N] (FixMatch, eq. 4)."""
    return tf.stop_gradient(tf.cast(confidence >= threshold, tf.float32))


def above(confidence: tf.Tensor, threshold: tf.Tensor | float) -> tf.Tensor:
    """1 where confidence > threshold (one, or one a row): [N] → float32 [N] (UDA, section 2.4)."""
    return tf.stop_gradient(tf.cast(confidence > threshold, tf.float32))
