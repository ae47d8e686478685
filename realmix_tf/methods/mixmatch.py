"""MixMatch (Berthelot et al. 2019, arXiv:1905.02249).

Guess a label for each unlabelled image from the mean prediction on K augmented views, sharpen it,
mix everything with everything (MixUp), and ask for cross entropy on the labelled part and a small
squared distance on the unlabelled part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from realmix_tf.lazy import tf
from realmix_tf.methods import alignment, annealing, distances, metrics, mixing, targets
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
    mixmode: str = option(
        "xxy.yxy",
        "What labelled (before the dot) and unlabelled rows are mixed with: x labelled, y "
        "unlabelled.",
        choices=mixing.MIXMODES,
    )
    ema_guess: bool = option(False, "Guess with the averaged weights instead of the raw ones.")


class MixedPredictions(NamedTuple):
    """Predictions on the mixed batch: labelled rows [B, C], unlabelled rows [K·B, C]."""

    labeled_logits: tf.Tensor
    labeled_targets: tf.Tensor
    unlabeled_logits: tf.Tensor
    unlabeled_targets: tf.Tensor
    state: dict[str, tf.Tensor]


@register("mixmatch")
class MixMatch(Method):
    """L = mean CE(x) + w_match·ramp·mean over rows and classes of (target − p)² (eq. 3 to 5)."""

    @dataclass(frozen=True)
    class Config(MixMatchConfig):
        pass

    config: MixMatchConfig

    @property
    def reads_teacher(self) -> bool:  # type: ignore[override]
        return self.config.ema_guess

    def views(self) -> Views:
        return Views(unlabeled=tuple(f"weak{index}" for index in range(self.config.nu)))

    def initial_state(self) -> dict[str, tf.Tensor]:
        if not self.config.p_unlabeled:
            return {}
        alignment.parse_distribution(self.config.p_unlabeled, self.num_classes)
        return {"class_history": alignment.uniform_history(alignment.HISTORY, self.num_classes)}

    def losses(self, batch: Batch, network: NetworkFunction, context: Context) -> StepResult:
        mixed = self.predict_mixed(batch, network, context)
        entropy, distance, confidence = row_losses(mixed)
        terms = {
            "xe": Term(context.mean(entropy)),
            "l2u": Term(context.mean(distance), self.match_weight(context)),
        }
        return StepResult(terms, metrics.confidence(confidence, context), mixed.state)

    def match_weight(self, context: Context) -> tf.Tensor:
        """w_match, ramped linearly over the first warmup_kimg."""
        ramp = annealing.linear_ramp(context.images, self.config.warmup_kimg)
        return self.config.w_match * ramp

    def guess(
        self, views: list[tf.Tensor], network: NetworkFunction, context: Context
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Guessed labels float32 [B, C], without gradient, and the state they bring (eq. 6, 7)."""

        def predict(view: tf.Tensor) -> tf.Tensor:
            if self.config.ema_guess:
                return tf.nn.softmax(context.teacher(view).logits)
            return tf.nn.softmax(network(view, training=True, update_stats=False).logits)

        mean = tf.add_n([predict(view) for view in views]) / len(views)
        state = {}
        if self.config.p_unlabeled:
            history = tf.convert_to_tensor(context.state["class_history"])
            wanted = alignment.parse_distribution(self.config.p_unlabeled, self.num_classes)
            state["class_history"] = alignment.push(history, context.batch_mean(mean))
            mean = alignment.align(mean, wanted, tf.reduce_mean(history, 0))
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
        hard = targets.one_hot(batch.labels, self.num_classes)
        images, labels = mixing.mix_blocks(
            [batch.labeled["weak"], *views],
            [hard] + [guessed] * len(views),
            self.config.mixmode,
            self.config.beta,
            context.seed,
        )
        blocks = mixing.interleave(images)
        logits = [
            network(block, training=True, update_stats=index == 0).logits
            for index, block in enumerate(blocks)
        ]
        logits = mixing.interleave(logits)
        return MixedPredictions(
            logits[0], labels[0], tf.concat(logits[1:], 0), tf.concat(labels[1:], 0), state
        )


def row_losses(mixed: MixedPredictions) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Cross entropy [B], squared distance [K·B] and confidence [K·B] of each row.

    The distance is a mean over classes; the confidence is the largest probability, without
    gradient.
    """
    entropy = distances.cross_entropy(mixed.labeled_targets, mixed.labeled_logits)
    probabilities = tf.nn.softmax(mixed.unlabeled_logits)
    distance = distances.squared(mixed.unlabeled_targets, probabilities)
    return entropy, distance, tf.reduce_max(tf.stop_gradient(probabilities), -1)
