"""CTAugment: bins, rates and their rules; every view replayed with Pillow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from pillow_reference import FILTERS, as_float, replayed, varied, window

from realmix_tf.augment import views
from realmix_tf.augment.chain import Op
from realmix_tf.augment.ctaugment import OPERATIONS, Chain, CTAugment, initial_rates
from realmix_tf.randomness import uniforms

POLICY = CTAugment()
BINS = dict(OPERATIONS)
NAMES = [op for op, _ in OPERATIONS]


def rates_of_a_training(seed=0) -> np.ndarray:
    """Rates of which some bins are below the threshold."""
    random = np.random.default_rng(seed)
    return (initial_rates() * random.uniform(0.5, 1, (19, 2, 17))).astype(np.float32)


def draw(policy=POLICY, count=500, seed=0, rates=None):
    numbers = uniforms(seed, "strong", 0, count, policy.width)
    rates = rates_of_a_training() if rates is None else rates
    return policy.sample(tf.constant(rates), numbers), numbers.numpy()


def probes(policy=POLICY, count=500, seed=0) -> Chain:
    return policy.probe(uniforms(seed, "probe", 0, count, policy.probe_width))


def plain_weights(rate, decay=0.99, threshold=0.8):
    p = rate + np.float32(1 - decay)
    p = p / p.max()
    p[p < np.float32(threshold)] = 0
    return p


def plain_step(op, v, second, centre, height, width):
    """Operation, amount, option and centre, straight from the published rules."""
    v = float(v)
    amount = {
        Op.CUTOUT: lambda: 1 + int(v * min(height, width) * 0.499),
        Op.POSTERIZE: lambda: 1 + int(v * 7.999),
        Op.RESCALE: lambda: 0.25 * v,
        Op.ROTATE: lambda: int(np.round((2 * v - 1) * 45)),
        Op.SHEAR_X: lambda: (2 * v - 1) * 0.3,
        Op.SHEAR_Y: lambda: (2 * v - 1) * 0.3,
        Op.SOLARIZE: lambda: int(v * 255.999),
        Op.TRANSLATE_X: lambda: (2 * v - 1) * 0.3 * width,
        Op.TRANSLATE_Y: lambda: (2 * v - 1) * 0.3 * height,
    }
    if op in (Op.BRIGHTNESS, Op.COLOR, Op.CONTRAST, Op.SHARPNESS):
        return op, 0.1 + 1.9 * v, 0, centre
    return op, amount.get(op, lambda: v)(), int(float(second) * 5.99), centre


def plain_view(image, drawn, i, depth):
    height, width, _ = image.shape
    chain = []
    for k in range(depth):
        row, column = drawn.window.numpy()[i, k]
        centre = int(row * np.float32(height)), int(column * np.float32(width))
        op = NAMES[int(drawn.op[i, k])]
        v, second = drawn.value.numpy()[i, k]
        chain.append(plain_step(op, v, second, centre, height, width))
    return replayed(image, chain)


@pytest.mark.parametrize("size", [(32, 32, 3), (15, 20, 3), (8, 8, 1)], ids=str)
@pytest.mark.parametrize("kind", ["training", "probe", "depth 3"])
def test_whole_views_are_those_of_pillow_and_a_plain_composition(kind, size):
    policy = CTAugment(depth=3) if kind == "depth 3" else POLICY
    drawn = probes() if kind == "probe" else draw(policy)[0]
    images = varied(500, *size)
    result = views.to_float(policy.apply(tf.constant(images), drawn)).numpy()
    for i, image in enumerate(images):
        plain = as_float(*plain_view(image, drawn, i, policy.depth))
        np.testing.assert_array_equal(result[i], plain)


def test_the_forced_cutout_hides_a_window_of_the_largest_size():
    policy = CTAugment(cutout=True)
    drawn, numbers = draw(policy, 200)
    images, rates = varied(200, 32, 32, 3), tf.constant(rates_of_a_training())
    view = policy(tf.constant(images), tf.constant(numbers), rates)
    for i, image in enumerate(images):
        pixels, hidden = plain_view(image, drawn, i, 2)
        row, column = (int(u * np.float32(32)) for u in numbers[i, -2:])
        hidden = hidden | window(32, 32, row, column, 16)
        np.testing.assert_array_equal(views.to_float(view)[i].numpy(), as_float(pixels, hidden))


@pytest.mark.parametrize(("side", "expected"), [(8, 4), (32, 16), (96, 48)])
def test_the_forced_window_grows_with_the_image(side, expected):
    policy = CTAugment(cutout=True)
    numbers = np.zeros((4, policy.width), np.float32)
    numbers[:, 0] = numbers[:, 7] = (8 + 0.5) / 19  # identity
    numbers[:, -2:] = 0.5
    images = tf.zeros([4, side, side, 3], tf.uint8)
    hidden = policy(images, tf.constant(numbers), tf.constant(initial_rates())).hidden
    assert set(hidden.numpy().sum((1, 2))) == {expected**2}


def test_without_forced_cutout_a_training_view_is_the_sampled_chain_applied():
    drawn, numbers = draw(count=64)
    images, rates = tf.constant(varied(64, 16, 16, 3)), tf.constant(rates_of_a_training())
    whole, parts = POLICY(images, tf.constant(numbers), rates), POLICY.apply(images, drawn)
    np.testing.assert_array_equal(views.filled(whole).numpy(), views.filled(parts).numpy())


def test_the_bins_are_the_published_ones():
    assert len(OPERATIONS) == 19
    assert BINS[Op.POSTERIZE] == (8,)
    assert BINS[Op.RESCALE] == (17, 6)
    assert BINS[Op.IDENTITY] == ()
    assert sum(bins == (17,) for bins in BINS.values()) == 16
    rates = initial_rates()
    assert rates.dtype == np.float32
    for bins, rate in zip(BINS.values(), rates, strict=True):
        for parameter in range(2):
            count = bins[parameter] if parameter < len(bins) else 0
            np.testing.assert_array_equal(rate[parameter], np.arange(17) < count)


def test_the_order_of_the_filters_is_the_published_one():
    assert [f.name for f in FILTERS] == [
        "LANCZOS", "BICUBIC", "BILINEAR", "BOX", "HAMMING", "NEAREST",
    ]  # fmt: skip


def test_at_the_start_all_bins_are_drawn_alike():
    weights = POLICY.weights(tf.constant(initial_rates())).numpy()
    np.testing.assert_array_equal(weights, initial_rates())


def test_weights_follow_the_rule_and_the_best_bin_is_never_left_out():
    rates = rates_of_a_training()
    rates[3, 0] = 0  # nothing works: still all equal
    weights = POLICY.weights(tf.constant(rates)).numpy()
    assert weights.dtype == np.float32
    for number, bins in enumerate(BINS.values()):
        for parameter, count in enumerate(bins):
            plain = plain_weights(rates[number, parameter, :count])
            np.testing.assert_array_equal(weights[number, parameter, :count], plain)
            assert weights[number, parameter].max() == 1
            assert not weights[number, parameter, count:].any()
    assert not weights[NAMES.index(Op.IDENTITY)].any()
    assert (weights == 0).sum() > (initial_rates() == 0).sum()


def test_depth_threshold_and_decay_are_options():
    policy = CTAugment(depth=1, threshold=0.5, decay=0.9)
    rates = rates_of_a_training()
    weights = policy.weights(tf.constant(rates)).numpy()
    np.testing.assert_array_equal(weights[0, 0], plain_weights(rates[0, 0], 0.9, 0.5))
    assert draw(policy)[0].op.shape == (500, 1)


def _one(op, value, count=1, parameter_bins=(17,)):
    """Chains of depth 1 of one operation at given values."""
    number = NAMES.index(op)
    bins = [int(v * n * 0.999) for v, n in zip(value, parameter_bins, strict=True)]
    pad = [0.0] * (2 - len(value))
    return Chain(
        tf.fill([count, 1], number),
        tf.constant([[[*value, *pad]]] * count, tf.float32),
        tf.constant([[bins + [-1] * (2 - len(bins))]] * count, tf.int32),
        tf.zeros([count, 1, 2]),
    )


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one batch"])
def test_a_bin_falls_out_after_23_misses_in_a_row(together):
    policy, rates = CTAugment(depth=1), tf.constant(initial_rates())
    drawn_after = []
    for misses in range(1, 31):
        if together:
            after = policy.updated(
                tf.constant(initial_rates()), _one(Op.BLUR, (0.5,), misses), tf.zeros([misses])
            )
        else:
            rates = after = policy.updated(rates, _one(Op.BLUR, (0.5,)), tf.zeros([1]))
        drawn_after.append(bool(policy.weights(after)[NAMES.index(Op.BLUR), 0, 8] > 0))
    assert drawn_after == [True] * 22 + [False] * 8


def test_one_omega_of_a_fifth_takes_a_rate_from_one_to_0_992():
    policy = CTAugment(depth=1)
    before = initial_rates()
    after = policy.updated(tf.constant(before), _one(Op.BLUR, (0.5,)), tf.constant([0.2])).numpy()
    assert after.dtype == np.float32
    np.testing.assert_allclose(after[NAMES.index(Op.BLUR), 0, 8], 0.992, rtol=1e-7)
    assert (after != before).sum() == 1


def plain_updated(rates, drawn, omega, decay):
    """The published loop."""
    rates = rates.astype(np.float64)
    for i in range(len(omega)):
        for k in range(drawn.op.shape[1]):
            number = int(drawn.op[i, k])
            for parameter, count in enumerate(OPERATIONS[number][1]):
                place = int(float(drawn.value[i, k, parameter]) * count * 0.999)
                cell = number, parameter, place
                rates[cell] = decay * rates[cell] + (1 - decay) * omega[i]
    return rates.astype(np.float32)


@pytest.mark.parametrize(("count", "decay"), [(1, 0.99), (64, 0.99), (700, 0.99), (700, 0.5)])
def test_updates_equal_the_loop_over_images_operations_and_parameters(count, decay):
    policy = CTAugment(decay=decay)
    drawn, rates = probes(policy, count), rates_of_a_training()
    omega = np.random.default_rng(1).random(count).astype(np.float32)
    plain = plain_updated(rates, drawn, omega.astype(np.float64), decay)
    for update in (policy.updated, tf.function(policy.updated)):
        result = update(tf.constant(rates), drawn, tf.constant(omega)).numpy()
        np.testing.assert_allclose(result, plain, rtol=2e-7, atol=0)
        # What was not drawn has not changed at all.
        np.testing.assert_array_equal(result[plain == rates], rates[plain == rates])
        assert result.min() >= 0
        assert result.max() <= 1


def test_hits_of_one_bin_count_in_their_order():
    policy, drawn = CTAugment(depth=1), _one(Op.BLUR, (0.5,), 2)
    cell = NAMES.index(Op.BLUR), 0, 8
    for omega in ((0.0, 1.0), (1.0, 0.0)):
        rate = policy.updated(tf.constant(initial_rates()), drawn, tf.constant(omega)).numpy()
        expected = 0.99 * (0.99 + 0.01 * omega[0]) + 0.01 * omega[1]
        np.testing.assert_allclose(rate[cell], expected, rtol=1e-7)
    both = Chain(*(tf.concat([part, part], 1) for part in _one(Op.BLUR, (0.5,))))
    rate = CTAugment().updated(tf.constant(initial_rates()), both, tf.constant([0.2])).numpy()
    np.testing.assert_allclose(rate[cell], 0.99 * 0.992 + 0.002, rtol=1e-7)


def test_updating_a_batch_is_updating_with_its_parts_in_turn():
    drawn, rates = probes(count=100), tf.constant(rates_of_a_training())
    omega = tf.constant(np.random.default_rng(1).random(100), tf.float32)
    whole = POLICY.updated(rates, drawn, omega)
    for part in (slice(0, 37), slice(37, 100)):
        rates = POLICY.updated(rates, Chain(*(p[part] for p in drawn)), omega[part])
    np.testing.assert_allclose(rates.numpy(), whole.numpy(), rtol=1e-6)


def test_no_probes_change_nothing():
    rates = tf.constant(rates_of_a_training())
    np.testing.assert_array_equal(POLICY.updated(rates, probes(count=0), tf.zeros([0])), rates)


def test_training_draws_bins_by_weight_and_values_evenly_within_them():
    count, rates = 40_000, rates_of_a_training()
    drawn, _ = draw(count=count, rates=rates)
    op, value, bins = (part.numpy().reshape(2 * count, -1) for part in drawn[:3])
    weights = POLICY.weights(tf.constant(rates)).numpy()
    each = np.bincount(op[:, 0], minlength=19) / len(op)
    assert np.abs(each - 1 / 19).max() < 5 * math.sqrt(1 / 19 / len(op))
    for number, (name, counts) in enumerate(OPERATIONS):
        rows = op[:, 0] == number
        for parameter in range(2):
            if parameter >= len(counts):
                assert (bins[rows, parameter] == -1).all()
                assert (value[rows, parameter] == 0).all()
                continue
            found = np.bincount(bins[rows, parameter], minlength=17) / rows.sum()
            expected = weights[number, parameter] / weights[number, parameter].sum()
            assert np.abs(found - expected).max() < 5 * math.sqrt(0.2 / rows.sum()), name
            assert (found[expected == 0] == 0).all()
            within = value[rows, parameter] * counts[parameter] - bins[rows, parameter]
            assert within.min() > -1e-5
            assert within.max() < 1 + 1e-5
            assert abs(within.mean() - 0.5) < 5 * math.sqrt(1 / 12 / rows.sum())


def test_the_largest_uniform_number_draws_a_bin_with_weight():
    rates = rates_of_a_training()
    rates[:, :, 10:] *= 0.01
    largest = np.full((1, POLICY.width), np.nextafter(np.float32(1), np.float32(0)))
    weights = POLICY.weights(tf.constant(rates)).numpy()
    for number, (_, counts) in enumerate(OPERATIONS):
        numbers = largest.copy()
        numbers[:, [0, 7]] = (number + 0.5) / 19
        drawn = POLICY.sample(tf.constant(rates), tf.constant(numbers))
        for parameter in range(len(counts)):
            found = int(drawn.bin[0, 0, parameter])
            assert found == np.flatnonzero(weights[number, parameter])[-1]
            assert float(drawn.value[0, 0, parameter]) <= 1


def test_probes_try_all_bins_alike():
    count = 40_000
    drawn = probes(count=count)
    op, value, bins = (part.numpy().reshape(2 * count, -1) for part in drawn[:3])
    for number, (_, counts) in enumerate(OPERATIONS):
        rows = op[:, 0] == number
        for parameter, n in enumerate(counts):
            found = np.bincount(bins[rows, parameter], minlength=17)[:n] / rows.sum()
            assert np.abs(found - 1 / n).max() < 5 * math.sqrt(0.2 / rows.sum())
            assert abs(value[rows, parameter].mean() - 0.5) < 5 * math.sqrt(1 / 12 / rows.sum())


@pytest.mark.parametrize("op", [Op.TRANSLATE_X, Op.TRANSLATE_Y])
def test_translating_really_moves_pixels_at_both_ends(op):
    images = varied(8, 30, 20, 3)[:1]
    share, axis = 0.3, 2 if op is Op.TRANSLATE_X else 1
    size = images.shape[axis]
    for value in (0.0, 1.0):
        view = CTAugment(depth=1).apply(tf.constant(images), _one(op, (value,)))
        hidden = view.hidden.numpy()[0].any(2 - axis)
        assert hidden.sum() == round(share * size)
        assert hidden[-1 if value else 0]


def test_the_same_bytes_alone_in_a_parallel_pipeline_and_one_at_a_time():
    policy, images = CTAugment(cutout=True), tf.constant(varied(40, 16, 12, 3))
    rates = tf.constant(rates_of_a_training())

    def view(start, count=8):
        drawn = uniforms(9, "s", start, count, policy.width)
        return views.filled(policy(images[start : start + count], drawn, rates))

    alone = view(0, 40).numpy()
    piped = tf.data.Dataset.range(0, 40, 8).map(view, num_parallel_calls=4)
    singly = tf.data.Dataset.range(40).map(lambda start: view(start, 1), num_parallel_calls=2)
    for pipeline in (piped, singly):
        np.testing.assert_array_equal(np.concatenate(list(pipeline.as_numpy_iterator())), alone)
