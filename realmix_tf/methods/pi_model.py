"""Π-model (Laine and Aila 2017, arXiv:1610.02242): two views of an image, one prediction.

In the form of equation 1 of FixMatch (arXiv:2001.07685).
"""

from __future__ import annotations

from dataclasses import dataclass

from realmix_tf.lazy import tf
from realmix_tf.methods import annealing, distances
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


@register("pi_model")
class PiModel(Method):
    """L = mean CE(x) + w·ramp·mean over rows and classes of (p(u₁) − p(u₂))²; p(u₁) is fixed."""

    @dataclass(frozen=True)
    class Config:
        consistency_weight: float = option(10.0, "Weight of the unlabelled term, ramped up.", 0)
        warmup_pos: float = option(0.4, "Share of the run over which to ramp up.", 0, 1)

    config: Config

    def views(self) -> Views:
        return Views(unlabeled=("weak0", "weak1"))

    def losses(self, batch: Batch, network: NetworkFunction, context: Context) -> StepResult:
        labeled = network(batch.labeled["weak"], training=True, update_stats=True).logits
        first, second = (
            tf.nn.softmax(network(batch.unlabeled[name], training=True, update_stats=False).logits)
            for name in ("weak0", "weak1")
        )
        distance = distances.squared(tf.stop_gradient(first), second)
        ramp = annealing.progress_ramp(context.progress, self.config.warmup_pos)
        terms = {
            "xe": Term(context.mean(distances.cross_entropy(batch.labels, labeled))),
            "consistency": Term(context.mean(distance), self.config.consistency_weight * ramp),
        }
        return StepResult(terms)
