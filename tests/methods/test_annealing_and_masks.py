"""Ramps, training signal annealing and masks against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from realmix_tf.methods import annealing, masks


@pytest.mark.parametrize(
    ("images", "warmup", "value"),
    [
        (0, 1024, 0),
        (8192 * 64, 1024, 0.5),
        (16384 * 64, 1024, 1),
        (10**9, 1024, 1),
        (1024, 4, 0.25),
        (0, 0, 1),
        (5, 0, 1),
    ],
)
def test_the_ramp_is_linear_in_labelled_images_and_clipped(images, warmup, value):
    ramp = annealing.linear_ramp(tf.constant(images, tf.float32), warmup)
    assert float(ramp) == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize(
    ("progress", "warmup", "value"),
    [
        (0, 0.4, 0),
        (0.1, 0.4, 0.25),
        (419430.4 / 2**20, 0.4, 1),  # updates of 64 images, of the 2²⁰ that are usual
        (524288 / 2**20, 0.4, 1),
        (0, 0, 1),
        (0.5, 1, 0.5),
    ],
)
def test_the_ramp_over_a_share_of_the_run(progress, warmup, value):
    ramp = annealing.progress_ramp(tf.constant(progress, tf.float32), warmup)
    assert float(ramp) == pytest.approx(value, abs=1e-6)


def test_the_cosine_ramp_is_half_way_at_a_quarter_and_full_at_half_of_the_run():
    ramp = [float(annealing.cosine_ramp(tf.constant(t))) for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert ramp == pytest.approx([0, 0.5, 1, 1, 1], abs=1e-6)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ("linear_schedule", (0.1, 0.55, 1.0)),
        ("exp_schedule", (0.10606, 0.17388, 1.0)),
        ("log_schedule", (0.1, 0.92612, 0.99394)),
    ],
)
def test_the_threshold_of_ten_classes_at_start_middle_and_end(schedule, values):
    for progress, value in zip((0.0, 0.5, 1.0), values, strict=True):
        found = annealing.tsa_threshold(schedule, tf.constant(progress), 10)
        assert float(found) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("schedule", annealing.TSA_SCHEDULES[1:])
@pytest.mark.parametrize("classes", [2, 6, 100])
def test_the_threshold_rises_within_one_over_c_and_one(schedule, classes):
    progress = tf.linspace(0.0, 1.0, 50)
    found = annealing.tsa_threshold(schedule, progress, classes).numpy()
    assert (np.diff(found) > 0).all()
    assert found[0] >= 1 / classes - 1e-7
    assert found[-1] <= 1 + 1e-6


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="'cosine'"):
        annealing.tsa_threshold("cosine", tf.constant(0.5), 10)


def _plain_tsa(probabilities, labels, threshold):
    kept = []
    for p, label in zip(probabilities, labels, strict=True):
        named = [c for c in range(len(p)) if label[c] > 0]
        kept.append(any(p[c] < np.float32(label[c]) * np.float32(threshold) for c in named))
    return np.array(kept, np.float32)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_tsa_for_mixed_labels_equals_a_plain_loop(threshold):
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(5) * 0.3, 400).astype(np.float32)
    first, second = random.integers(0, 5, (2, 400))
    share = random.uniform(0.5, 1, (400, 1)).astype(np.float32)
    share[:40] = 1
    labels = np.eye(5, dtype=np.float32)[first] * share + np.eye(5, dtype=np.float32)[second] * (
        1 - share
    )
    found = masks.tsa_mask(tf.constant(probabilities), tf.constant(labels), tf.constant(threshold))
    np.testing.assert_array_equal(found, _plain_tsa(probabilities, labels, threshold))
    assert 0 < np.mean(found) < 1


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.75])
def test_with_hard_labels_tsa_is_uda_s_rule_on_the_true_class_not_on_the_largest(threshold):
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(5) * 0.3, 400).astype(np.float32)
    probabilities[0] = [0, 0.9, 0.1, 0, 0]  # sure of another class: still to be learnt
    labels = random.integers(0, 5, 400)
    labels[0] = 0
    found = masks.tsa_mask(
        tf.constant(probabilities), tf.one_hot(labels, 5), tf.constant(threshold)
    ).numpy()
    true = probabilities[np.arange(400), labels]
    np.testing.assert_array_equal(found, (true < threshold).astype(np.float32))
    assert found[0] == 1


def test_a_row_exactly_at_its_threshold_is_learnt():
    labels = tf.constant([[0.5, 0.5], [1.0, 0.0]])
    found = masks.tsa_mask(tf.constant([[0.25, 0.75], [0.5, 0.5]]), labels, tf.constant(0.5))
    np.testing.assert_array_equal(found, [0, 0])


def _plain_lowest(confidence, fraction):
    dropped = int(np.floor(round(fraction * len(confidence), 6)))
    order = sorted(range(len(confidence)), key=lambda i: (confidence[i], i))
    mask = np.ones(len(confidence), np.float32)
    mask[order[:dropped]] = 0
    return mask


@pytest.mark.parametrize("rows", [1, 2, 10, 127, 128])
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.3, 0.5, 0.7, 0.999])
@pytest.mark.parametrize("levels", [1, 3, 1000])
def test_exactly_the_lowest_share_is_dropped_however_many_tie(rows, fraction, levels):
    random = np.random.default_rng(rows)
    confidence = (random.integers(1, levels + 1, rows) / levels).astype(np.float32)
    found = masks.lowest_fraction_mask(tf.constant(confidence), fraction).numpy()
    np.testing.assert_array_equal(found, _plain_lowest(confidence, fraction))


def test_half_of_two_batches_keeps_one_batch_also_when_all_are_equal():
    kept = masks.lowest_fraction_mask(tf.fill([128], 0.3), 0.5)
    assert float(tf.reduce_sum(kept)) == 64


def test_the_threshold_mask_keeps_what_reaches_it():
    found = masks.at_least(tf.constant([0.4, 0.5, 0.6]), 0.5)
    np.testing.assert_array_equal(found, [0, 1, 1])


def test_above_leaves_out_what_only_reaches_the_threshold():
    np.testing.assert_array_equal(masks.above(tf.constant([0.4, 0.5, 0.6]), 0.5), [0, 0, 1])
    rows = masks.at_least(tf.constant([0.4, 0.5]), tf.constant([0.4, 0.6]))
    np.testing.assert_array_equal(rows, [1, 0])


def test_masks_carry_no_gradient():
    p = tf.Variable([[0.2, 0.8], [0.6, 0.4]])
    labels = tf.constant([[0.0, 1.0], [0.0, 1.0]])
    with tf.GradientTape(persistent=True) as tape:
        confidence = tf.reduce_max(p, -1)
        made = [
            masks.tsa_mask(p, labels, tf.constant(0.5)),
            masks.lowest_fraction_mask(confidence, 0.5),
            masks.at_least(confidence, 0.7),
            masks.above(confidence, 0.7),
        ]
    assert [float(tf.reduce_sum(mask)) for mask in made] == [1, 1, 1, 1]
    assert all(tape.gradient(mask, p) is None for mask in made)
