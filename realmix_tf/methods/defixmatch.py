"""DeFixMatch (Schmutz et al. 2023, arXiv:2203.07512): FixMatch without the bias of its guesses.

What the unlabelled term says of labelled images, whose labels are known, is subtracted from what it
says of unlabelled ones: L = CE(x) + λ·(L_u(unlabelled) − L_u(labelled)).
"""

from __future__ import annotations

from dataclasses import dataclass

from realmix_tf.lazy import tf
from realmix_tf.methods import distances, masks, metrics
from realmix_tf.methods.base import (
    SGD,
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
from realmix_tf.methods.weak_strong import ThresholdConfig, predict_together


@register("defixmatch")
class DeFixMatch(Method):
    """CE(x) is the mean over the weak and the strong view; L_u is FixMatch's term."""

    @dataclass(frozen=True)
    class Config(ThresholdConfig):
        wu: float = option(0.5, "λ, weight of the difference.", 0)

    config: Config
    recipe = SGD
    augment = "d.d.rau"

    def views(self) -> Views:
        return Views(("weak", "strong"), ("weak", "strong"), self.config.uratio)

    def losses(self, batch: Batch, network: NetworkFunction, context: Context) -> StepResult:
        labeled, unlabeled = batch.labeled, batch.unlabeled
        views = labeled["weak"], labeled["strong"], unlabeled["weak"], unlabeled["strong"]
        weak_x, strong_x, weak, strong = (o.logits for o in predict_together(network, views))
        supervised = (
            distances.cross_entropy(batch.labels, weak_x)
            + distances.cross_entropy(batch.labels, strong_x)
        ) / 2.0
        guess, mask, of_unlabeled = self.consistency(weak, strong)
        _, _, of_labeled = self.consistency(weak_x, strong_x)
        terms = {
            "xe": Term(context.mean(supervised)),
            "xeu": Term(context.mean(of_unlabeled), self.config.wu),
            "bias": Term(context.mean(of_labeled), -self.config.wu),
        }
        return StepResult(terms, metrics.pseudo_labels(guess, mask, context))

    def consistency(
        self, weak: tf.Tensor, strong: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """FixMatch's guess [N, C], mask [N] and loss [N] of two views' logits [N, C]."""
        guess = tf.stop_gradient(tf.nn.softmax(weak))
        mask = masks.at_least(tf.reduce_max(guess, -1), self.config.confidence)
        return guess, mask, mask * distances.cross_entropy(tf.argmax(guess, -1), strong)
