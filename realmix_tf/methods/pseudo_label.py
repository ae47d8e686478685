"""Pseudo-Label (Lee 2013): the network's own sure predictions are taken for labels.

With a threshold, as equation 2 of FixMatch (arXiv:2001.07685) states it.
"""

from __future__ import annotations

from dataclasses import dataclass

from realmix_tf.lazy import tf
from realmix_tf.methods import annealing, distances, masks, metrics
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


@register("pseudo_label")
class PseudoLabel(Method):
    """L = mean CE(x) + w·ramp·mean over all rows of 1[max p > τ]·CE(argmax p, p)."""

    @dataclass(frozen=True)
    class Config:
        consistency_weight: float = option(1.0, "Weight of the unlabelled term, ramped up.", 0)
        threshold: float = option(0.95, "τ, the confidence a guess must exceed.", 0, 1)
        warmup_pos: float = option(0.4, "Share of the run over which to ramp up.", 0, 1)

    config: Config

    def views(self) -> Views:
        return Views(unlabeled=("weak",))

    def losses(self, batch: Batch, network: NetworkFunction, context: Context) -> StepResult:
        labeled = network(batch.labeled["weak"], training=True, update_stats=True).logits
        logits = network(batch.unlabeled["weak"], training=True, update_stats=False).logits
        guess = tf.stop_gradient(tf.nn.softmax(logits))
        mask = masks.above(tf.reduce_max(guess, -1), self.config.threshold)
        pseudo = mask * distances.cross_entropy(tf.argmax(guess, -1), logits)
        ramp = annealing.progress_ramp(context.progress, self.config.warmup_pos)
        terms = {
            "xe": Term(context.mean(distances.cross_entropy(batch.labels, labeled))),
            "pseudo": Term(context.mean(pseudo), self.config.consistency_weight * ramp),
        }
        return StepResult(terms, metrics.pseudo_labels(guess, mask, context))
