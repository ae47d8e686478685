"""Mean Teacher (Tarvainen and Valpola 2017, arXiv:1703.01780): the averaged weights teach.

The consistency cost J of section 2, as a mean over rows and classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from realmix_tf.lazy import tf
from realmix_tf.methods import distances
from realmix_tf.methods.base import Batch, Context, NetworkFunction, Views, option, register
from realmix_tf.methods.consistency import Consistency, ConsistencyConfig


@register("mean_teacher")
class MeanTeacher(Consistency):
    """L = mean CE(x) + w·ramp·mean over rows and classes of (p_teacher(u₁) − p(u₂))²."""

    @dataclass(frozen=True)
    class Config(ConsistencyConfig):
        consistency_weight: float = option(50.0, "Weight of the unlabelled term, ramped up.", 0)

    config: Config
    reads_teacher = True

    def views(self) -> Views:
        return Views(unlabeled=("weak0", "weak1"))

    def inconsistency(
        self, batch: Batch, network: NetworkFunction, context: Context
    ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
        target = tf.nn.softmax(context.teacher(batch.unlabeled["weak0"]).logits)
        student = network(batch.unlabeled["weak1"], training=True, update_stats=False).logits
        return distances.squared(target, tf.nn.softmax(student)), {}
