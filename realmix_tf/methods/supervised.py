"""The supervised baseline: cross entropy on the labelled images, nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from realmix_tf.methods import distances, targets
from realmix_tf.methods.base import (
    Batch,
    Context,
    Method,
    NetworkFunction,
    StepResult,
    Term,
    option,
    register,
)


@register("supervised")
class Supervised(Method):
    """Minimises mean CE(smoothed label, p(x))."""

    @dataclass(frozen=True)
    class Config:
        smoothing: float = option(0.001, "Label smoothing s: l becomes l − s·(l − 1/C).", 0, 1)

    config: Config

    def losses(self, batch: Batch, network: NetworkFunction, context: Context) -> StepResult:
        logits = network(batch.labeled["weak"], training=True, update_stats=True).logits
        labels = targets.one_hot(batch.labels, self.num_classes, self.config.smoothing)
        entropy = distances.cross_entropy(labels, logits)
        return StepResult({"xe": Term(context.mean(entropy))})
