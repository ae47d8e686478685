"""CoMatch (Li et al. 2021, arXiv:2011.11183): class guesses and features learn from each other.

Guesses are smoothed by those of earlier images with like features (equations 6 to 8); images whose
guesses agree are pulled together (the graph of pseudo labels, equations 9 to 12).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from realmix_tf.lazy import tf
from realmix_tf.methods import alignment, distances, heads, masks, metrics
from realmix_tf.methods.annealing import KIMG
from realmix_tf.methods.base import (
    SGD,
    Batch,
    Context,
    FeatureMap,
    Method,
    NetworkFunction,
    StepResult,
    Term,
    Views,
    option,
    register,
)
from realmix_tf.methods.weak_strong import ThresholdConfig, predict_together


@register("comatch")
class CoMatch(Method):
    """L = CE(x) + wu·mean of 1[max q ≥ τ]·CE(q, p(strong₀)) + w_ctr·CE(graph, likeness) (eq. 5)."""

    @dataclass(frozen=True)
    class Config(ThresholdConfig):
        temperature: float = option(0.2, "Temperature T of likenesses.", 1e-3, 1e3)
        smoothing: float = option(0.9, "Share of the guess itself in the smoothed one.", 0, 1)
        edge: float = option(0.8, "Least agreement of two guesses that are linked.", 0, 1)
        w_ctr: float = option(1.0, "Weight of the contrastive term; 5 was used for STL-10.", 0)
        proj_size: int = option(64, "Width of the projected features.", 1, 4096)
        queue_batch: int = option(5, "Updates the memory of features reaches back.", 1, 1024)
        warmup_kimg: float = option(
            0.0, "Thousands (1024) of labelled images before the memory, once full, is believed.", 0
        )

    config: Config
    recipe = SGD
    augment = "d.d.rau"

    def views(self) -> Views:
        return Views(unlabeled=("weak", "strong0", "strong1"), ratio=self.config.uratio)

    def heads(self, seed: int, features: int, feature_map: FeatureMap) -> dict[str, tf.Tensor]:
        return heads.projection_weights(features, self.config.proj_size, seed)

    def initial_state(self) -> dict[str, tf.Tensor]:
        rows = self.config.queue_batch * (self.config.uratio + 1) * self.task.batch
        return {
            "memory_features": tf.zeros([rows, self.config.proj_size]),
            "memory_guesses": tf.zeros([rows, self.num_classes]),
            "class_history": tf.zeros([alignment.SHORT_HISTORY, self.num_classes]),
        }

    def losses(self, batch: Batch, network: NetworkFunction, context: Context) -> StepResult:
        unlabeled = (batch.unlabeled[name] for name in self.views().unlabeled)
        outputs = predict_together(network, [batch.labeled["weak"], *unlabeled])
        labeled, weak, strong, _ = (output.logits for output in outputs)
        features = [heads.projection(context.weights, output.features) for output in outputs]
        guess = tf.stop_gradient(tf.nn.softmax(weak))
        history = tf.convert_to_tensor(context.state["class_history"])
        aligned, history = alignment.align_to_uniform(guess, history, context.batch_mean(guess))
        smoothed = self.smooth(aligned, features[1], context)
        mask = masks.at_least(tf.reduce_max(smoothed, -1), self.config.confidence)
        contrast = self.contrast(smoothed, features[2], features[3], context)
        terms = {
            "xe": Term(context.mean(distances.cross_entropy(batch.labels, labeled))),
            "xeu": Term(
                context.mean(mask * distances.cross_entropy(smoothed, strong)), self.config.wu
            ),
            "contrast": Term(context.mean(contrast), self.config.w_ctr),
        }
        hard = tf.one_hot(batch.labels, self.num_classes)
        state = {"class_history": history} | self.remember(
            {
                "memory_features": (tf.stop_gradient(features[1]), tf.stop_gradient(features[0])),
                "memory_guesses": (aligned, hard),
            },
            context,
        )
        return StepResult(terms, metrics.pseudo_labels(smoothed, mask, context), state)

    def smooth(self, guess: tf.Tensor, features: tf.Tensor, context: Context) -> tf.Tensor:
        """q = α·p + (1 − α)·Σ_k a_k·p_k over the memory, once warm: [n, C], [n, D] → [n, C]."""
        memory = tf.convert_to_tensor(context.state["memory_features"])
        likeness = tf.matmul(features, memory, transpose_b=True) / self.config.temperature
        remembered = tf.matmul(
            tf.nn.softmax(likeness), tf.convert_to_tensor(context.state["memory_guesses"])
        )
        # Until the memory is full it would pull guesses towards nothing.
        full = self.config.queue_batch * self.task.batch
        warm = context.images >= max(self.config.warmup_kimg * KIMG, full)
        share = tf.where(warm, self.config.smoothing, 1.0)
        return tf.stop_gradient(share * guess + (1.0 - share) * remembered)

    def contrast(
        self, guess: tf.Tensor, first: tf.Tensor, second: tf.Tensor, context: Context
    ) -> tf.Tensor:
        """CE of each image's row of the graph against its likenesses over the global batch.

        Args:
          guess: float32 [n, C], smoothed.
          first, second: float32 [n, D], projected features of the two strong views.

        Returns:
          float32 [n].
        """
        others = context.gather(guess)
        agreement = tf.matmul(guess, others, transpose_b=True)
        rows = tf.shape(guess)[0]
        oneself = context.replica * rows + tf.range(rows)
        itself = oneself[:, None] == tf.range(tf.shape(others)[0])[None, :]
        agreement = tf.where(itself, 1.0, agreement)
        linked = tf.where(agreement >= self.config.edge, agreement, 0.0)
        graph = linked / tf.reduce_sum(linked, -1, keepdims=True)
        likeness = tf.matmul(first, context.gather(second), transpose_b=True)
        return distances.cross_entropy(graph, likeness / self.config.temperature)

    def remember(
        self, blocks: Mapping[str, tuple[tf.Tensor, ...]], context: Context
    ) -> dict[str, tf.Tensor]:
        """Puts this update's rows into the memory in place of the oldest.

        Args:
          blocks: name of the state → blocks of rows, in the order they are put there.
        """
        state = {}
        for name, rows in blocks.items():
            newest = tf.concat([context.gather(block) for block in rows], 0)
            memory = tf.convert_to_tensor(context.state[name])
            state[name] = tf.concat([memory[tf.shape(newest)[0] :], newest], 0)
        return state
