"""SimMatch (Zheng et al. 2022, arXiv:2203.06915): images should be alike as their classes are.

A bank keeps a feature of every labelled image (equation 12). A weak view's likeness to the bank and
its class guess correct each other (equations 7 to 10), and both teach the strong view (equations 2,
5 and 6).

The published bank starts as random features that all belong to class 0; here an image takes part
from its first sight on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from realmix_tf.lazy import tf
from realmix_tf.methods import alignment, distances, heads, masks
from realmix_tf.methods.annealing import KIMG
from realmix_tf.methods.base import Batch, Context, FeatureMap, Term, option, register
from realmix_tf.methods.weak_strong import Guess, Outputs, ThresholdConfig, WeakStrong

_KEPT = 0.7  # share of a bank's feature that stays when its image is seen again
_NEVER = -1e9


class Bank(NamedTuple):
    """What is kept of the labelled images.

    Attributes:
      features: float32 [N, D], of length 1, or zero where the image was not seen yet.
      classes: float32 [N, C], one-hot, or zero where the image was not seen yet.
    """

    features: tf.Tensor
    classes: tf.Tensor

    def likeness(self, features: tf.Tensor, temperature: float) -> tf.Tensor:
        """Logits of a distribution over the seen images: float32 [n, D] → [n, N]."""
        seen = tf.reduce_sum(self.classes, -1)
        logits = tf.matmul(features, self.features, transpose_b=True) / temperature
        return tf.where(seen > 0, logits, _NEVER)


@register("simmatch")
class SimMatch(WeakStrong):
    """FixMatch with smoothed soft targets, plus w_in·CE(t', likeness of the strong view)."""

    @dataclass(frozen=True)
    class Config(ThresholdConfig):
        temperature: float = option(0.1, "Temperature T of likenesses.", 1e-3, 1e3)
        smoothing: float = option(0.9, "Share of the class guess in the smoothed target.", 0, 1)
        w_in: float = option(1.0, "Weight of the instance term.", 0)
        proj_size: int = option(128, "Width of the projected features.", 1, 4096)
        warmup_kimg: float = option(
            64.0, "Thousands (1024) of labelled images before the bank is believed.", 0
        )

    config: Config
    augment = "d.d.rau"

    def heads(self, seed: int, features: int, feature_map: FeatureMap) -> dict[str, tf.Tensor]:
        return heads.projection_weights(features, self.config.proj_size, seed)

    def initial_state(self) -> dict[str, tf.Tensor]:
        labeled = self.task.num_labeled
        return {
            "bank_features": tf.zeros([labeled, self.config.proj_size]),
            "bank_classes": tf.zeros([labeled, self.num_classes]),
            "class_history": tf.zeros([alignment.SHORT_HISTORY, self.num_classes]),
        }

    def guess(
        self, probabilities: tf.Tensor, outputs: Outputs, batch: Batch, context: Context
    ) -> Guess:
        labeled, weak, strong = (
            heads.projection(context.weights, output.features) for output in outputs
        )
        old = {name: tf.convert_to_tensor(value) for name, value in context.state.items()}
        aligned, history = alignment.align_to_uniform(
            probabilities, old["class_history"], context.batch_mean(probabilities)
        )
        bank = Bank(old["bank_features"], old["bank_classes"])
        likeness = tf.nn.softmax(bank.likeness(tf.stop_gradient(weak), self.config.temperature))
        smoothed, calibrated = exchange(aligned, likeness, bank, self.config.smoothing)
        warm = tf.cast(context.images >= self.config.warmup_kimg * KIMG, tf.float32)
        target = warm * smoothed + (1.0 - warm) * aligned
        mask = masks.at_least(tf.reduce_max(target, -1), self.config.confidence)
        instance = distances.cross_entropy(
            calibrated, bank.likeness(strong, self.config.temperature)
        )
        terms = {"instance": Term(context.mean(instance), warm * self.config.w_in)}
        state = {"class_history": history} | self.remember(
            bank, tf.stop_gradient(labeled), batch, context
        )
        return Guess(target, mask, terms, state=state)

    def remember(
        self, bank: Bank, features: tf.Tensor, batch: Batch, context: Context
    ) -> dict[str, tf.Tensor]:
        """Moves the bank's features of this batch's labelled images, on all replicas alike.

        An image that occurs twice in the batch counts with the mean of its features; one that is
        seen for the first time is taken over as it is.

        Args:
          features: float32 [B, D], projected, of length 1.
        """
        places = context.gather(batch.labeled_index)
        rows = context.gather(features)
        hard = context.gather(tf.one_hot(batch.labels, self.num_classes))
        count = self.task.num_labeled
        mean = tf.math.unsorted_segment_mean(rows, places, count)
        now = tf.math.unsorted_segment_max(hard, places, count) > 0
        here = tf.reduce_any(now, -1, keepdims=True)
        known = tf.reduce_sum(bank.classes, -1, keepdims=True) > 0
        moved = tf.where(known, _KEPT * bank.features + (1.0 - _KEPT) * mean, mean)
        moved = tf.nn.l2_normalize(moved, -1)
        return {
            "bank_features": tf.where(here, moved, bank.features),
            "bank_classes": tf.where(here, tf.cast(now, tf.float32), bank.classes),
        }


def exchange(
    guess: tf.Tensor, likeness: tf.Tensor, bank: Bank, smoothing: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Lets the class guess and the likeness to the bank correct each other (eq. 7 to 10).

    Args:
      guess: float32 [n, C], aligned.
      likeness: float32 [n, N], over the bank's images.
      smoothing: share of the guess in the smoothed target.

    Returns:
      The smoothed guess, smoothing·p + (1 − smoothing)·(likeness summed by class), [n, C]; the
      calibrated likeness t' ~ t·p[class of the image], normalised, [n, N].
    """
    by_class = tf.matmul(likeness, bank.classes)
    smoothed = smoothing * guess + (1.0 - smoothing) * by_class
    calibrated = likeness * tf.matmul(guess, bank.classes, transpose_b=True)
    total = tf.reduce_sum(calibrated, -1, keepdims=True)
    return smoothed, tf.math.divide_no_nan(calibrated, total)
