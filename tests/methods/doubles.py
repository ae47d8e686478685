"""Stand-ins for the engine's side of the contract: one replica, a linear network."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from realmix_tf.methods.base import Batch


class Output(NamedTuple):
    logits: tf.Tensor


class LinearNetwork:
    """logits = flattened pixels · weights; remembers how it was called."""

    def __init__(self, pixels: int, classes: int, seed: int = 0, scale: float = 0.4) -> None:
        values = scale * np.random.default_rng(seed).normal(size=(pixels, classes))
        self.weights = tf.Variable(values, dtype=tf.float32)
        self.calls: list[tuple[np.ndarray, bool, bool]] = []

    def __call__(self, images, *, training, update_stats):
        self.calls.append((np.asarray(images), training, update_stats))
        return Output(tf.reshape(images, [images.shape[0], -1]) @ self.weights)


class Context:
    """One replica; seeds depend on the purpose only."""

    def __init__(self, images: float = 0.0, progress: float = 0.0, state=None) -> None:
        self.images, self.progress = tf.constant(images, tf.float32), tf.constant(progress)
        self.state = state or {}

    def seed(self, purpose):
        return tf.constant([zlib.crc32(purpose.encode()) & 0x7FFFFFFF, 5], tf.int32)

    def mean(self, per_row):
        return tf.reduce_mean(per_row)

    def masked_mean(self, per_row, mask):
        return tf.reduce_sum(per_row * mask) / tf.maximum(tf.reduce_sum(mask), 1.0)

    def total(self, value):
        return value


def make_batch(rows: int, classes: int, views: int = 0, side: int = 3, seed: int = 1) -> Batch:
    random = np.random.default_rng(seed)

    def images():
        return tf.constant(random.uniform(-1, 1, (rows, side, side, 2)), tf.float32)

    labeled = {"weak": images()}
    labels = tf.constant(random.integers(0, classes, rows))
    return Batch(labeled, labels, {f"weak{i}": images() for i in range(views)})


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def total_of(result) -> tf.Tensor:
    return tf.add_n([term.value * term.weight for term in result.terms.values()])
