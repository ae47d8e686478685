"""CR-Match (Fan et al. 2021, arXiv:2112.05825): FixMatch whose features know the augmentation.

The classifier should say the same of both views while projected features differ (feature distance
loss), and a second head should tell by which quarter turn an image was rotated.
"""

from __future__ import annotations

from dataclasses import dataclass

from realmix_tf.lazy import tf
from realmix_tf.methods import distances, heads, rotation
from realmix_tf.methods.base import (
    Batch,
    Context,
    FeatureMap,
    NetworkFunction,
    StepResult,
    Term,
    option,
    register,
)
from realmix_tf.methods.fixmatch import FixMatch
from realmix_tf.methods.weak_strong import Guess, Outputs, ThresholdConfig


@register("crmatch")
class CRMatch(FixMatch):
    """FixMatch + w_dist·mean of mask·max(0, cos(W f_weak, W f_strong)) + w_rot·CE(turn)."""

    @dataclass(frozen=True)
    class Config(ThresholdConfig):
        w_dist: float = option(1.0, "Weight of the feature distance term.", 0)
        w_rot: float = option(1.0, "Weight of the rotation term; 0 leaves its pass out.", 0)

    config: Config
    augment = "d.d.rau"

    def check(self, replicas: int) -> None:
        if self.config.w_rot:
            rotation.check(self.task, "--w_rot=0")

    def heads(self, seed: int, features: int, feature_map: FeatureMap) -> dict[str, tf.Tensor]:
        height, width, channels = feature_map
        made = heads.dense_weights("distance", height * width * channels, features, seed)
        if self.config.w_rot:
            made |= heads.dense_weights("rotation/hidden", features, features, seed)
            made |= heads.dense_weights("rotation/output", features, rotation.TURNS, seed)
        return made

    def losses(self, batch: Batch, network: NetworkFunction, context: Context) -> StepResult:
        result = super().losses(batch, network, context)
        if not self.config.w_rot:
            return result
        # As many images as are labelled, each in all four positions.
        some = batch.unlabeled["weak"][: int(batch.labels.shape[0])]
        images, turns = rotation.all_turns(some)
        features = network(images, training=True, update_stats=False).features
        hidden = tf.nn.relu(heads.dense(context.weights, "rotation/hidden", features))
        logits = heads.dense(context.weights, "rotation/output", hidden)
        entropy = distances.cross_entropy(turns, logits)
        turned = {"rotation": Term(context.mean(entropy), self.config.w_rot)}
        return result._replace(terms=result.terms | turned)

    def guess(
        self, probabilities: tf.Tensor, outputs: Outputs, batch: Batch, context: Context
    ) -> Guess:
        guess = super().guess(probabilities, outputs, batch, context)
        likeness = self.likeness(outputs.weak.feature_map, outputs.strong.feature_map, context)
        apart = context.mean(guess.weight * tf.maximum(likeness, 0.0))
        return guess._replace(terms={"distance": Term(apart, self.config.w_dist)})

    def likeness(self, weak: tf.Tensor, strong: tf.Tensor, context: Context) -> tf.Tensor:
        """Cosine of the projected feature maps of two views: twice [N, h, w, c] → float32 [N]."""
        projected = []
        for feature_map in (weak, strong):
            flat = tf.reshape(tf.cast(feature_map, tf.float32), [feature_map.shape[0], -1])
            projected.append(tf.nn.l2_normalize(heads.dense(context.weights, "distance", flat), -1))
        return tf.reduce_sum(projected[0] * projected[1], -1)
