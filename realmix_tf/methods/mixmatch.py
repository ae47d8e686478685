"""MixMatch (Berthelot et al. 2019, arXiv:1905.02249).

Guess a label for each unlabelled image from the mean prediction on K augmented views, sharpen it,
mix everything with everything (MixUp), and ask for cross entropy on the labelled part and a small
squared distance on the unlabelled part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from realmix_tf.errors import UsageError
from realmix_tf.lazy import tf
from realmix_tf.methods import annealing, mixing, targets
from realmix_tf.methods.base import (
    Batch,
    Context,
    Method,
    NetworkFunction,
    StepResult,
    Term,
    Views,
    option,
    register,
)

_HISTORY = 128  # updates over which the model's class distribution is averaged


@dataclass(frozen=True)
class MixMatchConfig:
    """Options MixMatch and RealMix share, with MixMatch's published defaults."""

    nu: int = option(2, "K, augmented views of each unlabelled image.", 1, 16)
    beta: float = option(0.5, "MixUp: λ ~ Beta(beta, beta), one a row.", 1e-3, 1e3)
    w_match: float = option(100.0, "Weight of the unlabelled term once ramped up.", 0)
    temperature: float = option(
        0.5, "Sharpening temperature T; 1 leaves guesses as they are.", 1e-3, 1
    )
    warmup_kimg: float = option(
        1024.0, "Thousands (1024) of labelled images to ramp w_match up.", 0
    )
    p_unlabeled: str = option(
        "",
        "Class shares expected among the unlabelled images, separated by commas; "
        "guesses are aligned to them.",
    )


class MixedPredictions(NamedTuple):
    """Predictions on the mixed batch: labelled rows [B, C], unlabelled rows [K·B, C]."""

    labeled_logits: tf.Tensor
    labeled_targets: tf.Tensor
    unlabeled_logits: tf.Tensor
    unlabeled_targets: tf.Tensor
    state: dict[str, tf.Tensor]


@register("mixmatch")
class MixMatch(Method):
    """L = mean CE(x) + w_match·ramp·mean over rows and classes of (target − p)²."""

    @dataclass(frozen=True)
    class Config(MixMatchConfig):
        pass

    config: MixMatchConfig

    def views(self) -> Views:
        return Views(unlabeled=tuple(f"weak{index}" for index in range(self.config.nu)))

    def initial_state(self) -> dict[str, tf.Tensor]:
        if not self.config.p_unlabeled:
            return {}
        parse_distribution(self.config.p_unlabeled, self.num_classes)
        return {"class_history": tf.fill([_HISTORY, self.num_classes], 1.0 / self.num_classes)}

    def losses(self, batch: Batch, network: NetworkFunction, context: Context) -> StepResult:
        mixed = self.predict_mixed(batch, network, context)
        entropy, distance, confidence = row_losses(mixed)
        terms = {
            "xe": Term(context.mean(entropy)),
            "l2u": Term(context.mean(distance), self.match_weight(context)),
        }
        return StepResult(terms, confidence_metrics(confidence, context), mixed.state)

    def match_weight(self, context: Context) -> tf.Tensor:
        """w_match, ramped linearly over the first warmup_kimg."""
        ramp = annealing.linear_ramp(context.images, self.config.warmup_kimg)
        return self.config.w_match * ramp

    def guess(
        self, views: list[tf.Tensor], network: NetworkFunction, context: Context
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Guessed labels float32 [B, C], without gradient, and the state they bring (eq. 6, 7)."""
        predictions = [
            tf.nn.softmax(network(view, training=True, update_stats=False).logits) for view in views
        ]
        mean = tf.add_n(predictions) / len(predictions)
        state = {}
        if self.config.p_unlabeled:
            history = tf.convert_to_tensor(context.state["class_history"])
            wanted = parse_distribution(self.config.p_unlabeled, self.num_classes)
            rows = context.total(tf.cast(tf.shape(mean)[0], tf.float32))
            newest = context.total(tf.reduce_sum(mean, 0)) / rows
            state["class_history"] = tf.concat([history[1:], newest[None]], 0)
            mean = targets.align_distribution(mean, wanted, tf.reduce_mean(history, 0))
        return tf.stop_gradient(targets.sharpen(mean, self.config.temperature)), state

    def predict_mixed(
        self, batch: Batch, network: NetworkFunction, context: Context
    ) -> MixedPredictions:
        """Guesses, mixes and predicts (MixMatch, algorithm 1).

        The K + 1 blocks pass the network one by one, each normalised by its own statistics; the
        moving averages follow the first interleaved block only.
        """
        views = [batch.unlabeled[name] for name in self.views().unlabeled]
        guessed, state = self.guess(views, network, context)
        images = tf.concat([batch.labeled["weak"], *views], 0)
        hard = targets.one_hot(batch.labels, self.num_classes)
        labels = tf.concat([hard] + [guessed] * len(views), 0)
        rows = tf.shape(images)[0]
        mixed, labels = mixing.mixup(
            images,
            labels,
            mixing.mix_ratio(context.seed("mixup/ratio"), self.config.beta, rows),
            mixing.shuffled(context.seed("mixup/partner"), rows),
        )
        blocks = mixing.interleave(tf.split(mixed, len(views) + 1))
        logits = [
            network(block, training=True, update_stats=index == 0).logits
            for index, block in enumerate(blocks)
        ]
        logits = mixing.interleave(logits)
        count = tf.shape(hard)[0]
        return MixedPredictions(
            logits[0], labels[:count], tf.concat(logits[1:], 0), labels[count:], state
        )


def row_losses(mixed: MixedPredictions) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The two losses row by row (MixMatch, equations 3 and 4), and how sure each prediction is.

    Returns:
      Cross entropy of the labelled rows, float32 [B]; squared distance of the unlabelled rows,
      averaged over classes, float32 [K·B]; their largest probability, without gradient, [K·B].
    """
    entropy = tf.nn.softmax_cross_entropy_with_logits(mixed.labeled_targets, mixed.labeled_logits)
    probabilities = tf.nn.softmax(mixed.unlabeled_logits)
    distance = tf.reduce_mean((mixed.unlabeled_targets - probabilities) ** 2, -1)
    return entropy, distance, tf.reduce_max(tf.stop_gradient(probabilities), -1)


def confidence_metrics(confidence: tf.Tensor, context: Context) -> dict[str, tf.Tensor]:
    """Least, mean and greatest confidence of the unlabelled rows: [N] → scalars."""
    return {
        "confidence/min": tf.reduce_min(confidence),
        "confidence/mean": context.mean(confidence),
        "confidence/max": tf.reduce_max(confidence),
    }


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
