"""AdaMatch (Berthelot et al. 2022, arXiv:2106.04732), for unlabelled images of another kind.

Three changes to FixMatch: logits of labelled images lie at random between those of a pass with
labelled images alone and those of the joint pass; guesses are aligned to the class distribution
predicted on labelled images; and the threshold is relative to the confidence on those.
"""

from __future__ import annotations

from dataclasses import dataclass

from realmix_tf.lazy import tf
from realmix_tf.methods import alignment, annealing, distances, masks, metrics
from realmix_tf.methods.base import (
    Batch,
    Context,
    Method,
    NetworkFunction,
    Recipe,
    StepResult,
    Term,
    Views,
    option,
    register,
)
from realmix_tf.methods.weak_strong import WeakStrongConfig, predict_together


@register("adamatch")
class AdaMatch(Method):
    """L = mean CE of both labelled views + μ(t)·wu·mean of 1[max p̃ ≥ c_τ]·CE(argmax p̃, p(strong)).

    c_τ is ``confidence`` times the mean confidence on weak labelled views (relative threshold), p̃
    the aligned guess, μ a cosine from 0 to 1 over the first half of the run.
    """

    @dataclass(frozen=True)
    class Config(WeakStrongConfig):
        uratio: int = option(3, "Unlabelled images for each labelled one.", 1, 256)
        confidence: float = option(
            0.9, "τ, the threshold's share of the mean confidence on labelled images.", 0, 1
        )

    config: Config
    recipe = Recipe("sgd", lr=0.03, lr_final=0.25, wd=1e-3, wd_mode="l2")
    augment = "d.d.cta"

    def views(self) -> Views:
        return Views(("weak", "strong"), ("weak", "strong"), self.config.uratio)

    def initial_state(self) -> dict[str, tf.Tensor]:
        return {
            "labeled_mean": alignment.uniform(self.num_classes),
            "unlabeled_history": alignment.uniform_history(alignment.HISTORY, self.num_classes),
        }

    def losses(self, batch: Batch, network: NetworkFunction, context: Context) -> StepResult:
        labeled = tf.concat([batch.labeled["weak"], batch.labeled["strong"]], 0)
        views = labeled, batch.unlabeled["weak"], batch.unlabeled["strong"]
        joint, weak, strong = (o.logits for o in predict_together(network, views))
        alone = network(labeled, training=True, update_stats=False).logits
        # Random logit interpolation; gradients take both ways.
        share = tf.random.stateless_uniform(tf.shape(joint), context.seed("interpolate"))
        logits = joint + share * (alone - joint)
        weak_labeled = tf.stop_gradient(tf.nn.softmax(tf.split(logits, 2)[0]))
        guess = tf.stop_gradient(tf.nn.softmax(weak))
        aligned, state = self.align(guess, weak_labeled, context)
        usual = context.batch_mean(tf.reduce_max(weak_labeled, -1))
        threshold = self.config.confidence * usual
        mask = masks.at_least(tf.reduce_max(aligned, -1), threshold)
        unlabeled = mask * distances.cross_entropy(tf.argmax(aligned, -1), strong)
        labels = tf.concat([batch.labels, batch.labels], 0)
        weight = self.config.wu * annealing.cosine_ramp(context.progress)
        terms = {
            "xe": Term(context.mean(distances.cross_entropy(labels, logits))),
            "xeu": Term(context.mean(unlabeled), weight),
        }
        numbers = metrics.pseudo_labels(aligned, mask, context)
        numbers["thresholds/relative"] = context.mean(threshold[None])
        return StepResult(terms, numbers, state)

    def align(
        self, guess: tf.Tensor, labeled: tf.Tensor, context: Context
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """p̃ from averages that this update is part of already, and these averages.

        Args:
          guess: p(weak) of unlabelled images; labeled: of labelled ones; float32 [·, C].
        """
        old = {name: tf.convert_to_tensor(value) for name, value in context.state.items()}
        mean = alignment.moved(old["labeled_mean"], context.batch_mean(labeled), 0.999)
        history = alignment.push(old["unlabeled_history"], context.batch_mean(guess))
        aligned = alignment.align(guess, mean, tf.reduce_mean(history, 0))
        return aligned, {"labeled_mean": mean, "unlabeled_history": history}
