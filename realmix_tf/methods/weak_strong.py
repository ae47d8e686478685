"""What FixMatch and its successors share: a guess on a weak view teaches a strong view.

A method of this family says in ``guess`` what the target of each unlabelled image is and how much
it counts; the passes, the two losses and the numbers to report stand here once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from realmix_tf.lazy import tf
from realmix_tf.methods import distances, metrics
from realmix_tf.methods.base import (
    SGD,
    Batch,
    Context,
    Method,
    NetworkFunction,
    StepResult,
    Term,
    Views,
    option,
)


@dataclass(frozen=True)
class WeakStrongConfig:
    """Options of the whole family."""

    uratio: int = option(7, "Unlabelled images for each labelled one.", 1, 256)
    wu: float = option(1.0, "Weight of the unlabelled term.", 0)


@dataclass(frozen=True)
class ThresholdConfig(WeakStrongConfig):
    """Options of the methods with one fixed threshold."""

    confidence: float = option(0.95, "τ, the confidence from which a guess counts.", 0, 1)


class Outputs(NamedTuple):
    """The network's ``Output`` on each block of a joint pass."""

    labeled: Any
    weak: Any
    strong: Any


class Guess(NamedTuple):
    """What unlabelled images teach.

    Attributes:
      target: int64 [N] classes or float32 [N, C] distributions, without gradient.
      weight: float32 [N] ≥ 0, how much each row counts, without gradient.
      terms, metrics, state: further parts of the method's ``StepResult``.
    """

    target: tf.Tensor
    weight: tf.Tensor
    terms: Mapping[str, Term] = MappingProxyType({})
    metrics: Mapping[str, tf.Tensor] = MappingProxyType({})
    state: Mapping[str, tf.Tensor] = MappingProxyType({})


class WeakStrong(Method):
    """L = mean CE(x) + wu·mean over all unlabelled rows of weight·CE(target, p(strong))."""

    recipe = SGD
    augment = "d.d.rac"
    config: WeakStrongConfig

    def views(self) -> Views:
        return Views(unlabeled=("weak", "strong"), ratio=self.config.uratio)

    def losses(self, batch: Batch, network: NetworkFunction, context: Context) -> StepResult:
        images = batch.labeled["weak"], batch.unlabeled["weak"], batch.unlabeled["strong"]
        outputs = Outputs(*predict_together(network, images))
        probabilities = tf.stop_gradient(tf.nn.softmax(outputs.weak.logits))
        guess = self.guess(probabilities, outputs, batch, context)
        # Divided by all rows, not by those that count: fewer sure guesses are a smaller loss.
        unlabeled = guess.weight * self.distance(guess.target, outputs.strong.logits)
        terms = {
            "xe": Term(self.labeled_loss(outputs, batch, context)),
            "xeu": Term(context.mean(unlabeled), self.unlabeled_weight(context)),
            **guess.terms,
        }
        numbers = metrics.pseudo_labels(probabilities, guess.weight, context)
        return StepResult(terms, {**numbers, **guess.metrics}, guess.state)

    def labeled_loss(self, outputs: Outputs, batch: Batch, context: Context) -> tf.Tensor:
        """This replica's share of the loss on labelled images."""
        return context.mean(distances.cross_entropy(batch.labels, outputs.labeled.logits))

    def distance(self, target: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """How far a strong view's prediction is from its target: float32 [N]."""
        return distances.cross_entropy(target, logits)

    def unlabeled_weight(self, context: Context) -> tf.Tensor | float:
        """The weight of the unlabelled term at this update."""
        return self.config.wu

    def guess(
        self, probabilities: tf.Tensor, outputs: Outputs, batch: Batch, context: Context
    ) -> Guess:
        """Targets and weights.

        Args:
          probabilities: p(weak), float32 [N, C], without gradient.
          outputs: of the joint pass.
        """
        raise NotImplementedError


def predict_together(network: NetworkFunction, images: Sequence[tf.Tensor]) -> list[Any]:
    """One pass over several blocks of images, which share their batch statistics.

    The moving averages follow all rows. Published code interleaves the rows before the pass, which
    matters only for how they are spread over several GPUs; here every replica has its own share.

    Returns:
      One ``Output`` a block.
    """
    sizes = [int(block.shape[0]) for block in images]
    output = network(tf.concat(list(images), 0), training=True, update_stats=True)
    parts = [tf.split(value, sizes) for value in output]
    return [type(output)(*part) for part in zip(*parts, strict=True)]
