"""ReMixMatch (Berthelot et al. 2020, arXiv:1911.09785): MixMatch with anchoring and alignment.

The guess on a weak view anchors K strong views of the same image (section 3.2.1); guesses are
aligned to the labels' class distribution (section 3.1); and the network also has to tell by which
quarter turn a strong view was rotated (section 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from realmix_tf.errors import UsageError
from realmix_tf.lazy import tf
from realmix_tf.methods import (
    alignment,
    annealing,
    distances,
    heads,
    metrics,
    mixing,
    rotation,
    targets,
)
from realmix_tf.methods.base import (
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

REDUX = ("1st", "mean", "swap")


class Guesses(NamedTuple):
    """Targets of the views [weak, strong0, …], each float32 [B, C], and what they leave behind."""

    targets: list[tf.Tensor]
    confidence: tf.Tensor
    state: dict[str, tf.Tensor]


@register("remixmatch")
class ReMixMatch(Method):
    """L = CE(mixed x) + ramp·(w_match·CE(mixed u) + w_kl·CE(strong₀)) + w_rot·CE(turn).

    Equations 3 and 4; algorithm 1.
    """

    @dataclass(frozen=True)
    class Config:
        K: int = option(1, "Strong views of each unlabelled image.", 1, 16)
        beta: float = option(0.75, "MixUp: λ ~ Beta(beta, beta), one a row.", 1e-3, 1e3)
        temperature: float = option(
            0.5, "Sharpening temperature T; 1 leaves guesses as they are.", 1e-3, 1
        )
        w_match: float = option(1.5, "Weight of the mixed unlabelled term, ramped up.", 0)
        w_kl: float = option(0.5, "Weight of the term before mixing, ramped up.", 0)
        w_rot: float = option(0.5, "Weight of the rotation term; 0 leaves its pass out.", 0)
        warmup_kimg: float = option(
            1024.0, "Thousands (1024) of labelled images to ramp weights up.", 0
        )
        redux: str = option(
            "1st",
            "Whose prediction is the target: 1st the weak view's, mean that of all views, swap "
            "each the next one's.",
            choices=REDUX,
        )
        use_dm: bool = option(True, "Align guesses to the class distribution of the labels.")
        use_xe: bool = option(
            True, "Cross entropy on mixed unlabelled rows; else the squared distance (Brier)."
        )
        p_unlabeled: str = option(
            "",
            "Class shares expected among the unlabelled images, separated by commas, instead of "
            "the labels' own.",
        )

    config: Config
    augment = "cta.d.cta"

    def views(self) -> Views:
        strong = (f"strong{index}" for index in range(self.config.K))
        return Views(unlabeled=("weak", *strong))

    def check(self, replicas: int) -> None:
        if self.config.p_unlabeled and not self.config.use_dm:
            raise UsageError(
                "guesses are not aligned, so these shares would not be used",
                "--p_unlabeled",
                "leave out --nouse_dm",
            )
        if self.config.w_rot:
            rotation.check(self.task, "--w_rot=0", self.task.batch // replicas)

    def heads(self, seed: int, features: int, feature_map: FeatureMap) -> dict[str, tf.Tensor]:
        if not self.config.w_rot:
            return {}
        return heads.dense_weights("rotation", features, rotation.TURNS, seed)

    def initial_state(self) -> dict[str, tf.Tensor]:
        if not self.config.use_dm:
            return {}
        if self.config.p_unlabeled:
            alignment.parse_distribution(self.config.p_unlabeled, self.num_classes)
        return {
            "label_share": alignment.uniform(self.num_classes),
            "class_history": alignment.uniform_history(alignment.HISTORY, self.num_classes),
        }

    def losses(self, batch: Batch, network: NetworkFunction, context: Context) -> StepResult:
        views = [batch.unlabeled[name] for name in self.views().unlabeled]
        # Only the first strong view's prediction is trained as it is (the term before mixing).
        logits = [network(view, training=True, update_stats=False).logits for view in views[:2]]
        if self.config.redux != "1st":
            rest = (network(view, training=True, update_stats=False) for view in views[2:])
            logits += [output.logits for output in rest]
        guesses = self.guess(logits, batch.labels, context)
        x_logits, x_labels, u_logits, u_labels = self.predict_mixed(
            batch, views, guesses.targets, network, context
        )
        before_mixing = distances.cross_entropy(guesses.targets[1], logits[1])
        if self.config.use_xe:
            unlabeled = distances.cross_entropy(u_labels, u_logits)
        else:
            unlabeled = distances.squared(u_labels, tf.nn.softmax(u_logits))
        ramp = annealing.linear_ramp(context.images, self.config.warmup_kimg)
        terms = {
            "xe": Term(context.mean(distances.cross_entropy(x_labels, x_logits))),
            "xeu": Term(context.mean(unlabeled), self.config.w_match * ramp),
            "kl": Term(context.mean(before_mixing), self.config.w_kl * ramp),
        }
        if self.config.w_rot:
            images, turns = rotation.turned_blocks(batch.unlabeled["strong0"])
            features = network(images, training=True, update_stats=False).features
            entropy = distances.cross_entropy(
                turns, heads.dense(context.weights, "rotation", features)
            )
            terms["rotation"] = Term(context.mean(entropy), self.config.w_rot)
        return StepResult(terms, metrics.confidence(guesses.confidence, context), guesses.state)

    def guess(self, logits: list[tf.Tensor], labels: tf.Tensor, context: Context) -> Guesses:
        """Aligned and sharpened targets of every view, without gradient.

        Args:
          logits: of the views [weak, strong0, …] as far as ``redux`` reads them, [B, C] each.
          labels: int64 [B], of the labelled rows.
        """
        predictions = [tf.stop_gradient(tf.nn.softmax(view)) for view in logits]
        count = self.config.K + 1
        if self.config.redux == "swap":
            raw = predictions[1:] + predictions[:1]
        elif self.config.redux == "mean":
            raw = [tf.add_n(predictions) / count] * count
        else:
            raw = predictions[:1] * count
        aligned, state = raw, {}
        if self.config.use_dm:
            hard = targets.one_hot(labels, self.num_classes)
            share = tf.convert_to_tensor(context.state["label_share"])
            history = tf.convert_to_tensor(context.state["class_history"])
            wanted = share
            if self.config.p_unlabeled:
                wanted = alignment.parse_distribution(self.config.p_unlabeled, self.num_classes)
            observed = tf.reduce_mean(history, 0)
            aligned = [alignment.align(p, wanted, observed) for p in raw]
            state = {
                "label_share": alignment.moved(share, context.batch_mean(hard), 0.999),
                "class_history": alignment.push(history, context.batch_mean(tf.concat(raw, 0))),
            }
        sharp = [targets.sharpen(p, self.config.temperature) for p in aligned]
        return Guesses(sharp, tf.reduce_max(raw[0], -1), state)

    def predict_mixed(
        self,
        batch: Batch,
        views: list[tf.Tensor],
        guesses: list[tf.Tensor],
        network: NetworkFunction,
        context: Context,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Logits and labels of the mixed labelled [B, C] and unlabelled [(K + 1)·B, C] rows.

        The blocks pass the network one by one; the moving averages follow the last one.
        """
        hard = targets.one_hot(batch.labels, self.num_classes)
        images, labels = mixing.mix_blocks(
            [batch.labeled["weak"], *views],
            [hard, *guesses],
            "xxy.yxy",
            self.config.beta,
            context.seed,
        )
        blocks = mixing.interleave(images)
        logits = [
            network(block, training=True, update_stats=index == len(blocks) - 1).logits
            for index, block in enumerate(blocks)
        ]
        logits = mixing.interleave(logits)
        return logits[0], labels[0], tf.concat(logits[1:], 0), tf.concat(labels[1:], 0)
