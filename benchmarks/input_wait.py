#!/usr/bin/env python3
"""How much of training's time goes to its input, at 32×32×3 and batch 64.

Waiting is the time an update stands still because its batch is not there yet. Besides, the input
works while the network does, on the same processor: the same engine runs on real batches (sampled,
augmented) and on one batch repeated, in turn, and the difference is what reading and augmenting
cost in all. Beside it stand what the input alone delivers, and what finishing learned views inside
the update (CTAugment) takes.

  python benchmarks/input_wait.py --method=fixmatch --updates=5
  python benchmarks/input_wait.py --method=fixmatch --augment=d.d.rac --updates=5
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

IMAGES, BATCH = 20_000, 64


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="resnet")
    parser.add_argument("--method", default="realmix")
    parser.add_argument("--augment", default="auto", help="as realmix.py's")
    parser.add_argument("--updates", type=int, default=20, help="a round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    from realmix_tf.cli.app import load_tensorflow

    load_tensorflow()
    import tensorflow as tf

    from realmix_tf.augment import codes
    from realmix_tf.augment.slots import slot_policies
    from realmix_tf.data.examples import encode_example
    from realmix_tf.data.images import encode_png
    from realmix_tf.data.record_writer import RecordWriter
    from realmix_tf.data.records import RecordReader
    from realmix_tf.data.stores import ImageStore
    from realmix_tf.data.training_data import TrainingData
    from realmix_tf.methods.base import Task
    from realmix_tf.methods.registry import get_method
    from realmix_tf.nets.spec import NetworkSpec
    from realmix_tf.training.devices import resolve_precision
    from realmix_tf.training.engine import Engine
    from realmix_tf.training.input import TrainingInput
    from realmix_tf.training.settings import TrainSettings

    method_class = get_method(arguments.method)
    method = method_class(method_class.Config(), Task(10, IMAGES, IMAGES, BATCH))
    augmentation = codes.parse(arguments.augment, "cifar10", method_class.augment)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.tfrecord"
        classes, shape = [str(c) for c in range(10)], (32, 32, 3)
        with RecordWriter(
            path, dataset="noise", role="train", classes=classes, shape=shape, provenance={}
        ) as writer:
            for index in range(IMAGES):
                image = rng.integers(0, 256, shape, dtype=np.uint8)
                writer.write(encode_example(encode_png(image), index % 10), index % 10)
        with RecordReader(path) as reader:
            store = ImageStore(reader, np.arange(IMAGES), shape)
        data = TrainingData(tuple(classes), shape, store, store, None, None, {})
        source = TrainingInput(data, method.views(), slot_policies(augmentation), BATCH, seed=0)
        engine = Engine(
            method,
            NetworkSpec(arch=arguments.arch),
            TrainSettings(batch=BATCH, **vars(method_class.recipe)),
            resolve_precision("auto"),
            learned=source.learned,
        )
        real = engine.iterator(source.dataset(0))
        fixed = engine.iterator(
            tf.data.Dataset.from_tensors(next(iter(source.dataset(0)))).repeat()
        )

        def seconds(iterator: object) -> float:
            start = time.perf_counter()
            engine.run(iterator, 0, arguments.updates)
            return (time.perf_counter() - start) / arguments.updates

        for iterator in (real, fixed):
            seconds(iterator)
        pairs = [(seconds(real), seconds(fixed)) for _ in range(arguments.rounds)]
        batches = iter(source.dataset(0))
        waits, updates = [], []
        for _ in range(arguments.updates * arguments.rounds):
            start = time.perf_counter()
            batch = next(batches)
            there = time.perf_counter()
            engine.run(engine.iterator(tf.data.Dataset.from_tensors(batch)), 0, 1)
            waits.append(there - start)
            updates.append(time.perf_counter() - there)
        # The first batch has to be made while nothing else runs.
        waiting = sum(waits[1:]) / (sum(waits[1:]) + sum(updates[1:]))
        finish = tf.function(lambda: tf.nest.flatten(engine.finished(batch)))
        finish()
        start = time.perf_counter()
        for _ in range(20):
            finish()
        finishing = (time.perf_counter() - start) / 20
        for _ in range(20):
            next(batches)
        start = time.perf_counter()
        for _ in range(100):
            next(batches)
        alone = (time.perf_counter() - start) / 100
    with_input, without = (statistics.median(column) for column in zip(*pairs, strict=True))
    share = statistics.median([(a - b) / a for a, b in pairs])
    print(
        f"{arguments.method}, {augmentation.name}, {arguments.arch}, batch {BATCH}, "
        f"{arguments.rounds} rounds in turn"
    )
    print(f"share of the time that updates wait       {100 * waiting:8.2f} %")
    print(f"update on sampled and augmented batches   {1000 * with_input:8.1f} ms (median)")
    print(f"update on one batch repeated              {1000 * without:8.1f} ms (median)")
    print(f"share of the time that input costs        {100 * share:8.1f} %  (median of the rounds)")
    print(f"input alone                               {1000 * alone:8.1f} ms a batch")
    if source.learned:
        print(f"finishing learned views in the update     {1000 * finishing:8.1f} ms a batch")
    return 0


if __name__ == "__main__":
    sys.exit(main())
