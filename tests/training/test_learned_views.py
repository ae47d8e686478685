"""CTAugment in the update: views by the current rates, rates by the probe."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tiny import CLASSES, ROWS, SPEC, TASK, batches_for, dataset, settings, snapshot

from realmix_tf.augment.ctaugment import CTAugment, initial_rates
from realmix_tf.augment.views import to_float
from realmix_tf.methods.registry import get_method
from realmix_tf.training import checkpoint
from realmix_tf.training.engine import Engine
from realmix_tf.training.learned_views import LearnedViews, Unfinished

POLICY = CTAugment(cutout=True)
LEARNED = {"unlabeled/strong": POLICY, "labeled/probe": POLICY}


def method():
    found = get_method("fixmatch")
    return found(found.Config(uratio=2), TASK)


def batches(count: int, seed: int = 0) -> list:
    """FixMatch's batches with an unfinished strong view and a probe."""
    random = np.random.default_rng(seed)

    def unfinished(rows: int, width: int) -> Unfinished:
        pixels = random.integers(0, 256, (rows, 8, 8, 1), dtype=np.uint8)
        return Unfinished(pixels, random.random((rows, width), dtype=np.float32))

    return [
        batch._replace(
            labeled=batch.labeled | {"probe": unfinished(ROWS, POLICY.probe_width)},
            unlabeled=batch.unlabeled | {"strong": unfinished(2 * ROWS, POLICY.width)},
        )
        for batch in batches_for(method(), count, seed=seed)
    ]


def engine(**changed) -> Engine:
    return Engine(method(), SPEC, settings(ema=0.9, **changed), learned=LEARNED)


def run(made: Engine, values: list, start: int = 0):
    return made.run(iter(dataset(values)), start, len(values))


def test_a_batch_without_learned_views_passes_as_it_is():
    views = LearnedViews({})
    batch = batches_for(method(), 1)[0]
    finished, probe = views.finish(batch)
    assert probe == ()
    assert views.variables() == {}
    for name, view in batch.unlabeled.items():
        assert finished.unlabeled[name] is view


def test_a_learned_view_is_made_by_the_rates_of_the_moment():
    views, batch = LearnedViews(LEARNED), batches(1)[0]
    random = np.random.default_rng(1)
    for _ in range(2):
        finished, probe = views.finish(batch)
        assert set(finished.labeled) == {"weak"}
        np.testing.assert_array_equal(probe.labels, batch.labels)
        pixels, numbers = map(tf.constant, batch.unlabeled["strong"])
        rates = views.variables()["rates"]
        expected = to_float(POLICY(pixels, numbers, tf.convert_to_tensor(rates)))
        np.testing.assert_array_equal(finished.unlabeled["strong"], expected)
        before = expected
        rates.assign(initial_rates() * random.uniform(0, 1, rates.shape).astype(np.float32))
    assert (before.numpy() != views.finish(batch)[0].unlabeled["strong"].numpy()).any()


def test_unfinished_views_without_a_policy_are_an_error():
    with pytest.raises(KeyError):
        LearnedViews({}).finish(batches(1)[0])


def test_the_rates_follow_what_the_averaged_weights_say_of_the_probe_after_the_update():
    made, values = engine(), batches(3)
    rates = initial_rates()
    for update, batch in enumerate(values):
        run(made, [batch], update)
        # After the update: the teacher with the averaged weights, by its moving statistics.
        pixels, numbers = map(tf.constant, batch.labeled["probe"])
        drawn = POLICY.probe(numbers)
        view = to_float(POLICY.apply(pixels, drawn))
        p = tf.nn.softmax(made.teacher(view, training=False).logits).numpy()
        omega = 1 - 0.5 * np.abs(p - np.eye(CLASSES)[batch.labels]).sum(-1)
        rates = POLICY.updated(tf.constant(rates), drawn, tf.constant(omega, tf.float32)).numpy()
        np.testing.assert_allclose(made.views.variables()["rates"], rates, atol=1e-6)
    assert (rates < initial_rates()).sum() > 20


def test_the_probe_trains_nothing():
    one, other = engine(), engine()
    values = batches(2)
    changed = [
        batch._replace(
            labeled=batch.labeled
            | {"probe": Unfinished(255 - batch.labeled["probe"].pixels, batch.labeled["probe"][1])}
        )
        for batch in values
    ]
    run(one, values[:1])
    run(other, changed[:1])
    a, b = snapshot(one), snapshot(other)
    different = {name for name in a if (a[name] != b[name]).any()}
    assert different == {"augment/rates"}


def test_the_teacher_holds_the_averages_and_reads_the_live_statistics():
    made = engine()
    run(made, batches(3))
    assert made.teacher is not None
    values = snapshot(made)
    for name, variable in made.teacher.variables_by_name().items():
        prefix = "net/" if "/moving_" in name else "ema/"
        np.testing.assert_array_equal(variable, values[prefix + name], err_msg=name)
    averaged = made.weights(averaged=True)
    assert {n: v.shape for n, v in averaged.items()} == {
        n: tuple(v.shape) for n, v in made.network.variables_by_name().items()
    }


def test_a_skipped_update_leaves_the_rates():
    made, values = engine(), batches(2)
    poisoned = values[1].labeled["weak"].copy()
    poisoned[0, 0] = np.nan
    values[1] = values[1]._replace(labeled=values[1].labeled | {"weak": poisoned})
    run(made, values[:1])
    before = snapshot(made)["augment/rates"]
    metrics = run(made, values[1:], 1)
    assert metrics["updates/skipped"] == [1]
    np.testing.assert_array_equal(snapshot(made)["augment/rates"], before)


def test_a_run_that_learns_its_augmentation_continues_bit_for_bit(tmp_path):
    values = batches(6)
    whole = engine()
    metrics = run(whole, values)
    before = engine()
    run(before, values[:4])
    checkpoint.save(tmp_path, 4 * ROWS, before.variables(), {})
    after = engine()
    for variable in after.variables().values():
        variable.assign(tf.ones(variable.shape, variable.dtype))
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None
    checkpoint.restore(found, after.variables())
    rest = run(after, values[4:], 4)
    one, other = snapshot(whole), snapshot(after)
    assert "augment/rates" in one
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value, err_msg=name)
    for name, column in rest.items():
        np.testing.assert_array_equal(column, metrics[name][4:], err_msg=name)
