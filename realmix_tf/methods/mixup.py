"""MixUp of labelled and unlabelled images (Zhang et al. 2018, arXiv:1710.09412), as a baseline."""

from __future__ import annotations

from dataclasses import dataclass

from realmix_tf.lazy import tf
from realmix_tf.methods import distances, mixing, targets
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


@register("mixup")
class Mixup(Method):
    """L = mean CE(mixed x) + mean CE(mixed u against the mix of what the network says of both)."""

    @dataclass(frozen=True)
    class Config:
        beta: float = option(0.75, "MixUp: λ ~ Beta(beta, beta), one a row.", 1e-3, 1e3)

    config: Config

    def views(self) -> Views:
        return Views(unlabeled=("weak",))

    def losses(self, batch: Batch, network: NetworkFunction, context: Context) -> StepResult:
        images, unlabeled = batch.labeled["weak"], batch.unlabeled["weak"]
        hard = targets.one_hot(batch.labels, self.num_classes)
        mixed, labels = mixing.mix_reversed(
            images, hard, context.seed("mixup/labeled"), self.config.beta
        )
        logits = network(mixed, training=True, update_stats=True).logits
        guess = network(unlabeled, training=True, update_stats=False).logits
        mixed_unlabeled, guessed = mixing.mix_reversed(
            unlabeled,
            tf.stop_gradient(tf.nn.softmax(guess)),
            context.seed("mixup/unlabeled"),
            self.config.beta,
        )
        student = network(mixed_unlabeled, training=True, update_stats=False).logits
        terms = {
            "xe": Term(context.mean(distances.cross_entropy(labels, logits))),
            "xeu": Term(context.mean(distances.cross_entropy(guessed, student))),
        }
        return StepResult(terms)
