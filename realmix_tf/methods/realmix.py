"""RealMix (Nair et al. 2019, arXiv:1912.08766): MixMatch that survives foreign unlabelled images.

Three changes to MixMatch: the unlabelled set may be offline augmented copies (a matter of the data
tools), training signal annealing for mixed labels, and a mask that keeps the unlabelled rows the
network is least sure of out of the consistency loss.
"""

from __future__ import annotations

from dataclasses import dataclass

from realmix_tf.lazy import tf
from realmix_tf.methods import annealing, masks, metrics
from realmix_tf.methods.base import (
    Batch,
    Context,
    NetworkFunction,
    StepResult,
    Term,
    option,
    register,
)
from realmix_tf.methods.mixmatch import (
    MixMatch,
    MixMatchConfig,
    row_losses,
)


@register("realmix")
class RealMix(MixMatch):
    """L = mean of kept CE(x) + w_match·ramp·(mean of kept rows and classes of (target − p)²)."""

    @dataclass(frozen=True)
    class Config(MixMatchConfig):
        beta: float = option(0.75, "MixUp: λ ~ Beta(beta, beta), one a row.", 1e-3, 1e3)
        w_match: float = option(75.0, "Weight of the unlabelled term once ramped up.", 0)
        tsa: str = option(
            "none",
            "Training signal annealing: how fast the threshold on labelled rows rises.",
            choices=annealing.TSA_SCHEDULES,
        )
        percent_mask: float = option(
            -1.0,
            "Share q in (0, 1) of unlabelled rows, the least confident of each batch, to leave out "
            "of the consistency loss; -1 for none.",
            1e-6,
            0.999999,
            off=-1.0,
        )
        confidence_mask: float = option(
            -1.0,
            "Leave out unlabelled rows whose largest probability is below this, in (0, 1); "
            "-1 for none.",
            1e-6,
            0.999999,
            off=-1.0,
        )

    config: Config

    def losses(self, batch: Batch, network: NetworkFunction, context: Context) -> StepResult:
        mixed = self.predict_mixed(batch, network, context)
        entropy, distance, confidence = row_losses(mixed)
        labeled_mask = self.labeled_mask(mixed.labeled_logits, mixed.labeled_targets, context)
        unlabeled_mask = self.unlabeled_mask(confidence)
        terms = {
            "xe": Term(context.masked_mean(entropy, labeled_mask)),
            "l2u": Term(context.masked_mean(distance, unlabeled_mask), self.match_weight(context)),
        }
        # The least confident row that still counts: where the mask cuts.
        kept_confidence = tf.where(unlabeled_mask > 0, confidence, tf.ones_like(confidence))
        numbers = metrics.confidence(confidence, context) | {
            "kept/labeled": context.mean(labeled_mask),
            "kept/unlabeled": context.mean(unlabeled_mask),
            "mask/threshold": context.mean(tf.fill([1], tf.reduce_min(kept_confidence))),
        }
        return StepResult(terms, numbers, mixed.state)

    def labeled_mask(self, logits: tf.Tensor, labels: tf.Tensor, context: Context) -> tf.Tensor:
        """Training signal annealing on the mixed labelled rows: float32 [B]."""
        if self.config.tsa == "none":
            return tf.ones(tf.shape(logits)[:1])
        threshold = annealing.tsa_threshold(self.config.tsa, context.progress, self.num_classes)
        return masks.tsa_mask(tf.nn.softmax(logits), labels, threshold)

    def unlabeled_mask(self, confidence: tf.Tensor) -> tf.Tensor:
        """Out-of-distribution masking by share, by threshold, or both: float32 [K·B]."""
        mask = tf.ones_like(confidence)
        if self.config.percent_mask > 0:
            mask *= masks.lowest_fraction_mask(confidence, self.config.percent_mask)
        if self.config.confidence_mask > 0:
            mask *= masks.at_least(confidence, self.config.confidence_mask)
        return mask
