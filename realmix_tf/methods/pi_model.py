"""Π-model (Laine and Aila 2017, arXiv:1610.02242): two views of an image, one prediction.

In the form of equation 1 of FixMatch (arXiv:2001.07685).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from realmix_tf.lazy import tf
from realmix_tf.methods import distances
from realmix_tf.methods.base import Batch, Context, NetworkFunction, Views, option, register
from realmix_tf.methods.consistency import Consistency, ConsistencyConfig


@register("pi_model")
class PiModel(Consistency):
    """L = mean CE(x) + w·ramp·mean over rows and classes of (p(u₁) − p(u₂))²; p(u₁) is fixed."""

    @dataclass(frozen=True)
    class Config(ConsistencyConfig):
        consistency_weight: float = option(10.0, "Weight of the unlabelled term, ramped up.", 0)

    config: Config

    def views(self) -> Views:
        return Views(unlabeled=("weak0", "weak1"))

    def inconsistency(
        self, batch: Batch, network: NetworkFunction, context: Context
    ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
        first, second = (
            tf.nn.softmax(network(batch.unlabeled[name], training=True, update_stats=False).logits)
            for name in ("weak0", "weak1")
        )
        return distances.squared(tf.stop_gradient(first), second), {}
