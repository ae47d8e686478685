"""What an update reads: views of the images at its positions, as a tf.data pipeline."""

from __future__ import annotations

import tensorflow as tf

from realmix_tf.augment.ops import to_float
from realmix_tf.augment.policies import Policy
from realmix_tf.data.sampling import permuted
from realmix_tf.data.stores import ImageStore
from realmix_tf.data.training_data import TrainingData
from realmix_tf.errors import UsageError
from realmix_tf.methods.base import Batch, Views
from realmix_tf.randomness import uniforms

_PREFETCH = 4


class TrainingInput:
    """Batches by update number.

    Args:
      data: the sets.
      views: what the method reads.
      policy: the weak policy of every view.
      batch: labelled images an update, over all replicas.
      seed: of order and augmentation.
      replicas: parts each batch is cut into, in order of position.
      shuffle: epochs in shuffled order; otherwise in file order.

    Raises:
      UsageError: the batch does not divide by the replicas, the method needs unlabelled images
        that are not there, or the policy does not fit the image size.
    """

    def __init__(
        self,
        data: TrainingData,
        views: Views,
        policy: Policy,
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
        if min(data.shape[:2]) < policy.min_size:
            raise UsageError(
                f"augmentation {policy.name!r} needs images of {policy.min_size} pixels or more, "
                f"these are {data.shape[0]}×{data.shape[1]}",
                "--augment",
                "digits or none",
            )
        self.data, self.views, self.policy = data, views, policy
        self.batch, self.seed, self.replicas, self.shuffle = batch, seed, replicas, shuffle

    def dataset(self, start_update: int) -> tf.data.Dataset:
        """Endless elements ``Batch``, one a replica in turn, from ``start_update`` on."""
        first = start_update * self.replicas
        parts = tf.data.Dataset.range(first, tf.int64.max)
        batches = parts.map(self.part, num_parallel_calls=2, deterministic=True)
        options = tf.data.Options()
        options.autotune.enabled = False
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return batches.prefetch(_PREFETCH).with_options(options)

    def part(self, number: tf.Tensor) -> Batch:
        """The part of an update that one replica reads: number = update·replicas + replica."""
        rows = self.batch // self.replicas
        labeled, labels = self._views(
            "labeled", self.data.labeled, self.views.labeled, number * rows, rows
        )
        unlabeled: dict[str, tf.Tensor] = {}
        if self.views.unlabeled and self.data.unlabeled is not None:
            rows *= self.views.ratio
            unlabeled, _ = self._views(
                "unlabeled", self.data.unlabeled, self.views.unlabeled, number * rows, rows
            )
        return Batch(labeled, labels, unlabeled)

    def _views(
        self, purpose: str, store: ImageStore, names: tuple[str, ...], start: tf.Tensor, rows: int
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        positions = start + tf.range(rows, dtype=tf.int64)
        if self.shuffle:
            chosen = permuted(positions, len(store), self.seed, purpose)
        else:
            chosen = positions % len(store)
        images = tf.ensure_shape(store.gather(chosen), [rows, *store.shape])
        views = {}
        for name in names:
            numbers = uniforms(self.seed, f"{purpose}/{name}", start, rows, self.policy.width)
            views[name] = to_float(self.policy(images, numbers))
        return views, tf.gather(tf.constant(store.labels), chosen)
