"""FlexMatch (Zhang et al. 2021, arXiv:2110.08263): a threshold a class, by how well it is learnt.

σ_c counts the unlabelled images last guessed as c with confidence ≥ τ (equation 5); β_c = σ_c /
max(max σ, N − Σσ) is how well c is learnt (equations 6 and 11), and its threshold is τ·M(β_c) with
a convex M (equation 12).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from realmix_tf.lazy import tf
from realmix_tf.methods import masks
from realmix_tf.methods.base import Batch, Context, option, register
from realmix_tf.methods.weak_strong import Guess, Outputs, ThresholdConfig, WeakStrong

MAPPINGS = ("convex", "linear", "concave", "low_limit")


@register("flexmatch")
class FlexMatch(WeakStrong):
    """FixMatch with curriculum pseudo labelling; convex thresholds start at 0."""

    @dataclass(frozen=True)
    class Config(ThresholdConfig):
        mapping: str = option(
            "convex",
            "How a class's threshold follows its learning effect b: convex b/(2 − b), linear "
            "(b + 1)/2, concave ln(b + 1)/ln 2, low_limit 1/(2 − b).",
            choices=MAPPINGS,
        )
        thresh_warmup: bool = option(
            True, "Count images without a sure guess yet, so that thresholds rise slowly at first."
        )

    config: Config
    augment = "d.d.rau"

    def initial_state(self) -> dict[str, tf.Tensor]:
        # The class of each image's last sure guess, −1 for none yet. The place behind the last
        # image takes what is not to be remembered.
        return {"sure_class": tf.fill([self.task.num_unlabeled + 1], tf.constant(-1, tf.int32))}

    def guess(
        self, probabilities: tf.Tensor, outputs: Outputs, batch: Batch, context: Context
    ) -> Guess:
        remembered = tf.convert_to_tensor(context.state["sure_class"])
        thresholds = self.thresholds(remembered[:-1])
        confidence, guessed = tf.reduce_max(probabilities, -1), tf.argmax(probabilities, -1)
        mask = masks.at_least(confidence, tf.gather(thresholds, guessed))
        sure = masks.at_least(confidence, self.config.confidence)
        numbers = {"thresholds/min": tf.reduce_min(thresholds)}
        numbers |= {"thresholds/mean": context.mean(thresholds)}
        state = {"sure_class": self.remember(remembered, batch, guessed, sure, context)}
        return Guess(guessed, mask, metrics=numbers, state=state)

    def thresholds(self, sure_class: tf.Tensor) -> tf.Tensor:
        """int32 [N], each image's last sure guess or −1 → float32 [C] in [0, τ]."""
        counts = tf.math.bincount(
            sure_class + 1, minlength=self.num_classes + 1, maxlength=self.num_classes + 1
        )
        learnt = tf.cast(counts[1:], tf.float32)
        most = tf.reduce_max(learnt)
        if self.config.thresh_warmup:
            most = tf.maximum(most, tf.cast(counts[0], tf.float32))
        effect = learnt / tf.maximum(most, 1.0)
        return self.config.confidence * mapped(effect, self.config.mapping)

    def remember(
        self,
        remembered: tf.Tensor,
        batch: Batch,
        guessed: tf.Tensor,
        sure: tf.Tensor,
        context: Context,
    ) -> tf.Tensor:
        """Overwrites the class of the images that now have a sure guess, on all replicas alike."""
        nowhere = tf.constant(self.task.num_unlabeled, tf.int64)
        place = tf.where(sure > 0, batch.unlabeled_index, nowhere)
        places, classes = context.gather(place), context.gather(tf.cast(guessed, tf.int32))
        # Where an epoch ends within the batch an image may be there twice: its later guess stays.
        order = tf.range(tf.shape(places)[0])
        again = (places[:, None] == places[None, :]) & (order[:, None] < order[None, :])
        places = tf.where(tf.reduce_any(again, 1), nowhere, places)
        return tf.tensor_scatter_nd_update(remembered, places[:, None], classes)


def mapped(effect: tf.Tensor, mapping: str) -> tf.Tensor:
    """M(β) of one of ``MAPPINGS``: β in [0, 1] → share of τ in [0, 1]."""
    if mapping == "convex":
        return effect / (2.0 - effect)
    if mapping == "linear":
        return (effect + 1.0) / 2.0
    if mapping == "low_limit":
        return 1.0 / (2.0 - effect)
    return tf.math.log1p(effect) / math.log(2.0)
