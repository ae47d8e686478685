"""FixMatch (Sohn et al. 2020, arXiv:2001.07685): sure weak predictions are labels of strong views.

L = mean CE(x) + wu·mean over all unlabelled rows of 1[max p(weak) ≥ τ]·CE(argmax p(weak),
p(strong)) (equations 3 and 4). Nothing is ramped or sharpened.
"""

from __future__ import annotations

from dataclasses import dataclass

from realmix_tf.lazy import tf
from realmix_tf.methods import masks
from realmix_tf.methods.base import Batch, Context, register
from realmix_tf.methods.weak_strong import Guess, Outputs, ThresholdConfig, WeakStrong


@register("fixmatch")
class FixMatch(WeakStrong):
    """Strong views by CTAugment; RandAugment, its other published form, is --augment=d.d.rac."""

    @dataclass(frozen=True)
    class Config(ThresholdConfig):
        pass

    config: ThresholdConfig
    augment = "d.d.ctac"

    def guess(
        self, probabilities: tf.Tensor, outputs: Outputs, batch: Batch, context: Context
    ) -> Guess:
        mask = masks.at_least(tf.reduce_max(probabilities, -1), self.config.confidence)
        return Guess(tf.argmax(probabilities, -1), mask)
