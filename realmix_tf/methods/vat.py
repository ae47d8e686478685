"""Virtual Adversarial Training (Miyato et al. 2018, arXiv:1704.03976) with entropy minimisation.

The prediction should not change in the direction that changes it most, and should be sure.
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

DIRECTIONS = ("reverse", "forward")


@register("vat")
class VAT(Method):
    """L = mean CE(x) + vat·ramp·mean KL(p(u + d) ‖ p(u)) + entmin_weight·mean H(p(u))."""

    @dataclass(frozen=True)
    class Config:
        vat: float = option(0.3, "Weight of the adversarial term, ramped up.", 0)
        vat_eps: float = option(6.0, "Length ‖d‖₂ of the perturbation of an image.", 1e-6)
        vat_xi: float = option(
            1e-6,
            "Length of the step that finds its direction. The published one is lost in rounding, "
            "which still points along sensitive directions; 1 does what the paper means.",
            1e-12,
            1e3,
        )
        entmin_weight: float = option(0.06, "Weight of the entropy, not ramped.", 0)
        warmup_pos: float = option(0.4, "Share of the run over which to ramp up.", 0, 1)
        divergence: str = option(
            "reverse",
            "reverse is KL(p(u + d) ‖ p(u)), as the published baselines; forward is "
            "KL(p(u) ‖ p(u + d)), as the paper.",
            choices=DIRECTIONS,
        )

    config: Config

    def views(self) -> Views:
        return Views(unlabeled=("weak",))

    def losses(self, batch: Batch, network: NetworkFunction, context: Context) -> StepResult:
        labeled = network(batch.labeled["weak"], training=True, update_stats=True).logits
        images = batch.unlabeled["weak"]
        logits = network(images, training=True, update_stats=False).logits
        fixed = tf.stop_gradient(logits)
        moved = images + self.perturbation(images, fixed, network, context)
        perturbed = network(moved, training=True, update_stats=False).logits
        pair = (perturbed, fixed) if self.config.divergence == "reverse" else (fixed, perturbed)
        ramp = annealing.progress_ramp(context.progress, self.config.warmup_pos)
        terms = {
            "xe": Term(context.mean(distances.cross_entropy(batch.labels, labeled))),
            "vat": Term(context.mean(distances.divergence(*pair)), self.config.vat * ramp),
            "entropy": Term(context.mean(distances.entropy(logits)), self.config.entmin_weight),
        }
        return StepResult(terms)

    def perturbation(
        self, images: tf.Tensor, logits: tf.Tensor, network: NetworkFunction, context: Context
    ) -> tf.Tensor:
        """d with ‖d‖₂ = vat_eps an image, by one power iteration; without gradient.

        Args:
          images: float32 [N, H, W, C].
          logits: p(u), float32 [N, classes], without gradient.
        """
        noise = tf.random.stateless_normal(tf.shape(images), context.seed("vat"))
        step = self.config.vat_xi * unit_length(noise)
        with tf.GradientTape() as tape:
            tape.watch(step)
            moved = network(images + step, training=True, update_stats=False).logits
            distance = tf.reduce_sum(distances.divergence(logits, moved))
        slope = tape.gradient(distance, step, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return tf.stop_gradient(self.config.vat_eps * unit_length(slope))


def unit_length(directions: tf.Tensor) -> tf.Tensor:
    """Every image's direction, scaled to length 1: float32 [N, H, W, C].

    First by its largest value, so that the squares of tiny gradients do not vanish.
    """
    largest = tf.reduce_max(tf.abs(directions), [1, 2, 3], keepdims=True)
    scaled = directions / (1e-12 + largest)
    length = tf.sqrt(1e-6 + tf.reduce_sum(scaled**2, [1, 2, 3], keepdims=True))
    return scaled / length
