"""What a model says of the classes on average, and guesses aligned to what it should say.

Averages are tensors [C] or histories [M, C] that a method keeps as state; these functions compute
the next value. ``newest`` is always a mean over the global batch, so replicas agree.
"""

from __future__ import annotations

from realmix_tf.errors import UsageError
from realmix_tf.lazy import tf

HISTORY = 128  # updates ReMixMatch and AdaMatch average over
SHORT_HISTORY = 32  # updates SimMatch and CoMatch average over


def uniform(num_classes: int) -> tf.Tensor:
    """1/C for every class: float32 [C]."""
    return tf.fill([num_classes], 1.0 / num_classes)


def uniform_history(length: int, num_classes: int) -> tf.Tensor:
    """Rows 1/C: float32 [length, C]."""
    return tf.fill([length, num_classes], 1.0 / num_classes)


def push(history: tf.Tensor, newest: tf.Tensor) -> tf.Tensor:
    """Drops the oldest row and appends the newest: [M, C], [C] → [M, C]."""
    return tf.concat([history[1:], newest[None]], 0)


def moved(average: tf.Tensor, newest: tf.Tensor, decay: float) -> tf.Tensor:
    """decay·average + (1 − decay)·newest."""
    return average * decay + newest * (1.0 - decay)


def recorded_mean(history: tf.Tensor) -> tf.Tensor:
    """The mean of the rows that are not all zero, normalised: [M, C] → [C]."""
    total = tf.reduce_sum(history, 0)
    return total / tf.maximum(tf.reduce_sum(total), 1e-12)


def align(probabilities: tf.Tensor, wanted: tf.Tensor, observed: tf.Tensor) -> tf.Tensor:
    """Distribution alignment (ReMixMatch, section 3.1): Norm(p·(1e−6 + wanted)/(1e−6 + observed)).

    Args:
      probabilities: [N, C].
      wanted, observed: [C], the class distributions to reach and the one the model shows.
    """
    scaled = probabilities * (1e-6 + wanted) / (1e-6 + observed)
    return scaled / tf.reduce_sum(scaled, -1, keepdims=True)


def align_to_uniform(
    probabilities: tf.Tensor, history: tf.Tensor, newest: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Aligns guesses to equal classes by a history that the newest batch is part of already.

    Args:
      probabilities: [N, C].
      history: [M, C], zero where nothing was recorded yet.
      newest: [C], the mean of all replicas' probabilities.

    Returns:
      The aligned guesses [N, C]; the history with the newest mean [M, C].
    """
    history = push(history, newest)
    wanted = uniform(probabilities.shape[-1])
    return align(probabilities, wanted, recorded_mean(history)), history


def parse_distribution(text: str, num_classes: int) -> tf.Tensor:
    """``0.5,0.25,0.25`` → float32 [C] that sums to 1.

    Raises:
      UsageError: not ``num_classes`` numbers ≥ 0 of which one is above 0.
    """
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = []
    # `not all(...)` rather than `any(v < 0)`: NaN must fail too.
    if (
        len(values) != num_classes
        or not all(0 <= v < float("inf") for v in values)
        or not sum(values)
    ):
        raise UsageError(
            f"{text!r} is not a distribution over {num_classes} classes",
            "--p_unlabeled",
            f"{num_classes} numbers separated by commas",
        )
    return tf.constant([value / sum(values) for value in values], tf.float32)
