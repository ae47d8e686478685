"""Networks on two devices: synchronised statistics, shared statistics."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from realmix_tf.nets.spec import NetworkSpec

pytestmark = pytest.mark.process

_CODE = """
import sys
sys.path.insert(0, {here!r})
import json
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from plain import randomize
from realmix_tf.nets import layers
from realmix_tf.nets.build import build_network
from realmix_tf.nets.spec import NetworkSpec

spec = NetworkSpec.from_json(json.loads({spec!r}))
shape = (6, spec.height, spec.width, 1)
images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
weights = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)

def gradients(network, images, weights):
    values = [v.value for v in network.trainable_by_name().values()]
    with tf.GradientTape() as tape:
        tape.watch(images)
        output = network(images, training=True, update_stats=True)
        loss = tf.reduce_sum(output.logits * weights)
    found = tape.gradient(loss, [images, *values], unconnected_gradients="zero")
    return output.logits, found

def named(network, logits, of_images, of_weights):
    names = list(network.trainable_by_name())
    found = dict(zip(names, of_weights)) | {{"images": of_images, "logits": logits}}
    found |= {{n: v for n, v in network.variables_by_name().items() if "/moving_" in n}}
    return {{n: np.asarray(v) for n, v in found.items()}}

def both(large):
    layers._LARGE = large
    one = build_network(spec, seed=1)
    randomize(one)
    logits, (of_images, *of_weights) = gradients(one, tf.constant(images), tf.constant(weights))
    wanted = named(one, logits, of_images, of_weights)

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        two = build_network(spec, seed=1, synchronized=True)
        teacher = build_network(spec, seed=2)
        teacher.share_statistics(two)
        randomize(two)
    data = tf.data.Dataset.from_tensor_slices((images, weights)).batch(3)
    halves = iter(strategy.distribute_datasets_from_function(lambda context: data))
    local = strategy.experimental_local_results
    @tf.function
    def step(batch):
        def replica(images, weights):
            logits, found = gradients(two, images, weights)
            return logits, found, teacher(images, training=False).logits
        return strategy.run(replica, batch)
    logits, (of_images, *of_weights), taught = step(next(halves))
    logits, of_images, taught = (np.concatenate(local(v)) for v in (logits, of_images, taught))
    found = named(two, logits, of_images, [sum(local(g)) for g in of_weights])
    alone = build_network(spec, seed=2)
    for name, variable in alone.variables_by_name().items():
        value = teacher.variables_by_name()[name]
        variable.assign(np.asarray(value))
    wanted["taught"], found["taught"] = alone(images).logits.numpy(), taught
    return {{n: float(np.abs(found[n] - wanted[n]).max() / (1e-3 + np.abs(wanted[n]).max()))
            for n in wanted}}

print(json.dumps([both(large) for large in {large}]))
"""


@pytest.mark.parametrize(
    ("spec", "tolerance", "large"),
    [
        (NetworkSpec("resnet", 3, 8, 8, 1, 4, scales=2, repeat=2), 1e-4, [1 << 60, 1]),
        # Its last normalisations are over four numbers a row.
        (NetworkSpec("keras:MobileNetV3Small", 3, 64, 64, 1), 5e-3, [1]),
    ],
    ids=lambda value: getattr(value, "arch", ""),
)
def test_two_replicas_with_synchronised_statistics_do_what_one_does(spec, tolerance, large):
    here, described = str(Path(__file__).parent), json.dumps(spec.to_json())
    code = _CODE.format(here=here, spec=described, large=large)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    for differences in json.loads(done.stdout.splitlines()[-1]):
        assert {"images", "logits", "taught", "head/kernel"} < differences.keys()
        for name, difference in differences.items():
            assert difference < tolerance, (name, difference)
