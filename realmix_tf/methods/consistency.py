"""What the older baselines share: a ramped term that asks for consistent predictions.

A method of this family says in ``inconsistency`` how far each unlabelled image is from what is
asked of it; the labelled loss, the ramp and the weight stand here once.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    option,
)


@dataclass(frozen=True)
class ConsistencyConfig:
    """Options of the whole family."""

    consistency_weight: float = option(1.0, "Weight of the unlabelled term, ramped up.", 0)
    warmup_pos: float = option(0.4, "Share of the run over which to ramp up.", 0, 1)


class Consistency(Method):
    """L = mean CE(x) + w·ramp·mean of ``inconsistency``.

    The moving averages of batch normalisation follow the labelled images only.
    """

    config: ConsistencyConfig

    def losses(self, batch: Batch, network: NetworkFunction, context: Context) -> StepResult:
        labeled = network(batch.labeled["weak"], training=True, update_stats=True).logits
        rows, numbers = self.inconsistency(batch, network, context)
        ramp = annealing.progress_ramp(context.progress, self.config.warmup_pos)
        terms = {
            "xe": Term(context.mean(distances.cross_entropy(batch.labels, labeled))),
            "consistency": Term(context.mean(rows), self.config.consistency_weight * ramp),
        }
        return StepResult(terms, numbers)

    def inconsistency(
        self, batch: Batch, network: NetworkFunction, context: Context
    ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
        """How far unlabelled rows are from their targets, float32 [N], and numbers to report."""
        raise NotImplementedError
