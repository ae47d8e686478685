"""Interpolation Consistency Training (Verma et al. 2019, arXiv:1903.03825)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from realmix_tf.lazy import tf
from realmix_tf.methods import distances, mixing
from realmix_tf.methods.base import Batch, Context, NetworkFunction, Views, option, register
from realmix_tf.methods.consistency import Consistency, ConsistencyConfig


@register("ict")
class ICT(Consistency):
    """L = mean CE(x) + w·ramp·mean of (mix of the teacher's p(u), p(u') − p(mix of u, u'))²."""

    @dataclass(frozen=True)
    class Config(ConsistencyConfig):
        beta: float = option(0.5, "MixUp: λ ~ Beta(beta, beta), one a row.", 1e-3, 1e3)
        consistency_weight: float = option(50.0, "Weight of the unlabelled term, ramped up.", 0)

    config: Config
    reads_teacher = True

    def views(self) -> Views:
        return Views(unlabeled=("weak",))

    def inconsistency(
        self, batch: Batch, network: NetworkFunction, context: Context
    ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
        images = batch.unlabeled["weak"]
        target = tf.nn.softmax(context.teacher(images).logits)
        mixed, target = mixing.mix_reversed(images, target, context.seed("mixup"), self.config.beta)
        student = network(mixed, training=True, update_stats=False).logits
        return distances.squared(target, tf.nn.softmax(student)), {}
