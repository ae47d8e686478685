"""MixUp on labelled images alone (Zhang et al. 2018, arXiv:1710.09412), a stronger baseline."""

from __future__ import annotations

from dataclasses import dataclass

from realmix_tf.methods import distances, mixing, targets
from realmix_tf.methods.base import (
    Batch,
    Context,
    Method,
    NetworkFunction,
    Recipe,
    StepResult,
    Term,
    option,
    register,
)


@register("mixup_supervised")
class MixupSupervised(Method):
    """Each row is mixed with its mirror in the reversed batch; CE against the mixed label."""

    @dataclass(frozen=True)
    class Config:
        beta: float = option(0.5, "MixUp: λ ~ Beta(beta, beta), one a row.", 1e-3, 1e3)

    config: Config
    recipe = Recipe(wd=0.002)

    def losses(self, batch: Batch, network: NetworkFunction, context: Context) -> StepResult:
        images = batch.labeled["weak"]
        hard = targets.one_hot(batch.labels, self.num_classes)
        mixed, labels = mixing.mix_reversed(images, hard, context.seed("mixup"), self.config.beta)
        logits = network(mixed, training=True, update_stats=True).logits
        entropy = distances.cross_entropy(labels, logits)
        return StepResult({"xe": Term(context.mean(entropy))})
