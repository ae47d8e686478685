"""Networks of other kinds in the engine: they train, and continue bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tiny import CLASSES, ROWS, batches_for, method, run, settings, snapshot

from realmix_tf.methods.base import Batch
from realmix_tf.nets.spec import NetworkSpec
from realmix_tf.training import checkpoint
from realmix_tf.training.engine import Engine

SPEC = NetworkSpec("keras:MobileNetV2", CLASSES, 32, 32, 1, bn_decay=0.9)


def _batches(count: int) -> list[Batch]:
    random = np.random.default_rng(0)
    return [
        Batch(
            {"weak": random.uniform(-1, 1, (ROWS, 32, 32, 1)).astype(np.float32)},
            random.integers(0, CLASSES, ROWS),
            {},
        )
        for _ in range(count)
    ]


def test_a_model_of_keras_applications_trains_and_continues_bit_for_bit(tmp_path):
    values = _batches(4)
    whole = Engine(method("supervised"), SPEC, settings(lr=0.01))
    start = snapshot(whole)
    first = run(whole, values[:2])
    checkpoint.save(tmp_path, 2 * ROWS, whole.variables(), {})
    rest = run(whole, values[2:], start=2)
    wanted = snapshot(whole)
    assert np.isfinite(first["loss/total"]).all()
    for name in ("net/body/Conv1/kernel", "net/body/bn_Conv1/moving_mean", "ema/head/kernel"):
        assert (wanted[name] != start[name]).any(), name

    # Another process builds another engine; its variables have the same names.
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None
    after = Engine(method("supervised"), SPEC, settings(seed=1))
    checkpoint.restore(found, after.variables())
    # The compiled loop is used once more, since compiling is what takes time here.
    restored = snapshot(after)
    for name, variable in whole.variables().items():
        variable.assign(restored[name])
    again = run(whole, values[2:], start=2)
    for name, value in rest.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    for name, value in snapshot(whole).items():
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)


def test_a_network_that_draws_random_numbers_continues_bit_for_bit(tmp_path):
    spec = NetworkSpec("shake", CLASSES, 8, 8, 1, 4, repeat=1, scales=2, dropout=0.3)
    whole, before, after = (
        Engine(method("mean_teacher"), spec, settings(lr=0.01)) for _ in range(3)
    )
    values = batches_for(whole.method, 4)
    wanted = run(whole, values)["loss/total"]
    run(before, values[:2])
    checkpoint.save(tmp_path, 2 * ROWS, before.variables(), {})
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None
    checkpoint.restore(found, after.variables())
    np.testing.assert_array_equal(run(after, values[2:], start=2)["loss/total"], wanted[2:])
    ends = snapshot(whole)
    for name, value in snapshot(after).items():
        np.testing.assert_array_equal(value, ends[name], err_msg=name)


def test_every_pass_of_an_update_and_every_update_draws_numbers_of_its_own():
    seeds = []

    class Watching(type(method("mean_teacher"))):
        def losses(self, batch, network, context):
            result = super().losses(batch, network, context)
            return result._replace(metrics={f"{i}/max": s for i, s in enumerate(seeds)})

    spec = NetworkSpec("small", CLASSES, 8, 8, 1, 4, dropout=0.5)
    made = method("mean_teacher")
    engine = Engine(Watching(made.config, made.task), spec, settings())
    for network in (engine.network, engine.teacher):
        original = network.call

        def recorded(images, training, update_stats, seed, original=original):
            seeds.append(tf.random.stateless_uniform([], seed))
            return original(images, training, update_stats, seed)

        network.call = recorded
    metrics = run(engine, batches_for(made, 2))
    drawn = [float(value) for name in ("0/max", "1/max", "2/max") for value in metrics[name]]
    assert len(set(drawn)) == 6
