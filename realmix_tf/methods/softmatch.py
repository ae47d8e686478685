"""SoftMatch (Chen et al. 2023, arXiv:2301.10921): every guess counts, by how sure it is.

The weight is a truncated Gaussian of the confidence around its running mean μ with the running
variance σ² (equations 5 to 7 and 9). It is taken of guesses aligned to a uniform class distribution
(equation 8), while the target comes from the guess as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from realmix_tf.errors import UsageError
from realmix_tf.lazy import tf
from realmix_tf.methods import alignment
from realmix_tf.methods.base import Batch, Context, option, register
from realmix_tf.methods.weak_strong import Guess, Outputs, WeakStrong, WeakStrongConfig

STATISTICS = ("unaligned", "aligned")


@register("softmatch")
class SoftMatch(WeakStrong):
    """weight = exp(−min(max p̃ − μ, 0)² / (2σ²/n_sigma²))."""

    @dataclass(frozen=True)
    class Config(WeakStrongConfig):
        n_sigma: float = option(
            2.0, "How much narrower than σ the Gaussian is (section 4.1).", 1e-3, 1e3
        )
        statistics: str = option(
            "unaligned",
            "Guesses that μ and σ² follow: unaligned as in the paper, or aligned.",
            choices=STATISTICS,
        )
        statistics_decay: float = option(0.999, "Decay of the running averages.", 0, 0.999999)

    config: Config
    augment = "d.d.rau"

    def check(self, replicas: int) -> None:
        if self.task.batch * self.config.uratio < 2:
            raise UsageError(
                "the variance of confidences needs two unlabelled images an update or more",
                "--batch",
                "a larger batch or --uratio",
            )

    def initial_state(self) -> dict[str, tf.Tensor]:
        share = alignment.uniform(self.num_classes)
        return {"mean": share[0], "variance": tf.ones([]), "mean_probability": share}

    def guess(
        self, probabilities: tf.Tensor, outputs: Outputs, batch: Batch, context: Context
    ) -> Guess:
        decay = self.config.statistics_decay
        old = {name: tf.convert_to_tensor(value) for name, value in context.state.items()}
        observed = alignment.moved(
            old["mean_probability"], context.batch_mean(probabilities), decay
        )
        aligned = alignment.align(probabilities, alignment.uniform(self.num_classes), observed)
        confidence = tf.reduce_max(aligned, -1)
        followed = confidence
        if self.config.statistics == "unaligned":
            followed = tf.reduce_max(probabilities, -1)
        mean, variance = moments(followed, context)
        state = {
            "mean": alignment.moved(old["mean"], mean, decay),
            "variance": alignment.moved(old["variance"], variance, decay),
            "mean_probability": observed,
        }
        weight = gaussian_weight(confidence, state["mean"], state["variance"], self.config.n_sigma)
        numbers = {
            "softmatch/mean": context.mean(state["mean"][None]),
            "softmatch/variance": context.mean(state["variance"][None]),
        }
        return Guess(tf.argmax(probabilities, -1), weight, metrics=numbers, state=state)


def moments(values: tf.Tensor, context: Context) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and unbiased variance over the global batch: float32 [N] → two scalars."""
    mean = context.batch_mean(values)
    count = context.total(tf.cast(tf.size(values), tf.float32))
    squares = context.total(tf.reduce_sum((values - mean) ** 2))
    return mean, squares / tf.maximum(count - 1.0, 1.0)


def gaussian_weight(
    confidence: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, n_sigma: float
) -> tf.Tensor:
    """1 from μ on, below it exp(−(c − μ)²/(2σ²/n_sigma²)): float32 [N] → [N], no gradient."""
    below = tf.minimum(confidence - mean, 0.0)
    # Of confidences that are all alike the variance is 0.
    width = 2.0 * tf.maximum(variance, 1e-30) / n_sigma**2
    return tf.stop_gradient(tf.exp(-(below**2) / width))
