"""Numbers that methods report beside their losses (pure functions)."""

from __future__ import annotations

from realmix_tf.lazy import tf
from realmix_tf.methods.base import Context


def confidence(values: tf.Tensor, context: Context) -> dict[str, tf.Tensor]:
    """Least, mean and greatest confidence of the unlabelled rows: [N] → scalars."""
    return {
        "confidence/min": tf.reduce_min(values),
        "confidence/mean": context.mean(values),
        "confidence/max": tf.reduce_max(values),
    }


def pseudo_labels(
    probabilities: tf.Tensor, weight: tf.Tensor, context: Context
) -> dict[str, tf.Tensor]:
    """How sure guesses are, how many count, and over how many classes those spread.

    ``pseudo_labels/classes`` is exp(H) of the kept guesses' class shares: C when they are spread
    evenly, 1 when all name one class, which is how training collapses, 0 when none is kept.

    Args:
      probabilities: float32 [N, C], the guesses.
      weight: float32 [N], how much each counts.
    """
    num_classes = probabilities.shape[-1]
    hard = tf.one_hot(tf.argmax(probabilities, -1), num_classes)
    counts = context.total(tf.reduce_sum(hard * weight[:, None], 0))
    shares = counts / tf.maximum(tf.reduce_sum(counts), 1e-12)
    spread = tf.exp(-tf.reduce_sum(tf.math.xlogy(shares, shares))) * tf.reduce_sum(shares)
    return confidence(tf.reduce_max(probabilities, -1), context) | {
        "kept/unlabeled": context.mean(weight),
        "pseudo_labels/classes": context.mean(tf.fill([1], spread)),
    }
