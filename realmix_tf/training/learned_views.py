"""Views whose policy learns: the input prepares them, the update finishes them.

CTAugment's rates change with every update. If the input read them, what it reads would depend on
how far it is ahead, and no run could be continued bit for bit. So the input hands over the weakly
augmented pixels with the numbers that decide the rest, and the update applies the rates it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from realmix_tf.augment.ctaugment import Chain, CTAugment, initial_rates
from realmix_tf.augment.views import to_float
from realmix_tf.methods.base import Batch

PROBE = "probe"  # the labelled view that only the policy learns from


class Unfinished(NamedTuple):
    """A view before its learned operations.

    Attributes:
      pixels: uint8 [N, H, W, C], weakly augmented.
      numbers: float32 [N, width] in [0, 1), which decide the operations.
    """

    pixels: tf.Tensor
    numbers: tf.Tensor


class Probe(NamedTuple):
    """What the policy learns from: unfinished views of labelled images and their labels."""

    view: Unfinished
    labels: tf.Tensor


class LearnedViews:
    """The rates of a learned policy and what an update does with them.

    Args:
      policies: ``unlabeled/strong`` → what finishes this view, as ``TrainingInput.learned``; empty
        where no view is learned, and batches pass as they are.
    """

    def __init__(self, policies: Mapping[str, CTAugment]) -> None:
        self.policies = dict(policies)
        self._rates: tf.Variable | None = None
        if policies:
            self._rates = tf.Variable(initial_rates(), trainable=False, name="rates")

    def variables(self) -> dict[str, tf.Variable]:
        """What must be saved, by name."""
        return {} if self._rates is None else {"rates": self._rates}

    def finish(self, batch: Batch) -> tuple[Batch, Probe | tuple[()]]:
        """Applies the current rates.

        Returns:
          The batch with all views float32 in [−1, 1] and without the probe; the probe, or ().
        """
        labeled = dict(batch.labeled)
        view = labeled.pop(PROBE, None)
        finished = batch._replace(
            labeled=self._finish("labeled", labeled),
            unlabeled=self._finish("unlabeled", batch.unlabeled),
        )
        return finished, () if view is None else Probe(Unfinished(*view), batch.labels)

    def learn(
        self,
        probe: Probe,
        predict: Callable[[tf.Tensor], tf.Tensor],
        gather: Callable[[tf.Tensor], tf.Tensor],
    ) -> dict[str, tf.Tensor]:
        """New values of ``variables``: each probed bin moves to how well it was recognised.

        ω = 1 − ½·Σ|p − onehot(y)| = p[y] (ReMixMatch, section 3.2.2).

        Args:
          probe: this replica's part.
          predict: float32 images → probabilities.
          gather: all replicas' rows, the same on each.
        """
        policy = self.policies[f"labeled/{PROBE}"]
        drawn = policy.probe(probe.view.numbers)
        view = to_float(policy.apply(probe.view.pixels, drawn))
        agreement = tf.gather(predict(view), probe.labels, batch_dims=1)
        everywhere = Chain(*(gather(part) for part in drawn))
        return {"rates": policy.updated(self._current(), everywhere, gather(agreement))}

    def _finish(self, kind: str, views: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        finished = {}
        for name, view in views.items():
            if isinstance(view, Unfinished):
                policy = self.policies[f"{kind}/{name}"]
                view = to_float(policy(view.pixels, view.numbers, self._current()))
            finished[name] = view
        return finished

    def _current(self) -> tf.Tensor:
        if self._rates is None:
            raise ValueError("a batch holds views to be finished but no policy learns")
        return tf.convert_to_tensor(self._rates)
