"""Every method in the engine: bit for bit the same again, and from a checkpoint."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import tensorflow as tf
from tiny import SPEC, TASK, batches_for, run, settings, snapshot

from realmix_tf.methods.registry import FILES, get_method
from realmix_tf.nets.build import build_network
from realmix_tf.training import checkpoint
from realmix_tf.training.engine import Engine

NAMES = [file.__name__.rpartition(".")[2] for file in FILES]
# So that everything a method has is at work within a few updates.
EVERYTHING = {
    "warmup_kimg": 0.001,
    "warmup_pos": 0.001,
    "decay_kimg": 0.01,
    "confidence": 0.3,
    "threshold": 0.3,
    "edge": 0.1,
    "uratio": 3,
    "percent_mask": 0.5,
    "tsa": "linear_schedule",
    "p_unlabeled": "0.1,0.2,0.3,0.4",
    "queue_batch": 2,
}
STATEFUL = {
    "mixmatch", "realmix", "remixmatch", "flexmatch", "freematch", "softmatch", "adamatch", "dash",
    "simmatch", "comatch",
}  # fmt: skip
WITH_HEADS = {"remixmatch", "simmatch", "comatch", "crmatch"}


def engine(name: str, precision: str = "float32", seed: int = 3) -> Engine:
    found = get_method(name)
    options = {k: v for k, v in EVERYTHING.items() if k in found.Config.__dataclass_fields__}
    if name == "dash":
        options["rho_min"] = 1.0
    # 4 rows: ReMixMatch cuts them into four blocks.
    task = TASK.__class__(**{**asdict(TASK), "batch": 4})
    method = found(found.Config(**options), task)
    method.check(1)
    numbers = settings(batch=4, seed=seed, ema=0.9, **asdict(found.recipe))
    return Engine(method, SPEC, numbers, precision)


def assert_same(one, other) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_continued_from_a_checkpoint_is_bit_identical_to_an_uninterrupted_one(name, tmp_path):
    whole = engine(name)
    values = batches_for(whole.method, 5, rows=4)
    start = snapshot(whole)
    metrics = run(whole, values[:3])
    checkpoint.save(tmp_path, 12, whole.variables(), {})
    rest = run(whole, values[3:], start=3)
    assert all(np.isfinite(column).all() for column in [*metrics.values(), *rest.values()])
    assert not metrics["updates/skipped"].any()
    end = snapshot(whole)
    moved = {n.partition("/")[0] for n, v in end.items() if (v != start[n]).any()}
    expected = {"net", "ema", "optimizer"}
    expected |= {"method"} if name in STATEFUL else set()
    expected |= {"heads"} if name in WITH_HEADS else set()
    assert moved == expected
    assert set(whole.heads) == {n.removeprefix("heads/") for n in start if n.startswith("heads/")}

    # The new engine starts elsewhere, so everything it ends with comes from the checkpoint.
    after = engine(name)
    for variable in after.variables().values():
        variable.assign(tf.ones(variable.shape, variable.dtype))
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None
    checkpoint.restore(found, after.variables())
    assert_same(run(after, values[3:], start=3), rest)
    assert_same(snapshot(after), end)


@pytest.mark.parametrize("name", NAMES)
def test_every_trained_weight_gets_a_gradient_and_bfloat16_works_too(name):
    made = engine(name, "mixed_bfloat16")
    start = snapshot(made)
    metrics = run(made, batches_for(made.method, 3, rows=4))
    assert all(np.isfinite(column).all() for column in metrics.values())
    end = snapshot(made)
    for key, value in end.items():
        # A bias before batch normalisation has no effect in training, and no gradient.
        idle = key.startswith("net/conv") and key.endswith("/bias")
        if key.startswith(("net/", "heads/")) and not idle:
            assert (value != start[key]).any(), key


@pytest.mark.parametrize("name", NAMES)
def test_the_moving_averages_move_once_an_update_by_one_pass(name, monkeypatch):
    passes = []
    network = type(build_network(SPEC))
    original = network.call

    def recorded(self, images, training=False, update_stats=False, seed=None):
        passes.append((self, images, training, update_stats))
        return original(self, images, training, update_stats, seed)

    monkeypatch.setattr(network, "call", recorded)
    tf.config.run_functions_eagerly(True)
    try:
        made = engine(name)
        kernel = made.network.variables_by_name()["conv0/kernel"].numpy()
        batch = tf.nest.map_structure(tf.constant, batches_for(made.method, 1, rows=4)[0])
        made._update(batch, tf.constant(0, tf.int64))
    finally:
        tf.config.run_functions_eagerly(False)
    assert all(training for _, _, training, _ in passes)
    moving = [images for who, images, _, moves in passes if moves and who is made.network]
    assert len(moving) == len([p for p in passes if p[3]]) == 1
    channels = tf.nn.conv2d(moving[0], kernel, 1, "SAME").numpy().astype(np.float64)
    moved = snapshot(made)
    mean, variance = channels.mean((0, 1, 2)), channels.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(moved["net/norm0/moving_mean"], 0.001 * mean, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(
        moved["net/norm0/moving_variance"], 0.999 + 0.001 * variance, rtol=1e-6
    )
