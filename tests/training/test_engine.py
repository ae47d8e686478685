"""The engine's update, step by step, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tiny import (
    CLASSES,
    ROWS,
    SPEC,
    TASK,
    BreaksAt,
    NoOptions,
    Remembers,
    Silent,
    batches,
    method,
    run,
    settings,
    snapshot,
)

from realmix_tf.methods.base import Batch
from realmix_tf.nets.build import build_network
from realmix_tf.training import checkpoint
from realmix_tf.training.engine import Engine


def part(values: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


class PlainTraining:
    """Supervised training written out: TF1's Adam, then decay of kernels, then the average."""

    def __init__(self, seed: int, lr: float, wd: float, ema: float) -> None:
        self.network = build_network(SPEC, seed=seed)
        self.lr, self.wd, self.ema = lr, wd, ema
        weights = self.network.trainable_by_name()
        self.weights = {n: v.numpy().astype(np.float64) for n, v in weights.items()}
        self.average = {n: v.copy() for n, v in self.weights.items()}
        self.first = {n: np.zeros_like(v) for n, v in self.weights.items()}
        self.second = {n: np.zeros_like(v) for n, v in self.weights.items()}
        self.steps = 0

    def step(self, batch: Batch) -> float:
        variables = self.network.trainable_by_name()
        for name, variable in variables.items():
            variable.assign(self.weights[name])
        values = [v.value for v in variables.values()]
        with tf.GradientTape() as tape:
            logits = self.network(batch.labeled["weak"], training=True).logits
            loss = tf.reduce_mean(
                tf.nn.softmax_cross_entropy_with_logits(
                    np.eye(CLASSES, dtype=np.float32)[batch.labels], logits
                )
            )
        gradients = tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        self.steps += 1
        rate = self.lr * np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        for name, gradient in zip(variables, gradients, strict=True):
            g = gradient.numpy().astype(np.float64)
            self.first[name] = 0.9 * self.first[name] + 0.1 * g
            self.second[name] = 0.999 * self.second[name] + 0.001 * g * g
            w = self.weights[name] - rate * self.first[name] / (np.sqrt(self.second[name]) + 1e-8)
            if name.endswith("/kernel"):
                w = w * (1 - self.wd * self.lr)
            self.weights[name] = w
            self.average[name] = self.ema * self.average[name] + (1 - self.ema) * w
        return float(loss)


def test_updates_equal_plain_adam_then_decay_of_kernels_then_the_average():
    # A strong decay and a short average, so that their order would show.
    numbers = {"lr": 0.01, "wd": 5.0, "ema": 0.6}
    values = batches(6)
    engine = Engine(method("supervised", smoothing=0.0), SPEC, settings(seed=3, **numbers))
    plain = PlainTraining(3, **numbers)
    losses = [plain.step(batch) for batch in values]
    metrics = run(engine, values)
    np.testing.assert_allclose(metrics["loss/xe"], losses, rtol=1e-4)
    np.testing.assert_allclose(metrics["lr"], 0.01)
    found = snapshot(engine)
    for prefix, values in (("net/", plain.weights), ("ema/", plain.average)):
        for name, value in values.items():
            np.testing.assert_allclose(found[prefix + name], value, atol=2e-5, err_msg=name)


def test_a_step_without_gradient_shrinks_kernels_by_the_published_factor_and_nothing_else():
    engine = Engine(Silent(NoOptions(), TASK), SPEC, settings(wd=0.02, lr=0.002))
    before = snapshot(engine)
    run(engine, batches(1))
    after = snapshot(engine)
    for name, value in part(before, "net/").items():
        if name.endswith("/kernel"):
            np.testing.assert_allclose(after[f"net/{name}"], value * 0.99996, rtol=2e-7)
            assert (after[f"net/{name}"] != value).any()
        else:
            np.testing.assert_array_equal(after[f"net/{name}"], value, err_msg=name)


def test_decoupled_decay_follows_the_rate_of_the_update():
    numbers = {"wd": 2.0, "lr": 0.1, "lr_final": 0.25, "train_kimg": 4 * ROWS / 1024}
    engine = Engine(Silent(NoOptions(), TASK), SPEC, settings(**numbers))
    before = snapshot(engine)
    metrics = run(engine, batches(4))
    rates = 0.1 * np.cos(np.arange(4) / 4 * np.arccos(0.25))
    np.testing.assert_allclose(metrics["lr"], rates, rtol=1e-5)
    factor = np.prod(1 - 2.0 * rates)
    for name, value in part(before, "net/").items():
        expected = value * factor if name.endswith("/kernel") else value
        np.testing.assert_allclose(snapshot(engine)[f"net/{name}"], expected, rtol=1e-5)


