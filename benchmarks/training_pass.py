#!/usr/bin/env python3
"""Time and peak memory of one training pass, forward and backward, by what is kept in between.

Every variant runs in a process of its own, in turn, round after round, so that a machine whose
speed drifts treats all alike. ``plain`` keeps what TensorFlow keeps by itself, ``kept`` what the
fused steps keep, ``ours`` makes large activations again in the backward pass, ``again`` all of them
(realmix_tf/nets/fused.py). The memory is that of the whole process, some 0.7 GB of it TensorFlow's.

  python benchmarks/training_pass.py --rows=960 --arch=resnet --filters=32
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = ("plain", "kept", "ours", "again")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="resnet")
    parser.add_argument("--filters", type=int, default=0)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--rows", type=int, default=960)
    parser.add_argument("--precision", default="mixed_bfloat16")
    parser.add_argument("--passes", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(measure(arguments)))
        return 0
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(arguments.rounds):
        for variant in VARIANTS:
            command = [sys.executable, __file__, *sys.argv[1:], f"--variant={variant}"]
            environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT), **os.environ}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            found[variant].append(json.loads(done.stdout.splitlines()[-1]))
    print(
        f"{arguments.arch}, {arguments.rows} rows, {arguments.precision}, {arguments.rounds} rounds"
    )
    print(f"{'':6} {'s a pass':>9} {'CPU s':>7} {'peak GB':>8}")
    for variant, results in found.items():
        wall, cpu, peak = (
            statistics.median(result[key] for result in results) for key in ("wall", "cpu", "peak")
        )
        print(f"{variant:6} {wall:9.3f} {cpu:7.3f} {peak:8.2f}")
    return 0


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Median seconds and processor seconds of a pass, and the process's peak in GB."""
    import tensorflow as tf

    from realmix_tf.nets import fused, layers
    from realmix_tf.nets.build import build_network
    from realmix_tf.nets.spec import NetworkSpec

    if arguments.variant in ("plain", "kept"):
        layers._LARGE = 1 << 62
    elif arguments.variant == "again":
        layers._LARGE = 1
    if arguments.variant == "plain":
        layers.BatchNorm.activated = lambda norm, x, slope, training=False, update_stats=False: (
            fused.activate(norm(x, training=training, update_stats=update_stats), slope)
        )
    size = arguments.size
    spec = NetworkSpec(arguments.arch, height=size, width=size, filters=arguments.filters)
    network = build_network(spec, arguments.precision)
    weights = [variable.value for variable in network.trainable_by_name().values()]

    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = network(images, training=True, update_stats=True, seed=[0, 1]).logits
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
        return tf.add_n([tf.reduce_sum(gradient**2) for gradient in gradients])

    images = tf.random.stateless_uniform([arguments.rows, size, size, 3], [1, 2], -1, 1)
    labels = tf.range(arguments.rows) % 10
    step(images, labels).numpy()
    walls, cpus = [], []
    for _ in range(arguments.passes):
        wall, cpu = time.perf_counter(), time.process_time()
        step(images, labels).numpy()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"wall": statistics.median(walls), "cpu": statistics.median(cpus), "peak": peak}


if __name__ == "__main__":
    sys.exit(main())
