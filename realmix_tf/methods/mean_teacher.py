"""Mean Teacher (Tarvainen and Valpola 2017, arXiv:1703.01780): the averaged weights teach.

The consistency cost J of section 2, as a mean over rows and classes.
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


@register("mean_teacher")
class MeanTeacher(Method):
    """L = mean CE(x) + w·ramp·mean over rows and classes of (p_teacher(u₁) − p(u₂))²."""

    @dataclass(frozen=True)
    class Config:
        consistency_weight: float = option(50.0, "Weight of the unlabelled term, ramped up.", 0)
        warmup_pos: float = option(0.4, "Share of the run over which to ramp up.", 0, 1)

    config: Config
    reads_teacher = True

    def views(self) -> Views:
        return Views(unlabeled=("weak0", "weak1"))

    def losses(self, batch: Batch, network: NetworkFunction, context: Context) -> StepResult:
        labeled = network(batch.labeled["weak"], training=True, update_stats=True).logits
        target = tf.nn.softmax(context.teacher(batch.unlabeled["weak0"]).logits)
        student = network(batch.unlabeled["weak1"], training=True, update_stats=False).logits
        distance = distances.squared(target, tf.nn.softmax(student))
        ramp = annealing.progress_ramp(context.progress, self.config.warmup_pos)
        terms = {
            "xe": Term(context.mean(distances.cross_entropy(batch.labels, labeled))),
            "consistency": Term(context.mean(distance), self.config.consistency_weight * ramp),
        }
        return StepResult(terms)
