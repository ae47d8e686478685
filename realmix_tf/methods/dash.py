"""Dash (Xu et al. 2021, arXiv:2109.00650): a threshold on the loss that sinks as training goes on.

After a supervised warm-up with labelled loss ρ̂, an unlabelled row counts while its loss
CE(p(weak), pseudo label) is at most ρ_k = max(C·γ^(−k)·ρ̂, ρ_min).
"""

from __future__ import annotations

from dataclasses import dataclass

from realmix_tf.lazy import tf
from realmix_tf.methods import distances, masks, targets
from realmix_tf.methods.annealing import KIMG
from realmix_tf.methods.base import Batch, Context, option, register
from realmix_tf.methods.weak_strong import Guess, Outputs, WeakStrong, WeakStrongConfig


@register("dash")
class Dash(WeakStrong):
    """Targets are sharpened guesses until the threshold is at its floor, hard ones from then on."""

    @dataclass(frozen=True)
    class Config(WeakStrongConfig):
        gamma: float = option(1.27, "γ, by which the threshold sinks each decay_kimg.", 1)
        start: float = option(1.0001, "C, the first threshold over the loss after warm-up.", 1)
        rho_min: float = option(0.05, "ρ_min, the threshold's floor, in nats.", 0)
        temperature: float = option(
            0.5, "Sharpening of guesses before the floor: softmax of the logits over T.", 1e-3, 1
        )
        warmup_kimg: float = option(
            128.0, "Thousands (1024) of labelled images to train on labels alone at first.", 0
        )
        decay_kimg: float = option(
            640.0, "Thousands (1024) of labelled images from one threshold to the next.", 1e-3
        )

    config: Config
    augment = "d.d.rau"

    def initial_state(self) -> dict[str, tf.Tensor]:
        # ρ̂ is the mean labelled loss of the updates since the last pass over the labelled images
        # before the warm-up's end: their number, and the sum of their losses.
        return {"measured": tf.zeros([]), "loss_sum": tf.zeros([])}

    def guess(
        self, probabilities: tf.Tensor, outputs: Outputs, batch: Batch, context: Context
    ) -> Guess:
        entropy = distances.cross_entropy(batch.labels, outputs.labeled.logits)
        state = self.measure(tf.stop_gradient(entropy), context)
        threshold = self.threshold(state, context.images)
        logits = tf.stop_gradient(outputs.weak.logits)
        soft = tf.nn.softmax(logits / self.config.temperature)
        hard = targets.one_hot(tf.argmax(probabilities, -1), self.num_classes)
        target = tf.where(threshold > self.config.rho_min, soft, hard)
        at_most = 1.0 - masks.above(distances.cross_entropy(target, logits), threshold)
        warm = tf.cast(context.images >= self.config.warmup_kimg * KIMG, tf.float32)
        numbers = {"thresholds/loss": context.mean(threshold[None])}
        return Guess(target, warm * at_most, metrics=numbers, state=state)

    def measure(self, entropy: tf.Tensor, context: Context) -> dict[str, tf.Tensor]:
        """Adds the labelled loss of this update where it belongs to ρ̂: float32 [B] → state."""
        # One pass over the labelled images, and at least one update; without a warm-up the first.
        end = max(self.config.warmup_kimg * KIMG, self.task.batch)
        start = end - max(self.task.num_labeled, self.task.batch)
        within = (context.images >= start) & (context.images < end)
        counts = tf.cast(within, tf.float32)
        return {
            "measured": context.state["measured"] + counts,
            "loss_sum": context.state["loss_sum"] + counts * context.batch_mean(entropy),
        }

    def threshold(self, state: dict[str, tf.Tensor], images: tf.Tensor) -> tf.Tensor:
        """ρ_k: scalar, in nats."""
        first = state["loss_sum"] / tf.maximum(state["measured"], 1.0)
        since = (images - self.config.warmup_kimg * KIMG) / (self.config.decay_kimg * KIMG)
        steps = tf.maximum(tf.floor(since), 0.0)
        sunk = self.config.start * tf.pow(self.config.gamma, -steps) * first
        return tf.maximum(sunk, self.config.rho_min)
