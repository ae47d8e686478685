"""What an update reads: views of the images at its positions, as a tf.data pipeline."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from realmix_tf.augment.ctaugment import CTAugment
from realmix_tf.augment.slots import Policies, SlotPolicy
from realmix_tf.augment.views import to_float
from realmix_tf.data.sampling import permuted
from realmix_tf.data.stores import ImageStore
from realmix_tf.data.training_data import TrainingData
from realmix_tf.errors import UsageError
from realmix_tf.methods.base import Batch, Views
from realmix_tf.randomness import uniforms
from realmix_tf.training.learned_views import PROBE, Unfinished

_PREFETCH = 4  # updates


class TrainingInput:
    """Batches by update number.

    Args:
      data: the sets.
      views: what the method reads.
      policies: how views are made.
      batch: labelled images an update, over all replicas.
      seed: of order and augmentation.
      replicas: parts each batch is cut into, in order of position.
      shuffle: epochs in shuffled order; otherwise in file order.

    Attributes:
      learned: ``labeled/strong`` → the learned policy that the update finishes this view with;
        with any there is ``labeled/probe``, too.

    Raises:
      UsageError: the batch does not divide by the replicas, the method needs unlabelled images
        that are not there, or a policy does not fit the image size.
    """

    def __init__(
        self,
        data: TrainingData,
        views: Views,
        policies: Policies,
        batch: int,
        seed: int,
        replicas: int = 1,
        shuffle: bool = True,
    ) -> None:
        if batch % replicas:
            raise UsageError(
                f"a batch of {batch} does not divide by {replicas} devices",
                "--batch",
                f"a multiple of {replicas}",
            )
        if views.unlabeled and data.unlabeled is None:
            raise UsageError(
                "the method reads unlabelled images but there are none",
                "--dataset",
                "a split with unlabelled images, or --method=supervised",
            )
        self.data, self.views, self.policies = data, views, policies
        self.batch, self.seed, self.replicas, self.shuffle = batch, seed, replicas, shuffle
        used = {f"labeled/{name}": self._policy("labeled", name) for name in views.labeled}
        used |= {f"unlabeled/{name}": self._policy("unlabeled", name) for name in views.unlabeled}
        for policy in used.values():
            if min(data.shape[:2]) < policy.min_size:
                raise UsageError(
                    f"augmentation {policy.name!r} needs images of {policy.min_size} pixels or "
                    f"more, these are {data.shape[0]}×{data.shape[1]}",
                    "--augment",
                    "digits or none",
                )
        self.learned = {
            name: policy.strong
            for name, policy in used.items()
            if isinstance(policy.strong, CTAugment)
        }
        if self.learned:
            self.learned[f"labeled/{PROBE}"] = next(iter(self.learned.values()))

    def dataset(self, start_update: int) -> tf.data.Dataset:
        """Endless elements ``Batch``, one a replica in turn, from ``start_update`` on.

        Views of a learned policy are ``Unfinished`` (see ``realmix_tf.training.learned_views``),
        and labelled images have the view ``PROBE`` then.
        """
        first = start_update * self.replicas
        parts = tf.data.Dataset.range(first, tf.int64.max)
        batches = parts.map(self.part, num_parallel_calls=2, deterministic=True)
        options = tf.data.Options()
        options.autotune.enabled = False
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return batches.prefetch(_PREFETCH * self.replicas).with_options(options)

    def part(self, number: tf.Tensor) -> Batch:
        """The part of an update that one replica reads: number = update·replicas + replica."""
        rows = self.batch // self.replicas
        start = number * rows
        chosen, images = self._images("labeled", self.data.labeled, start, rows)
        labeled = {n: self._view("labeled", n, images, start) for n in self.views.labeled}
        if self.learned:
            labeled[PROBE] = self._probe(images, start)
        labels = tf.gather(tf.constant(self.data.labeled.labels), chosen)
        if not self.views.unlabeled or self.data.unlabeled is None:
            return Batch(labeled, labels, {}, chosen)
        rows *= self.views.ratio
        start = number * rows
        places, images = self._images("unlabeled", self.data.unlabeled, start, rows)
        unlabeled = {n: self._view("unlabeled", n, images, start) for n in self.views.unlabeled}
        return Batch(labeled, labels, unlabeled, chosen, places)

    def _images(
        self, purpose: str, store: ImageStore, start: tf.Tensor, rows: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Which images stand at the positions from ``start`` on, and their pixels."""
        positions = start + tf.range(rows, dtype=tf.int64)
        if self.shuffle:
            chosen = permuted(positions, len(store), self.seed, purpose)
        else:
            chosen = positions % len(store)
        return chosen, tf.ensure_shape(store.gather(chosen), [rows, *store.shape])

    def _view(self, kind: str, name: str, images: tf.Tensor, start: tf.Tensor) -> Any:
        policy, purpose = self._policy(kind, name), f"{kind}/{name}"
        numbers = uniforms(self.seed, purpose, start, images.shape[0], policy.width)
        if policy.learned:
            return self._unfinished(policy, images, numbers)
        return to_float(policy(images, numbers))

    def _probe(self, images: tf.Tensor, start: tf.Tensor) -> Unfinished:
        learner = self.learned[f"labeled/{PROBE}"]
        policy = SlotPolicy(PROBE, self.policies.labeled.weak, learner)
        numbers = uniforms(
            self.seed, f"labeled/{PROBE}", start, images.shape[0], policy.probe_width
        )
        return self._unfinished(policy, images, numbers)

    def _unfinished(self, policy: SlotPolicy, images: tf.Tensor, numbers: tf.Tensor) -> Unfinished:
        width = policy.weak.width
        return Unfinished(policy.weak(images, numbers[:, :width]), numbers[:, width:])

    def _policy(self, kind: str, name: str) -> SlotPolicy:
        if name.startswith("strong"):
            return self.policies.strong
        return self.policies.labeled if kind == "labeled" else self.policies.weak