def test_l2_decay_moves_kernels_by_wd_times_themselves_and_nothing_else():
    numbers = {"wd": 0.5, "wd_mode": "l2", "optimizer": "sgd", "momentum": 0.0, "lr": 0.1}
    engine = Engine(Silent(NoOptions(), TASK), SPEC, settings(**numbers))
    before = snapshot(engine)
    metrics = run(engine, batches(1))
    after = snapshot(engine)
    kernels = {n: v for n, v in part(before, "net/").items() if n.endswith("/kernel")}
    squares = sum((v.astype(np.float64) ** 2).sum() for v in kernels.values())
    np.testing.assert_allclose(metrics["loss/l2"], squares / 2, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/total"], 0.5 * squares / 2, rtol=1e-5)
    for name, value in part(before, "net/").items():
        expected = value * (1 - 0.1 * 0.5) if name in kernels else value
        np.testing.assert_allclose(after[f"net/{name}"], expected, rtol=1e-6, err_msg=name)


def test_after_n_updates_of_constant_weights_the_average_holds_the_share_decay_to_the_n():
    engine = Engine(Silent(NoOptions(), TASK), SPEC, settings(wd=0.0, ema=0.999))
    random = np.random.default_rng(0)
    for shadow in engine.ema.values():
        shadow.assign(random.normal(size=shadow.shape))
    before = snapshot(engine)
    run(engine, batches(1) * 200)
    after = snapshot(engine)
    share = 0.999**200
    for name, start in part(before, "ema/").items():
        goal = before[f"net/{name}"]
        np.testing.assert_allclose(
            after[f"ema/{name}"], start * share + goal * (1 - share), rtol=1e-4, atol=1e-5
        )
    assert not any("moving_" in name for name in part(before, "ema/"))


def test_the_average_starts_at_the_initial_weights_and_evaluation_weights_are_as_published():
    engine = Engine(method("supervised"), SPEC, settings())
    start = snapshot(engine)
    for name, value in part(start, "ema/").items():
        np.testing.assert_array_equal(value, start[f"net/{name}"])
    run(engine, batches(3))
    values = snapshot(engine)
    averaged, raw = engine.weights(averaged=True), engine.weights(averaged=False)
    assert_same(raw, part(values, "net/"))
    for name, value in averaged.items():
        source = "net/" if "/moving_" in name else "ema/"
        np.testing.assert_array_equal(value, values[source + name], err_msg=name)
    assert_same(snapshot(engine), values)


def _poisoned(values: list[Batch], at: int) -> list[Batch]:
    images = values[at].labeled["weak"].copy()
    images[0, 3, 3] = np.nan
    return [*values[:at], values[at]._replace(labeled={"weak": images}), *values[at + 1 :]]


@pytest.mark.parametrize("kind", ["images", "loss"])
def test_an_update_that_is_not_finite_leaves_all_weights_and_averages_and_is_counted(kind):
    values = batches(4)
    if kind == "images":
        values, broken = _poisoned(values, 2), method("supervised")
    else:
        broken = BreaksAt((2.0,), TASK)
    engine = Engine(broken, SPEC, settings())
    first = run(engine, values[:2])
    before = snapshot(engine)
    middle = run(engine, values[2:3], start=2)
    after = snapshot(engine)
    np.testing.assert_array_equal(first["updates/skipped"], [0, 0])
    np.testing.assert_array_equal(middle["updates/skipped"], [1])
    for prefix in ("net/", "ema/", "method/"):
        assert_same(part(after, prefix), part(before, prefix))
    last = run(engine, values[3:], start=3)
    np.testing.assert_array_equal(last["updates/skipped"], [0])
    assert np.isfinite(last["loss/total"]).all()
    assert all(np.isfinite(v).all() for v in snapshot(engine).values())
    assert any((snapshot(engine)[n] != v).any() for n, v in part(after, "").items())


def test_a_method_s_state_is_assigned_after_the_step_and_its_metrics_are_reported():
    engine = Engine(Remembers(NoOptions(), TASK), SPEC, settings())
    values = batches(3)
    metrics = run(engine, values)
    sums = np.cumsum([batch.labels.sum() for batch in values])
    np.testing.assert_allclose(metrics["seen/max"], sums)
    np.testing.assert_allclose(metrics["seen/before"], [0, *sums[:-1]])
    assert float(engine.state["seen"]) == sums[-1]
    assert "method/seen" in engine.variables()


@pytest.mark.parametrize("name", ["supervised", "realmix"])
def test_the_same_seed_twice_is_bit_identical_and_another_seed_is_not(name):
    views = 2 if name == "realmix" else 0
    values = batches(3, views)
    runs = []
    for seed in (1, 1, 2):
        engine = Engine(method(name), SPEC, settings(seed=seed))
        runs.append((run(engine, values), snapshot(engine)))
    assert_same(runs[0][0], runs[1][0])
    assert_same(runs[0][1], runs[1][1])
    assert (runs[0][0]["loss/xe"] != runs[2][0]["loss/xe"]).all()


@pytest.mark.parametrize("name", ["supervised", "realmix"])
def test_a_run_continued_from_a_checkpoint_is_bit_identical_to_an_uninterrupted_one(name, tmp_path):
    options = {"p_unlabeled": "0.1,0.2,0.3,0.4", "tsa": "linear_schedule", "percent_mask": 0.5}
    options |= {"warmup_kimg": 0.01}
    options = options if name == "realmix" else {}
    values = batches(6, 2 if name == "realmix" else 0)
    whole = Engine(method(name, **options), SPEC, settings())
    whole_metrics = run(whole, values)

    before = Engine(method(name, **options), SPEC, settings())
    run(before, values[:3])
    checkpoint.save(tmp_path, 3 * ROWS, before.variables(), {})
    # The new engine starts elsewhere, so everything it ends with comes from the checkpoint.
    after = Engine(method(name, **options), SPEC, settings())
    for variable in after.variables().values():
        variable.assign(tf.ones(variable.shape, variable.dtype))
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None
    checkpoint.restore(found, after.variables())
    assert_same(snapshot(after), snapshot(before))
    rest = run(after, values[3:], start=3)
    assert_same(snapshot(after), snapshot(whole))
    assert_same(rest, {n: v[3:] for n, v in whole_metrics.items()})


def test_calls_of_any_length_give_the_same_run():
    values = batches(4, 2)
    engines = [Engine(method("mixmatch"), SPEC, settings()) for _ in range(2)]
    together = run(engines[0], values)
    singly = [run(engines[1], [batch], start=i) for i, batch in enumerate(values)]
    assert_same(snapshot(engines[0]), snapshot(engines[1]))
    assert_same(together, {n: np.concatenate([m[n] for m in singly]) for n in together})


def test_the_loss_that_is_minimised_is_the_weighted_sum_of_the_terms():
    engine = Engine(method("mixmatch", warmup_kimg=0.0, w_match=7.0), SPEC, settings())
    metrics = run(engine, batches(2, 2))
    total = metrics["loss/xe"] + 7 * metrics["loss/l2u"]
    np.testing.assert_allclose(metrics["loss/total"], total, rtol=1e-6)


def test_the_first_input_is_what_the_pass_that_moves_the_statistics_reads():
    (batch,) = batches(1, 2)
    plain = Engine(method("supervised"), SPEC, settings()).first_input(batch)
    np.testing.assert_array_equal(plain, batch.labeled["weak"])
    mixed = Engine(method("mixmatch"), SPEC, settings()).first_input(batch)
    assert mixed.shape == (ROWS, 8, 8, 1)
    assert not np.array_equal(mixed, batch.labeled["weak"])


def test_there_is_no_first_input_where_no_pass_moves_the_statistics():
    engine = Engine(Silent(NoOptions(), TASK), SPEC, settings())
    assert engine.first_input(batches(1)[0]) is None


def test_the_ramp_and_the_progress_follow_the_images_seen():
    class Watches(Silent):
        def losses(self, batch, network, context):
            result = super().losses(batch, network, context)
            metrics = {"progress/max": context.progress, "images/max": context.images}
            return result._replace(metrics=metrics)

    engine = Engine(Watches(NoOptions(), TASK), SPEC, settings())
    seen = run(engine, batches(2), start=500)
    np.testing.assert_allclose(seen["images/max"], [500 * ROWS, 501 * ROWS])
    np.testing.assert_allclose(seen["progress/max"], [0.5, 0.501], rtol=1e-6)


def test_a_step_s_seeds_depend_on_run_update_and_purpose_only():
    class Draws(Silent):
        def losses(self, batch, network, context):
            result = super().losses(batch, network, context)
            draw = {f"{p}/max": tf.random.stateless_uniform([], context.seed(p)) for p in "ab"}
            return result._replace(metrics=draw)

    values = batches(3)
    first, second, other = (
        run(Engine(Draws(NoOptions(), TASK), SPEC, settings(seed=s)), values) for s in (0, 0, 1)
    )
    names = ("a/max", "b/max")
    for name in names:
        np.testing.assert_array_equal(first[name], second[name])
    assert len({float(v) for m in (first, other) for n in names for v in m[n]}) == 12


def test_variables_have_the_same_names_in_every_engine_of_a_process():
    one, other = (Engine(method("supervised"), SPEC, settings()) for _ in range(2))
    assert list(one.variables()) == list(other.variables())
    prefixes = {name.partition("/")[0] for name in one.variables()}
    assert prefixes == {"net", "ema", "optimizer"}
    assert sum(n.startswith("optimizer/") for n in one.variables()) == 1 + 2 * len(one.ema)
