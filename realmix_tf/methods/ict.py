"""Interpolation Consistency Training (Verma et al. 2019, arXiv:1903.03825)."""

from __future__ import annotations

from dataclasses import dataclass

from realmix_tf.lazy import tf
from realmix_tf.methods import annealing, distances, mixing
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


@register("ict")
class ICT(Method):
    """L = mean CE(x) + w·ramp·mean of (mix of the teacher's p(u), p(u') − p(mix of u, u'))²."""

    @dataclass(frozen=True)
    class Config:
        beta: float = option(0.5, "MixUp: λ ~ Beta(beta, beta), one a row.", 1e-3, 1e3)
        consistency_weight: float = option(50.0, "Weight of the unlabelled term, ramped up.", 0)
        warmup_pos: float = option(0.4, "Share of the run over which to ramp up.", 0, 1)

    config: Config
    reads_teacher = True

    def views(self) -> Views:
        return Views(unlabeled=("weak",))

    def losses(self, batch: Batch, network: NetworkFunction, context: Context) -> StepResult:
        labeled = network(batch.labeled["weak"], training=True, update_stats=True).logits
        images = batch.unlabeled["weak"]
        target = tf.nn.softmax(context.teacher(images).logits)
        mixed, target = mixing.mix_reversed(images, target, context.seed("mixup"), self.config.beta)
        student = network(mixed, training=True, update_stats=False).logits
        distance = distances.squared(target, tf.nn.softmax(student))
        ramp = annealing.progress_ramp(context.progress, self.config.warmup_pos)
        terms = {
            "xe": Term(context.mean(distances.cross_entropy(batch.labels, labeled))),
            "consistency": Term(context.mean(distance), self.config.consistency_weight * ramp),
        }
        return StepResult(terms)
