"""FreeMatch (Wang et al. 2023, arXiv:2205.07246): thresholds that adapt by themselves.

A global threshold follows the mean confidence, a local one a class the mean probabilities
(equations 5 to 7); and the predictions on strong views are kept as spread over the classes as those
on weak views (self-adaptive fairness, equations 9 to 11).
"""

from __future__ import annotations

from dataclasses import dataclass

from realmix_tf.errors import UsageError
from realmix_tf.lazy import tf
from realmix_tf.methods import alignment, masks
from realmix_tf.methods.base import Batch, Context, Term, option, register
from realmix_tf.methods.weak_strong import Guess, Outputs, WeakStrong, WeakStrongConfig


@register("freematch")
class FreeMatch(WeakStrong):
    """FixMatch with the thresholds τ·P_c / max P (eq. 8), plus w_fair times fairness (eq. 12)."""

    @dataclass(frozen=True)
    class Config(WeakStrongConfig):
        w_fair: float = option(0.01, "Weight of the fairness term.", 0)
        threshold_decay: float = option(0.999, "Decay of the running averages.", 0, 0.999999)
        quantile: float = option(
            -1.0,
            "Let τ follow this quantile of the confidences instead of their mean; -1 for the mean.",
            0,
            1,
            off=-1.0,
        )
        clip_low: float = option(0.0, "Least threshold of any class; 0.9 was used for SVHN.", 0, 1)
        clip_high: float = option(
            1.0, "Greatest threshold of any class; 0.95 was used for SVHN.", 0, 1
        )

    config: Config
    augment = "d.d.rau"

    def check(self, replicas: int) -> None:
        if self.config.clip_low > self.config.clip_high:
            raise UsageError(
                f"thresholds cannot lie from {self.config.clip_low} to {self.config.clip_high}",
                "--clip_low",
                "a number below --clip_high",
            )

    def initial_state(self) -> dict[str, tf.Tensor]:
        share = alignment.uniform(self.num_classes)
        return {"threshold": share[0], "mean_probability": share, "guess_share": share}

    def guess(
        self, probabilities: tf.Tensor, outputs: Outputs, batch: Batch, context: Context
    ) -> Guess:
        confidence, guessed = tf.reduce_max(probabilities, -1), tf.argmax(probabilities, -1)
        newest = {
            "threshold": self.typical(confidence, context),
            "mean_probability": context.batch_mean(probabilities),
            "guess_share": context.batch_mean(tf.one_hot(guessed, self.num_classes)),
        }
        decay = self.config.threshold_decay
        state = {
            name: alignment.moved(tf.convert_to_tensor(context.state[name]), value, decay)
            for name, value in newest.items()
        }
        thresholds = self.thresholds(state["threshold"], state["mean_probability"])
        mask = masks.at_least(confidence, tf.gather(thresholds, guessed))
        strong = tf.nn.softmax(outputs.strong.logits)
        fairness = fairness_loss(
            strong, mask, state["mean_probability"], state["guess_share"], context
        )
        numbers = {
            "thresholds/global": context.mean(state["threshold"][None]),
            "thresholds/min": tf.reduce_min(thresholds),
        }
        terms = {"fairness": Term(context.mean(fairness[None]), self.config.w_fair)}
        return Guess(guessed, mask, terms, numbers, state)

    def typical(self, confidence: tf.Tensor, context: Context) -> tf.Tensor:
        """The confidence that τ follows: float32 [N] → scalar, over the global batch."""
        if self.config.quantile < 0:
            return context.batch_mean(confidence)
        everywhere = tf.sort(context.gather(confidence))
        last = tf.cast(tf.shape(everywhere)[0] - 1, tf.float32)
        place = self.config.quantile * last
        below = tf.cast(tf.floor(place), tf.int32)
        above = tf.cast(tf.math.ceil(place), tf.int32)
        share = place - tf.floor(place)
        return everywhere[below] * (1.0 - share) + everywhere[above] * share

    def thresholds(self, threshold: tf.Tensor, mean_probability: tf.Tensor) -> tf.Tensor:
        """τ·P_c / max P, clipped: scalar and float32 [C] → float32 [C]."""
        local = threshold * mean_probability / tf.reduce_max(mean_probability)
        return tf.clip_by_value(local, self.config.clip_low, self.config.clip_high)


def fairness_loss(
    strong: tf.Tensor,
    mask: tf.Tensor,
    mean_probability: tf.Tensor,
    guess_share: tf.Tensor,
    context: Context,
) -> tf.Tensor:
    """Σ_c SN(P/H)_c·log SN(p̄/h̄)_c over the kept rows (equation 11).

    SN divides by the sum, and 1/0 is 0.
    p̄ and h̄ are the mean of the kept strong predictions and the shares of the classes they name.
    The value is never above 0, and 0 where nothing is kept; only p̄ carries gradient.

    Args:
      strong: float32 [N, C], probabilities on the strong views.
      mask: float32 [N], 1 for kept rows.
      mean_probability, guess_share: float32 [C], P and H, the running averages on the weak views.
    """
    named = tf.one_hot(tf.argmax(strong, -1), strong.shape[-1])
    kept = context.total(tf.reduce_sum(mask))
    mean = context.total(tf.reduce_sum(mask[:, None] * strong, 0)) / tf.maximum(kept, 1.0)
    share = context.total(tf.reduce_sum(mask[:, None] * named, 0)) / tf.maximum(kept, 1.0)
    expected = _sum_to_one(tf.math.divide_no_nan(mean_probability, guess_share))
    found = _sum_to_one(tf.math.divide_no_nan(mean, tf.stop_gradient(share)))
    loss = tf.reduce_sum(tf.stop_gradient(expected) * tf.math.log(found + 1e-12))
    return tf.where(kept > 0, loss, 0.0)


def _sum_to_one(values: tf.Tensor) -> tf.Tensor:
    return tf.math.divide_no_nan(values, tf.reduce_sum(values))
