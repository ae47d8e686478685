"""Pseudo-Label (Lee 2013): the network's own sure predictions are taken for labels.

With a threshold, as equation 2 of FixMatch (arXiv:2001.07685) states it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from realmix_tf.lazy import tf
from realmix_tf.methods import distances, masks, metrics
from realmix_tf.methods.base import Batch, Context, NetworkFunction, Views, option, register
from realmix_tf.methods.consistency import Consistency, ConsistencyConfig


@register("pseudo_label")
class PseudoLabel(Consistency):
    """L = mean CE(x) + w·ramp·mean over all rows of 1[max p > τ]·CE(argmax p, p)."""

    @dataclass(frozen=True)
    class Config(ConsistencyConfig):
        threshold: float = option(0.95, "τ, the confidence a guess must exceed.", 0, 1)

    config: Config

    def views(self) -> Views:
        return Views(unlabeled=("weak",))

    def inconsistency(
        self, batch: Batch, network: NetworkFunction, context: Context
    ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
        logits = network(batch.unlabeled["weak"], training=True, update_stats=False).logits
        guess = tf.stop_gradient(tf.nn.softmax(logits))
        mask = masks.above(tf.reduce_max(guess, -1), self.config.threshold)
        rows = mask * distances.cross_entropy(tf.argmax(guess, -1), logits)
        return rows, metrics.pseudo_labels(guess, mask, context)
