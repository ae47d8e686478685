"""Unsupervised Data Augmentation (Xie et al. 2020, arXiv:1904.12848).

The sharpened prediction on the weak view, where it is sure, is the target of the strong view; and
labelled images that are known too well too early are left out (training signal annealing, appendix
A.1).
"""

from __future__ import annotations

from dataclasses import dataclass

from realmix_tf.lazy import tf
from realmix_tf.methods import annealing, distances, masks
from realmix_tf.methods.base import Batch, Context, Term, option, register
from realmix_tf.methods.weak_strong import Guess, Outputs, ThresholdConfig, WeakStrong


@register("uda")
class UDA(WeakStrong):
    """L = mean of kept CE(x) + wu·mean of 1[max p(weak) > β]·KL(sharpened p(weak) ‖ p(strong)).

    Equation 1, with the mask and the sharpening of section 2.4.
    """

    @dataclass(frozen=True)
    class Config(ThresholdConfig):
        confidence: float = option(0.8, "β, the confidence a guess must exceed.", 0, 1)
        temperature: float = option(
            0.4, "Sharpening: softmax of the logits over T; 1 leaves guesses as they are.", 1e-3, 1
        )
        tsa: str = option(
            "none",
            "Training signal annealing: how fast the threshold on labelled rows rises.",
            choices=annealing.TSA_SCHEDULES,
        )
        tsa_kimg: float = option(
            0.0,
            "Thousands (1024) of labelled images until the threshold is 1; 0 means the whole run.",
            0,
        )
        we: float = option(0.0, "Weight of the entropy of p(weak).", 0)

    config: Config

    def labeled_loss(self, outputs: Outputs, batch: Batch, context: Context) -> tf.Tensor:
        logits = outputs.labeled.logits
        entropy = distances.cross_entropy(batch.labels, logits)
        if self.config.tsa == "none":
            return context.mean(entropy)
        progress = context.progress
        if self.config.tsa_kimg > 0:
            progress = annealing.linear_ramp(context.images, self.config.tsa_kimg)
        threshold = annealing.tsa_threshold(self.config.tsa, progress, self.num_classes)
        known = tf.gather(tf.nn.softmax(logits), batch.labels, batch_dims=1)
        return context.masked_mean(entropy, 1.0 - masks.above(known, threshold))

    def distance(self, target: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """KL(target ‖ p): the cross entropy less the target's own entropy."""
        own = -tf.reduce_sum(tf.math.xlogy(target, target), -1)
        return distances.cross_entropy(target, logits) - own

    def guess(
        self, probabilities: tf.Tensor, outputs: Outputs, batch: Batch, context: Context
    ) -> Guess:
        logits = outputs.weak.logits
        sharp = tf.stop_gradient(logits) / self.config.temperature
        mask = masks.above(tf.reduce_max(probabilities, -1), self.config.confidence)
        terms = {}
        if self.config.we:
            terms["entropy"] = Term(context.mean(distances.entropy(logits)), self.config.we)
        return Guess(tf.nn.softmax(sharp), mask, terms)
