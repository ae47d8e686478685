"""Stand-ins for the engine's side of the contract: one replica, a linear network."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from realmix_tf.methods.base import Batch, Method, Task
from realmix_tf.methods.registry import get_method

CHANNELS = 2
FEATURES = 6
MAP_SHAPE = (2, 2, 3)


class Output(NamedTuple):
    logits: tf.Tensor
    features: tf.Tensor
    feature_map: tf.Tensor


class Call(NamedTuple):
    images: np.ndarray
    training: bool
    update_stats: bool


class LinearNetwork:
    """Logits, features and feature map are linear in the pixels; remembers how it was called.

    ``moving_mean`` follows the pixels as batch normalisation's average follows a batch. With
    ``centred`` a training pass subtracts its batch's mean pixels first, so that it matters which
    rows pass together.
    """

    def __init__(
        self,
        pixels: int,
        classes: int,
        seed: int = 0,
        scale: float = 0.4,
        centred: bool = False,
    ) -> None:
        random = np.random.default_rng(seed)

        def variable(width: int, deviation: float = 0.3) -> tf.Variable:
            return tf.Variable(deviation * random.normal(size=(pixels, width)), dtype=tf.float32)

        self.weights = variable(classes, scale)
        self.feature_weights = variable(FEATURES)
        self.map_weights = variable(int(np.prod(MAP_SHAPE)))
        self.moving_mean = np.zeros(pixels, np.float32)
        self.centred = centred
        self.calls: list[Call] = []

    @property
    def variables(self) -> list[tf.Variable]:
        return [self.weights, self.feature_weights, self.map_weights]

    def __call__(self, images, *, training, update_stats):
        self.calls.append(Call(np.asarray(images), training, update_stats))
        x = tf.reshape(images, [images.shape[0], -1])
        mean = tf.reduce_mean(x, 0)
        if update_stats:
            self.moving_mean = 0.999 * self.moving_mean + 0.001 * mean.numpy()
        if self.centred and training:
            x -= mean
        feature_map = tf.reshape(x @ self.map_weights, [-1, *MAP_SHAPE])
        return Output(x @ self.weights, x @ self.feature_weights, feature_map)


class Context:
    """One replica; seeds depend on the purpose only; the teacher's answers carry no gradient."""

    def __init__(
        self,
        images: float = 0.0,
        progress: float = 0.0,
        state=None,
        weights=None,
        teacher: LinearNetwork | None = None,
    ) -> None:
        self.images = tf.constant(images, tf.float32)
        self.progress = tf.constant(progress, tf.float32)
        self.replica = tf.constant(0)
        self.state = {name: tf.Variable(value) for name, value in (state or {}).items()}
        self.weights = weights or {}
        self.teacher_network = teacher

    def seed(self, purpose):
        return tf.constant([zlib.crc32(purpose.encode()) & 0x7FFFFFFF, 5], tf.int32)

    def mean(self, per_row):
        return tf.reduce_mean(per_row)

    def masked_mean(self, per_row, mask):
        return tf.reduce_sum(per_row * mask) / tf.maximum(tf.reduce_sum(mask), 1.0)

    def total(self, value):
        return value

    def batch_mean(self, rows):
        return tf.reduce_mean(rows, 0)

    def gather(self, rows):
        return tf.convert_to_tensor(rows)

    def teacher(self, images):
        output = self.teacher_network(images, training=True, update_stats=False)
        return Output(*map(tf.stop_gradient, output))


def task(classes: int = 5, rows: int = 8, side: int = 3, **changed) -> Task:
    """A task of ``rows`` labelled images an update, 24 labelled and 60 unlabelled in all."""
    usual = {"num_labeled": 24, "num_unlabeled": 60, "image_size": (side, side)}
    return Task(num_classes=classes, batch=rows, **(usual | changed))


def method_of(name: str, of: Task | None = None, **options) -> Method:
    """A method by name, with its options, for a task."""
    found = get_method(name)
    return found(found.Config(**options), of or task())


def weak(count: int) -> tuple[str, ...]:
    """``weak0``, ``weak1``, …"""
    return tuple(f"weak{index}" for index in range(count))


def make_batch(
    rows: int,
    classes: int,
    unlabeled: Sequence[str] = (),
    labeled: Sequence[str] = ("weak",),
    ratio: int = 1,
    side: int = 3,
    seed: int = 1,
    num_labeled: int = 24,
    num_unlabeled: int = 60,
) -> Batch:
    """Random images under the names of views; no image occurs twice."""
    random = np.random.default_rng(seed)

    def images(count: int) -> tf.Tensor:
        return tf.constant(random.uniform(-1, 1, (count, side, side, CHANNELS)), tf.float32)

    first = {name: images(rows) for name in labeled}
    labels = tf.constant(random.integers(0, classes, rows))
    second = {name: images(ratio * rows) for name in unlabeled}
    return Batch(
        first,
        labels,
        second,
        tf.constant(random.choice(max(num_labeled, rows), rows, replace=False)),
        tf.constant(random.choice(max(num_unlabeled, ratio * rows), ratio * rows, replace=False)),
    )


def batch_of(method: Method, seed: int = 1) -> Batch:
    """A batch of the views a method reads."""
    views, of = method.views(), method.task
    return make_batch(
        of.batch,
        of.num_classes,
        views.unlabeled,
        views.labeled,
        views.ratio,
        of.image_size[0],
        seed,
        of.num_labeled,
        of.num_unlabeled,
    )


def network_of(method: Method, **options) -> LinearNetwork:
    """A linear network for the images of a method's task."""
    height, width = method.task.image_size
    return LinearNetwork(height * width * CHANNELS, method.num_classes, **options)


def context_of(method: Method, seed: int = 0, **options) -> Context:
    """A context with a method's initial state and weights (moved, so that no bias is 0)."""
    heads = method.heads(seed, FEATURES, MAP_SHAPE)
    random = np.random.default_rng(seed)
    weights = {
        name: tf.Variable(value + 0.1 * random.normal(size=value.shape))
        for name, value in heads.items()
    }
    return Context(**({"state": method.initial_state(), "weights": weights} | options))


def numbers(values) -> dict[str, np.ndarray]:
    """Tensors or variables by name → arrays by name."""
    return {name: tf.convert_to_tensor(value).numpy() for name, value in values.items()}


def show(logits: np.ndarray, side: int = 3) -> tf.Tensor:
    """Images whose first pixels are these logits, for a network that ``tells``."""
    images = np.zeros((len(logits), side * side * CHANNELS), np.float32)
    images[:, : logits.shape[1]] = logits
    return tf.constant(images.reshape(len(logits), side, side, CHANNELS))


def tells(network: LinearNetwork) -> LinearNetwork:
    """Makes the logits of an image its first pixels."""
    network.weights.assign(np.eye(*network.weights.shape))
    return network


def total_of(result) -> tf.Tensor:
    return tf.add_n([term.value * term.weight for term in result.terms.values()])
