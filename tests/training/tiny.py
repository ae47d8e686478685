"""A small engine and batches for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from realmix_tf.methods.base import Batch, Method, StepResult, Task, Term
from realmix_tf.methods.registry import get_method
from realmix_tf.nets.spec import NetworkSpec
from realmix_tf.training.engine import Engine
from realmix_tf.training.settings import TrainSettings

CLASSES, ROWS = 4, 6
SPEC = NetworkSpec("small", CLASSES, 8, 8, 1, 4)
LABELED, UNLABELED = 9, 60
TASK = Task(CLASSES, LABELED, UNLABELED, ROWS, (8, 8))


@dataclass(frozen=True)
class NoOptions:
    pass


def settings(**changed) -> TrainSettings:
    """A thousand updates of ``ROWS`` images, with a report each ten."""
    kimg = ROWS / 1024
    periods = {"train_kimg": 1000 * kimg, "report_kimg": 10 * kimg, "save_kimg": 10 * kimg}
    return TrainSettings(**{"batch": ROWS, **periods, **changed})


def method(name: str, **options) -> Method:
    found = get_method(name)
    return found(found.Config(**options), TASK)


def batches(count: int, views: int = 0, rows: int = ROWS, seed: int = 0) -> list[Batch]:
    random = np.random.default_rng(seed)

    def images():
        return random.uniform(-1, 1, (rows, 8, 8, 1)).astype(np.float32)

    return [
        Batch(
            {"weak": images()},
            random.integers(0, CLASSES, rows),
            {f"weak{i}": images() for i in range(views)},
        )
        for _ in range(count)
    ]


def batches_for(given: Method, count: int, rows: int = ROWS, seed: int = 0) -> list[Batch]:
    """Batches with the views any method reads and the numbers of their images."""
    random = np.random.default_rng(seed)
    views = given.views()

    def images(names, many):
        shape = (many, 8, 8, 1)
        return {name: random.uniform(-1, 1, shape).astype(np.float32) for name in names}

    return [
        Batch(
            images(views.labeled, rows),
            random.integers(0, CLASSES, rows),
            images(views.unlabeled, rows * views.ratio),
            random.integers(0, LABELED, rows),
            random.permutation(UNLABELED)[: rows * views.ratio],
        )
        for _ in range(count)
    ]


def dataset(values: list[Batch]) -> tf.data.Dataset:
    stacked = tf.nest.map_structure(lambda *v: np.stack(v), *values)
    return tf.data.Dataset.from_tensor_slices(stacked)


def run(engine: Engine, values: list[Batch], start: int = 0) -> dict[str, np.ndarray]:
    return engine.run(iter(dataset(values)), start, len(values))


def snapshot(engine: Engine) -> dict[str, np.ndarray]:
    return {name: np.array(v.numpy()) for name, v in engine.variables().items()}


class Silent(Method):
    """A loss without gradient."""

    Config = NoOptions

    def losses(self, batch, network, context):
        network(batch.labeled["weak"], training=True, update_stats=False)
        return StepResult({"xe": Term(tf.constant(0.0))})


class BreaksAt(Method):
    """Cross entropy that is not a number at the updates in ``config``."""

    Config = tuple

    def losses(self, batch, network, context):
        logits = network(batch.labeled["weak"], training=True, update_stats=True).logits
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(batch.labels, logits)
        update = context.images / ROWS
        broken = tf.reduce_any(tf.equal(update, tf.constant(self.config, tf.float32)))
        return StepResult({"xe": Term(context.mean(loss) * tf.where(broken, np.nan, 1.0))})


class Remembers(Method):
    """Keeps the sum of the labels seen, as a method with state does."""

    Config = NoOptions

    def initial_state(self):
        return {"seen": tf.zeros([])}

    def losses(self, batch, network, context):
        logits = network(batch.labeled["weak"], training=True, update_stats=True).logits
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(batch.labels, logits)
        labels = context.total(tf.reduce_sum(tf.cast(batch.labels, tf.float32)))
        seen = context.state["seen"] + labels
        metrics = {"seen/before": context.state["seen"] + 0.0, "seen/max": seen}
        return StepResult({"xe": Term(context.mean(loss))}, metrics, {"seen": seen})
