"""FixMatch, UDA, FlexMatch, FreeMatch, SoftMatch and Dash against slow plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from by_hand import (
    aligned,
    cross_entropy,
    divergence,
    entropy,
    flat,
    gradient_of_cross_entropy,
    logits_of,
    one_hot,
    softmax,
)
from doubles import (
    Context,
    batch_of,
    context_of,
    method_of,
    network_of,
    numbers,
    show,
    task,
    tells,
    total_of,
)

from realmix_tf.methods import softmatch

ROWS, CLASSES = 8, 5
EVERY = ("fixmatch", "uda", "flexmatch", "freematch", "softmatch", "dash", "simmatch")


class Made:
    """One update of a method, and the logits its joint pass must have given."""

    def __init__(self, name, of=None, scale=0.4, centred=True, batch=None, **options):
        known = {"images", "progress", "state", "network", "seed"}
        given = {key: options.pop(key) for key in known & options.keys()}
        options.setdefault("uratio", 3)
        self.method = method_of(name, of, **options)
        self.config = self.method.config
        self.batch = batch or batch_of(self.method, given.pop("seed", 1))
        network = given.pop("network", None)
        self.network = network or network_of(self.method, scale=scale, centred=centred)
        self.network.calls.clear()
        self.blocks = (
            self.batch.labeled["weak"],
            self.batch.unlabeled["weak"],
            self.batch.unlabeled["strong"],
        )
        self.context = context_of(self.method, **given)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(self.blocks)
            self.result = self.method.losses(self.batch, self.network, self.context)
            total = total_of(self.result)
        self.total = float(total)
        self.terms = self.result.terms
        self.slope = tape.gradient(total, self.network.weights)
        self.slope_of = {
            name: tape.gradient(term.value, self.network.weights, unconnected_gradients="zero")
            for name, term in self.terms.items()
        }
        self.slope_to = tape.gradient(total, self.blocks, unconnected_gradients="zero")
        self.x, self.w, self.s = logits_of(self.network, *self.blocks)
        self.p = softmax(self.w)
        self.state = numbers(self.result.state)

    def check(self, name, value, weight=1.0, rtol=1e-5, atol=0.0):
        np.testing.assert_allclose(self.terms[name].value, value, rtol, atol, err_msg=name)
        np.testing.assert_allclose(self.terms[name].weight, weight, rtol=1e-6, err_msg=name)

    def check_consistency(self, target, weight, factor=1.0, rtol=1e-4):
        """Loss and slope of the unlabelled term; divided by all rows."""
        rows = cross_entropy(target, self.s)
        value = sum(w * row for w, row in zip(weight, rows, strict=True)) / len(rows)
        self.check("xeu", value, factor, rtol, atol=1e-7)
        self.check_slope(target, weight)

    def check_slope(self, target, weight):
        """Slope of the unlabelled term, and the share of rows that count."""
        np.testing.assert_allclose(self.result.metrics["kept/unlabeled"], np.mean(weight), 1e-4)
        images = np.concatenate([flat(block) for block in self.blocks])
        centre = images.mean(0) if self.network.centred else 0.0
        strong = flat(self.blocks[2]) - centre
        share = np.asarray(weight) / len(self.s)
        slope = gradient_of_cross_entropy(strong, target, self.s, share)
        np.testing.assert_allclose(self.slope_of["xeu"], slope, atol=2e-4)


def told(logits, name, classes=3, rows=2, **options):
    """An update in which the network says these logits of the weak views."""
    of = task(classes, rows)
    options = {"uratio": len(logits) // rows} | options
    method = method_of(name, of, uratio=options["uratio"])
    batch, network = batch_of(method), tells(network_of(method))
    views = {"weak": show(np.array(logits, float)), "strong": batch.unlabeled["strong"]}
    return Made(name, of, batch=batch._replace(unlabeled=views), network=network, **options)


# --- What they share --------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_all_rows_pass_together_once_and_move_the_averages(name):
    made = Made(name, uratio=7)
    (call,) = made.network.calls
    assert (call.training, call.update_stats) == (True, True)
    rows = np.concatenate([flat(block) for block in made.blocks])
    assert len(rows) == (1 + 2 * 7) * ROWS
    np.testing.assert_allclose(flat(call.images), rows)
    np.testing.assert_allclose(made.network.moving_mean, 0.001 * rows.mean(0), atol=1e-7)
    made.check("xe", cross_entropy(made.batch.labels, made.x).mean())


@pytest.mark.parametrize("name", EVERY)
def test_the_weak_branch_gets_no_gradient_and_the_strong_one_does(name):
    options = {"dash": {"images": 1e6}, "simmatch": {"confidence": 0.0}}.get(name, {})
    if name in ("fixmatch", "uda"):
        options = {"confidence": 0.3}
    made = Made(name, centred=False, scale=1.0, **options)
    labeled, weak, strong = (np.abs(slope).max() for slope in made.slope_to)
    assert weak == 0
    assert labeled > 0
    assert strong > 0


@pytest.mark.parametrize("name", EVERY)
def test_a_network_sure_of_everything_gives_finite_losses_and_gradients(name):
    made = Made(name, scale=300.0, images=1e9, progress=1.0)
    assert np.isfinite(made.total)
    assert np.isfinite(made.slope).all()
    for value in made.state.values():
        assert np.isfinite(value).all()


@pytest.mark.parametrize("name", ["fixmatch", "uda", "flexmatch", "freematch", "dash"])
def test_a_network_sure_of_nothing_keeps_nothing_and_stays_finite(name):
    options = {
        "flexmatch": {"state": {"sure_class": np.arange(61, dtype=np.int32) % CLASSES}},
        "freematch": {"clip_low": 0.9},
        "dash": {"images": 1e9},
    }.get(name, {})
    made = Made(name, scale=1e-3, **options)
    assert float(made.terms["xeu"].value) == 0
    assert float(made.result.metrics["kept/unlabeled"]) == 0
    np.testing.assert_array_equal(made.slope_of["xeu"], np.zeros_like(made.slope))
    assert np.isfinite(made.slope).all()
    assert all(np.isfinite(value).all() for value in made.result.metrics.values())


# --- FixMatch ---------------------------------------------------------------------------------


@pytest.mark.parametrize("uratio", [1, 3])
def test_fixmatch_teaches_the_strong_view_what_is_sure_of_the_weak_one(uratio):
    made = Made("fixmatch", scale=1.0, uratio=uratio, confidence=0.7, wu=2.0)
    mask = [float(p.max() >= 0.7) for p in made.p]
    assert 0 < sum(mask) < len(mask) == uratio * ROWS
    made.check_consistency(made.p.argmax(-1), mask, factor=2.0)


def test_fixmatch_keeps_a_row_exactly_at_the_threshold():
    logits = [[0, 0, -200], [1, 0, 0], [0, -0.01, -200], [-0.01, 0, -1]]
    made = told(logits, "fixmatch", confidence=0.5)
    mask = [1, 1, 1, 0]
    assert made.p.max(-1)[0] == 0.5
    made.check_consistency(made.p.argmax(-1), mask)


def test_fixmatch_s_loss_halves_with_the_mask():
    logits = np.array([[9, 0, 0]] * 4, float)
    full = told(logits, "fixmatch")
    half = told(logits * [[1], [1], [0], [0]], "fixmatch")
    rows = cross_entropy([0] * 4, full.s)
    full.check("xeu", rows.mean())
    half.check("xeu", rows[:2].sum() / 4)


def test_fixmatch_keeps_everything_at_threshold_zero():
    made = Made("fixmatch", confidence=0.0)
    made.check_consistency(made.p.argmax(-1), np.ones(3 * ROWS))


# --- UDA --------------------------------------------------------------------------------------

SCHEDULES = {
    "linear_schedule": lambda t: t,
    "exp_schedule": lambda t: np.exp(5 * (t - 1)),
    "log_schedule": lambda t: 1 - np.exp(-5 * t),
}


@pytest.mark.parametrize("temperature", [0.4, 1.0])
def test_uda_s_unlabelled_term_is_the_divergence_from_the_sharpened_guess(temperature):
    made = Made("uda", scale=1.0, confidence=0.7, temperature=temperature, wu=3.0)
    target = softmax(made.w / temperature)
    # The mask looks at the guess before it is sharpened.
    mask = np.array([float(p.max() > 0.7) for p in made.p])
    assert 0 < mask.sum() < len(mask)
    value = (mask * divergence(target, softmax(made.s))).mean()
    made.check("xeu", value, 3.0, rtol=1e-4)
    # Its gradient is the cross entropy's: the target's own entropy has none.
    made.check_slope(target, mask)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("progress", [0.05, 0.3, 0.6])
def test_uda_leaves_out_labelled_images_known_too_well(schedule, progress):
    made = Made("uda", scale=0.6, tsa=schedule, progress=progress, seed=2)
    eta = SCHEDULES[schedule](progress) * (1 - 1 / CLASSES) + 1 / CLASSES
    rows = cross_entropy(made.batch.labels, made.x)
    kept = [i for i, y in enumerate(made.batch.labels) if softmax(made.x)[i, y] <= eta]
    made.check("xe", sum(rows[i] for i in kept) / max(len(kept), 1))
    images = np.concatenate([flat(block) for block in made.blocks])
    weight = np.isin(np.arange(ROWS), kept) / max(len(kept), 1)
    centred = flat(made.blocks[0]) - images.mean(0)
    slope = gradient_of_cross_entropy(centred, made.batch.labels, made.x, weight)
    np.testing.assert_allclose(made.slope_of["xe"], slope, atol=1e-5)
    if (schedule, progress) == ("exp_schedule", 0.05):
        assert 0 < len(kept) < ROWS


def labeled_told(logits, labels, **options):
    method = method_of("uda", task(2, len(logits)), uratio=1, **options)
    batch = batch_of(method)
    batch = batch._replace(
        labeled={"weak": show(np.array(logits, float))}, labels=tf.constant(labels)
    )
    return method.losses(batch, tells(network_of(method)), Context())


def test_annealing_looks_at_the_true_class_keeps_equality_and_survives_nothing_kept():
    # The threshold of two classes at the start is 1/2.
    logits = [[0, 0], [3, 0], [0, 3], [0.01, 0]]
    result = labeled_told(logits, [0, 1, 1, 0], tsa="linear_schedule")
    rows = cross_entropy([0, 1, 1, 0], np.array(logits))
    # Kept: exactly at the threshold; sure of another class. Left out: known, and barely known.
    np.testing.assert_allclose(result.terms["xe"].value, (rows[0] + rows[1]) / 2, rtol=1e-5)
    none = labeled_told([[3, 0], [9, 0]], [0, 0], tsa="linear_schedule")
    assert float(none.terms["xe"].value) == 0
    every = labeled_told(logits, [0, 1, 1, 0])
    np.testing.assert_allclose(every.terms["xe"].value, rows.mean(), rtol=1e-5)


def test_the_annealing_may_end_before_the_run():
    # Half of 64 kimg: the linear threshold of five classes is 0.6.
    made = Made("uda", scale=0.9, tsa="linear_schedule", tsa_kimg=64.0, images=32 * 1024)
    known = softmax(made.x)[np.arange(ROWS), made.batch.labels]
    kept = known <= 0.6
    assert 0 < kept.sum() < ROWS
    made.check("xe", cross_entropy(made.batch.labels, made.x)[kept].mean())
    late = Made("uda", scale=0.9, tsa="linear_schedule", tsa_kimg=64.0, images=99 * 1024)
    late.check("xe", cross_entropy(late.batch.labels, late.x).mean())


def test_uda_leaves_out_a_guess_exactly_at_the_threshold():
    made = told([[0, 0, -200], [1, 0, 0]], "uda", confidence=0.5, temperature=1.0, rows=1)
    made.check_slope(made.p, [0, 1])


def test_uda_may_minimise_the_entropy_of_weak_views():
    made = Made("uda", we=0.2)
    made.check("entropy", entropy(made.p).mean(), 0.2)
    assert np.abs(made.slope_of["entropy"]).max() > 0
    assert "entropy" not in Made("uda").terms


# --- FlexMatch --------------------------------------------------------------------------------

MAPPINGS = {
    "convex": lambda b: b / (2 - b),
    "linear": lambda b: (b + 1) / 2,
    "concave": lambda b: np.log(b + 1) / np.log(2),
    "low_limit": lambda b: 1 / (2 - b),
}


def flexmatch_thresholds(remembered, tau, mapping, warmup):
    counts = [sum(u == c for u in remembered) for c in range(CLASSES)]
    unused = len(remembered) - sum(counts)
    most = max([*counts, unused]) if warmup else max(counts)
    return np.array([tau * MAPPINGS[mapping](n / most if most else 0.0) for n in counts])


@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("mapping", MAPPINGS)
def test_flexmatch_s_thresholds_follow_what_was_sure_last(mapping, warmup):
    """Each update is masked by what was remembered before it; then its sure guesses overwrite."""
    options = {"mapping": mapping, "thresh_warmup": warmup, "confidence": 0.7, "scale": 0.9}
    of = task(num_unlabeled=40)
    state = numbers(method_of("flexmatch", of).initial_state())
    remembered = [-1] * 40
    partly = 0
    for update in range(8):
        made = Made("flexmatch", of, state=state, seed=update, **options)
        thresholds = flexmatch_thresholds(remembered, 0.7, mapping, warmup)
        mask = [float(p.max() >= thresholds[p.argmax()]) for p in made.p]
        made.check_consistency(made.p.argmax(-1), mask)
        np.testing.assert_allclose(made.result.metrics["thresholds/mean"], thresholds.mean(), 1e-5)
        for n, p in zip(made.batch.unlabeled_index.numpy(), made.p, strict=True):
            if p.max() >= 0.7:
                remembered[n] = int(p.argmax())
        np.testing.assert_array_equal(made.state["sure_class"][:40], remembered)
        state = made.state
        partly += 0 < sum(mask) < len(mask)
    assert partly > 2
    assert -1 in remembered


def test_flexmatch_s_thresholds_start_at_zero_so_that_all_count():
    made = Made("flexmatch", scale=1e-3)
    assert float(made.result.metrics["kept/unlabeled"]) == 1
    assert float(made.result.metrics["thresholds/min"]) == 0


def test_flexmatch_keeps_a_row_exactly_at_its_class_s_threshold():
    # All images were last sure to be class 0, so its threshold is τ = 1/2 and the others' 0.
    state = {"sure_class": np.zeros(61, np.int32)}
    logits = [[0, 0, -200], [0, 0.01, -200], [-0.01, -0.02, -0.03], [0, 0, 0.01]]
    made = told(logits, "flexmatch", confidence=0.5, state=state)
    made.check_consistency([0, 1, 0, 2], [1, 1, 0, 1])
    # Exactly τ is sure as well, and what is not sure is not forgotten.
    index = made.batch.unlabeled_index.numpy()
    assert made.state["sure_class"][index].tolist() == [0, 1, 0, 0]


# --- FreeMatch --------------------------------------------------------------------------------


def fairness(strong, mask, p_mean, share):
    """Σ_c SN(P/H)_c·log(SN(p̄/h̄)_c + 1e−12) over the kept rows."""
    kept = [p for p, m in zip(strong, mask, strict=True) if m]
    if not kept:
        return 0.0
    mean, named = np.mean(kept, 0), np.zeros(len(p_mean))
    for p in kept:
        named[p.argmax()] += 1 / len(kept)

    def sum_to_one(values, by):
        ratio = np.array([v / b if b else 0.0 for v, b in zip(values, by, strict=True)])
        return ratio / ratio.sum()

    expected, found = sum_to_one(p_mean, share), sum_to_one(mean, named)
    return float(sum(e * np.log(f + 1e-12) for e, f in zip(expected, found, strict=True)))


class PlainFreeMatch:
    def __init__(self, decay):
        self.decay, self.tau = decay, 1 / CLASSES
        self.p = np.full(CLASSES, 1 / CLASSES)
        self.h = np.full(CLASSES, 1 / CLASSES)

    def update(self, probabilities, quantile=None):
        confidence = probabilities.max(-1)
        typical = confidence.mean() if quantile is None else np.quantile(confidence, quantile)
        guessed = np.bincount(probabilities.argmax(-1), minlength=CLASSES) / len(probabilities)
        keep = self.decay
        self.tau = keep * self.tau + (1 - keep) * typical
        self.p = keep * self.p + (1 - keep) * probabilities.mean(0)
        self.h = keep * self.h + (1 - keep) * guessed
        return self.tau * self.p / self.p.max()


@pytest.mark.parametrize(
    "options",
    [
        {"threshold_decay": 0.999},
        {"threshold_decay": 0.6},
        {"threshold_decay": 0.6, "quantile": 0.8},
        {"threshold_decay": 0.6, "quantile": 0.77},
        {"threshold_decay": 0.3, "clip_low": 0.5, "clip_high": 0.7},
        {"threshold_decay": 0.0},
    ],
    ids=str,
)
def test_freematch_s_thresholds_follow_the_batch_before_they_mask_it(options):
    method = method_of("freematch", uratio=3)
    state = numbers(method.initial_state())
    plain = PlainFreeMatch(options["threshold_decay"])
    partly = 0
    for update in range(5):
        made = Made(
            "freematch", scale=1.0, state=state, seed=update, wu=1.5, w_fair=0.05, **options
        )
        thresholds = plain.update(made.p, options.get("quantile"))
        thresholds = thresholds.clip(options.get("clip_low", 0), options.get("clip_high", 1))
        mask = [float(p.max() >= thresholds[p.argmax()]) for p in made.p]
        made.check_consistency(made.p.argmax(-1), mask, factor=1.5)
        made.check("fairness", fairness(softmax(made.s), mask, plain.p, plain.h), 0.05, rtol=1e-4)
        np.testing.assert_allclose(made.state["threshold"], plain.tau, rtol=1e-5)
        np.testing.assert_allclose(made.state["mean_probability"], plain.p, rtol=1e-5)
        np.testing.assert_allclose(made.state["guess_share"], plain.h, rtol=1e-5, atol=1e-8)
        state = made.state
        partly += 0 < sum(mask) < len(mask)
    assert partly > 1 or options["threshold_decay"] == 0.999


def test_freematch_keeps_a_row_exactly_at_its_threshold():
    # Without memory τ is the mean confidence 1/2 and both classes are equally likely.
    made = told([[0, 0], [0, 0], [0, 0], [0, 0]], "freematch", classes=2, threshold_decay=0.0)
    made.check_consistency([0, 0, 0, 0], [1, 1, 1, 1])


def test_the_fairness_term_s_gradient_is_that_of_the_mean_strong_prediction_alone():
    made = Made("freematch", scale=1.0, centred=False, threshold_decay=0.5)
    thresholds = PlainFreeMatch(0.5)
    limits = thresholds.update(made.p)
    mask = [float(p.max() >= limits[p.argmax()]) for p in made.p]
    strong, weights = flat(made.blocks[2]), made.network.weights.numpy().astype(np.float64)
    slope = np.zeros_like(weights)
    for place in np.ndindex(*weights.shape):
        step = np.zeros_like(weights)
        step[place] = 1e-6
        there, back = (
            fairness(softmax(strong @ (weights + sign * step)), mask, thresholds.p, thresholds.h)
            for sign in (1, -1)
        )
        slope[place] = (there - back) / 2e-6
    assert np.abs(slope).max() > 1e-2
    np.testing.assert_allclose(made.slope_of["fairness"], slope, atol=1e-4)


# --- SoftMatch --------------------------------------------------------------------------------


@pytest.mark.parametrize("statistics", ["unaligned", "aligned"])
@pytest.mark.parametrize("decay", [0.999, 0.5])
def test_softmatch_weighs_aligned_guesses_and_teaches_unaligned_ones(statistics, decay):
    method = method_of("softmatch", uratio=3)
    state = numbers(method.initial_state())
    observed, mu, variance = np.full(CLASSES, 1 / CLASSES), 1 / CLASSES, 1.0
    for update in range(5):
        made = Made(
            "softmatch",
            scale=1.0,
            state=state,
            seed=update,
            statistics=statistics,
            statistics_decay=decay,
        )
        observed = decay * observed + (1 - decay) * made.p.mean(0)
        even = aligned(made.p, np.full(CLASSES, 1 / CLASSES), observed)
        followed = (made.p if statistics == "unaligned" else even).max(-1)
        mu = decay * mu + (1 - decay) * followed.mean()
        variance = decay * variance + (1 - decay) * followed.var(ddof=1)
        weight = [np.exp(-(min(c - mu, 0.0) ** 2) / (2 * variance / 2**2)) for c in even.max(-1)]
        made.check_consistency(made.p.argmax(-1), weight)
        np.testing.assert_allclose(made.state["mean"], mu, rtol=1e-5)
        np.testing.assert_allclose(made.state["variance"], variance, rtol=1e-5)
        np.testing.assert_allclose(made.state["mean_probability"], observed, rtol=1e-5)
        state = made.state
    assert decay == 0.999 or 0 < min(weight) < 0.5 < max(weight)


def test_softmatch_s_published_weights():
    found = softmatch.gaussian_weight(tf.constant([0.9, 0.8, 0.7, 0.6]), 0.8, 0.04, 2.0)
    np.testing.assert_allclose(found, [1, 1, 0.60653, 0.13534], atol=1e-5)
    # With the paper's own formula, without the factor 4.
    plain = softmatch.gaussian_weight(tf.constant([0.7]), 0.8, 0.04, 1.0)
    np.testing.assert_allclose(plain, [np.exp(-0.01 / 0.08)], rtol=1e-5)


def test_softmatch_s_weight_is_one_from_the_mean_on_and_falls_below_it():
    confidence = tf.linspace(0.0, 1.0, 101)
    weight = softmatch.gaussian_weight(confidence, 0.7, 0.02, 2.0).numpy()
    np.testing.assert_array_equal(weight[confidence >= 0.7], 1)
    assert (np.diff(weight) >= 0).all()
    assert (np.diff(weight[30:70]) > 0).all()


# --- Dash -------------------------------------------------------------------------------------


def test_dash_from_warm_up_through_decay_to_its_floor():
    """24 labelled images in batches of 8: the warm-up's last pass are its last three updates."""
    kimg = 1 / 1024
    options = {
        "warmup_kimg": 40 * kimg,
        "decay_kimg": 16 * kimg,
        "gamma": 2.0,
        "rho_min": 0.3,
        "start": 1.0001,
        "temperature": 0.4,
        "uratio": 3,
    }
    method = method_of("dash", **options)
    network = network_of(method, scale=0.9)
    random = np.random.default_rng(0)
    labeled = random.uniform(-1, 1, (24, 3, 3, 2)).astype(np.float32)
    labels = random.integers(0, CLASSES, 24)
    # The network does not change here, so its loss after the warm-up is that of all 24 images.
    first = cross_entropy(labels, logits_of(network, labeled)[0]).mean()
    state = numbers(method.initial_state())
    phases, partly = [], 0
    for update in range(16):
        images = 8 * update
        part = slice(images % 24, images % 24 + 8)
        batch = batch_of(method, update)._replace(
            labeled={"weak": tf.constant(labeled[part])}, labels=tf.constant(labels[part])
        )
        made = Made("dash", batch=batch, network=network, state=state, images=images, **options)
        state = made.state
        hard = one_hot(made.p.argmax(-1), CLASSES)
        if images < 40:
            made.check_consistency(hard, np.zeros(24))
            made.check("xe", cross_entropy(labels[part], made.x).mean())
            phases.append("warm-up")
            continue
        rho = max(1.0001 * 2.0 ** -((images - 40) // 16) * first, 0.3)
        np.testing.assert_allclose(made.result.metrics["thresholds/loss"], rho, rtol=1e-5)
        target = hard if rho == 0.3 else softmax(made.w / 0.4)
        loss = -(target * np.log(made.p)).sum(-1)
        weight = [float(value <= rho) for value in loss]
        made.check_consistency(target, weight)
        phases.append("floor" if rho == 0.3 else "decay")
        partly += 0 < sum(weight) < 24
    assert phases.count("warm-up") == 5
    assert phases.count("decay") >= 4
    assert phases.count("floor") >= 3
    assert partly >= 6


def test_dash_without_a_warm_up_takes_the_first_update_s_loss():
    options = {"warmup_kimg": 0.0, "rho_min": 0.01}
    made = Made("dash", scale=0.8, **options)
    rho = 1.0001 * cross_entropy(made.batch.labels, made.x).mean()
    np.testing.assert_allclose(made.result.metrics["thresholds/loss"], rho, rtol=1e-5)
    later = Made("dash", scale=0.8, images=8.0, state=made.state, seed=2, **options)
    np.testing.assert_allclose(later.result.metrics["thresholds/loss"], rho, rtol=1e-5)


def test_dash_keeps_a_row_exactly_at_its_threshold():
    # The labelled loss was ln 2, and so is that of a guess of probability 1/2.
    state = {"measured": np.float32(1), "loss_sum": np.log(np.float32(2))}
    options = {"start": 1.0, "warmup_kimg": 1.0, "images": 1024.0, "temperature": 1.0}
    logits = [[0, 0, -200], [0, 0, -9], [1, 0, -200], [0, 0, 0]]
    made = told(logits, "dash", state=state, **options)
    made.check_consistency(made.p, [1, 0, 1, 0])
