"""Pseudo-Label, Π-model, Mean Teacher, VAT, ICT and MixUp against slow plain NumPy."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from by_hand import (
    cross_entropy,
    divergence,
    entropy,
    flat,
    gradient_of_cross_entropy,
    gradient_of_squares,
    logits_of,
    mixed_with,
    one_hot,
    softmax,
    unmixed,
)
from doubles import (
    LinearNetwork,
    batch_of,
    context_of,
    method_of,
    network_of,
    show,
    task,
    tells,
    total_of,
)
from sklearn.datasets import load_digits

from realmix_tf.nets.build import build_network
from realmix_tf.nets.spec import NetworkSpec

ROWS, CLASSES = 8, 5
EVERY = ("pseudo_label", "pi_model", "mean_teacher", "vat", "ict", "mixup")


class Made:
    """One update of a method, with everything its reference needs."""

    def __init__(self, name, scale=0.4, centred=True, progress=0.1, batch=None, **options):
        self.method = method_of(name, **options)
        self.batch = batch or batch_of(self.method)
        self.network = network_of(self.method, scale=scale, centred=centred)
        self.teacher = network_of(self.method, seed=7, centred=centred)
        context = context_of(self.method, progress=progress, teacher=self.teacher)
        self.x, self.u = self.batch.labeled, self.batch.unlabeled
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(list(self.u.values()))
            self.result = self.method.losses(self.batch, self.network, context)
            total = total_of(self.result)
        self.terms = self.result.terms
        self.slope = tape.gradient(total, self.network.weights)
        self.teacher_slope = tape.gradient(total, self.teacher.weights)
        self.slope_of = {
            name: tape.gradient(term.value, self.network.weights)
            for name, term in self.terms.items()
        }
        self.slope_to = {name: tape.gradient(total, view) for name, view in self.u.items()}

    def check(self, name, value, weight, rtol=1e-5):
        np.testing.assert_allclose(self.terms[name].value, value, rtol=rtol, err_msg=name)
        np.testing.assert_allclose(self.terms[name].weight, weight, rtol=1e-6, err_msg=name)

    def check_labeled(self):
        """The labelled images pass alone, in training, and they alone move the averages."""
        (logits,) = logits_of(self.network, self.x["weak"])
        self.check("xe", cross_entropy(self.batch.labels, logits).mean(), 1)
        moving = [call for call in self.network.calls if call.update_stats]
        assert len(moving) == 1
        assert all(call.training for call in self.network.calls)
        np.testing.assert_array_equal(moving[0].images, self.x["weak"])
        assert self.terms.keys() - {"xe"}


@pytest.mark.parametrize(("progress", "ramp"), [(0, 0), (0.1, 0.25), (0.4, 1), (0.9, 1)])
def test_pseudo_label_teaches_itself_what_it_is_sure_of(progress, ramp):
    made = Made("pseudo_label", scale=1.2, progress=progress, threshold=0.8, consistency_weight=3.0)
    made.check_labeled()
    (logits,) = logits_of(made.network, made.u["weak"])
    value, kept, weight = 0.0, [], np.zeros(ROWS)
    for i, p in enumerate(softmax(logits)):
        if p.max() > 0.8:
            kept.append(p.argmax())
            weight[i] = 1 / ROWS
            value -= np.log(p.max()) / ROWS
    assert 0 < len(kept) < ROWS
    made.check("consistency", value, 3 * ramp, rtol=1e-4)
    # Target and mask are fixed: the slope is that of cross entropy to a given class.
    view = flat(made.u["weak"])
    centred = view - view.mean(0)
    slope = gradient_of_cross_entropy(centred, logits.argmax(-1), logits, weight)
    np.testing.assert_allclose(made.slope_of["consistency"], slope, atol=1e-5)
    np.testing.assert_allclose(made.result.metrics["kept/unlabeled"], len(kept) / ROWS)
    shares = np.bincount(kept, minlength=CLASSES) / len(kept)
    spread = np.exp(entropy(shares[None])[0])
    np.testing.assert_allclose(made.result.metrics["pseudo_labels/classes"], spread, rtol=1e-5)


def test_pseudo_label_leaves_out_a_row_exactly_at_the_threshold_and_rows_are_masked_one_by_one():
    # Rows: p = 1/2 at most; sure and right by its own guess; sure of another class.
    logits = np.array([[0, 0, -200], [9, 0, 0], [0, 0, 3]], float)
    of = task(3, 3)
    method = method_of("pseudo_label", of, threshold=0.5)
    batch = batch_of(method)._replace(unlabeled={"weak": show(logits)})
    made = method.losses(batch, tells(network_of(method)), context_of(method, progress=1.0))
    rows = cross_entropy(logits.argmax(-1), logits)
    np.testing.assert_allclose(made.terms["consistency"].value, rows[1:].sum() / 3, rtol=1e-4)
    np.testing.assert_allclose(made.metrics["kept/unlabeled"], 2 / 3)


def test_pi_model_compares_two_views_and_the_first_is_fixed():
    made = Made("pi_model")
    made.check_labeled()
    (first,), (second,) = (logits_of(made.network, made.u[f"weak{i}"]) for i in (0, 1))
    value = ((softmax(first) - softmax(second)) ** 2).mean()
    made.check("consistency", value, 10 * 0.25)
    view = flat(made.u["weak1"])
    slope = gradient_of_squares(view - view.mean(0), softmax(first), second)
    np.testing.assert_allclose(made.slope_of["consistency"], slope, atol=1e-6)
    assert made.slope_to["weak0"] is None
    assert np.abs(made.slope_to["weak1"]).max() > 0


def test_mean_teacher_follows_the_averaged_weights_on_the_first_view():
    made = Made("mean_teacher")
    made.check_labeled()
    (target,) = logits_of(made.teacher, made.u["weak0"])
    (student,) = logits_of(made.network, made.u["weak1"])
    value = ((softmax(target) - softmax(student)) ** 2).mean()
    made.check("consistency", value, 50 * 0.25)
    view = flat(made.u["weak1"])
    slope = gradient_of_squares(view - view.mean(0), softmax(target), student)
    np.testing.assert_allclose(made.slope_of["consistency"], slope, atol=1e-6)
    assert made.teacher_slope is None
    assert len(made.teacher.calls) == 1
    assert made.method.reads_teacher


def test_ict_asks_for_the_mixture_of_the_teacher_s_answers():
    made = Made("ict")
    made.check_labeled()
    (call,) = [c for c in made.network.calls if not c.update_stats]
    view = flat(made.u["weak"])
    shares, _ = unmixed(call.images, view, view[::-1])
    mixed = mixed_with(view, view[::-1], shares, np.arange(ROWS))
    np.testing.assert_allclose(flat(call.images), mixed, atol=1e-6)
    assert len(np.unique(shares)) == ROWS
    assert shares.min() >= 0.5 - 1e-6
    # The teacher sees the images as they are, and its answers are mixed.
    np.testing.assert_array_equal(made.teacher.calls[0].images, made.u["weak"])
    (answers,) = logits_of(made.teacher, made.u["weak"])
    p = softmax(answers)
    target = mixed_with(p, p[::-1], shares, np.arange(ROWS))
    (student,) = logits_of(made.network, mixed)
    made.check("consistency", ((target - softmax(student)) ** 2).mean(), 50 * 0.25)
    slope = gradient_of_squares(mixed - mixed.mean(0), target, student)
    np.testing.assert_allclose(made.slope_of["consistency"], slope, atol=1e-6)
    assert made.teacher_slope is None
    assert made.method.reads_teacher


def test_mixup_mixes_labelled_and_unlabelled_images_with_their_mirrors():
    made = Made("mixup", progress=0.0)
    moving, plain, student = made.network.calls
    assert [c.update_stats for c in made.network.calls] == [True, False, False]
    np.testing.assert_array_equal(plain.images, made.u["weak"])
    (answers,) = logits_of(made.network, made.u["weak"])
    labels = one_hot(made.batch.labels, CLASSES)
    # Not ramped: the weight is 1 from the start.
    for name, call, view, targets in (
        ("xe", moving, made.x["weak"], labels),
        ("xeu", student, made.u["weak"], softmax(answers)),
    ):
        view = flat(view)
        shares, _ = unmixed(call.images, view, view[::-1])
        assert len(np.unique(shares)) == ROWS
        assert shares.min() >= 0.5 - 1e-6
        mixed = mixed_with(view, view[::-1], shares, np.arange(ROWS))
        np.testing.assert_allclose(flat(call.images), mixed, atol=1e-6)
        wanted = mixed_with(targets, targets[::-1], shares, np.arange(ROWS))
        (logits,) = logits_of(made.network, mixed)
        made.check(name, cross_entropy(wanted, logits).mean(), 1)
        centred = mixed - mixed.mean(0)
        slope = gradient_of_cross_entropy(centred, wanted, logits, np.full(ROWS, 1 / ROWS))
        np.testing.assert_allclose(made.slope_of[name], slope, atol=1e-5)


# --- Virtual adversarial training -------------------------------------------------------------


def unit_as_published(rows: np.ndarray) -> np.ndarray:
    out = np.zeros_like(rows)
    for i, row in enumerate(rows):
        scaled = row / (np.abs(row).max() + 1e-12)
        out[i] = scaled / np.sqrt(1e-6 + (scaled**2).sum())
    return out


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_vat_steps_in_the_direction_that_changes_the_prediction_most(direction):
    made = Made("vat", centred=False, vat_xi=0.05, vat_eps=1.5, divergence=direction)
    made.check_labeled()
    clean, search, moved = made.network.calls[1:]
    u, weights = flat(made.u["weak"]), made.network.weights.numpy().astype(np.float64)
    np.testing.assert_array_equal(clean.images, made.u["weak"])
    first = flat(search.images) - u
    np.testing.assert_allclose(np.sqrt((first**2).sum(-1)), 0.05, rtol=1e-4)
    # The slope of KL(p(u) ‖ p(u + r)) with respect to r at the first step.
    p = softmax(u @ weights)
    slope = (softmax((u + first) @ weights) - p) @ weights.T
    d = 1.5 * unit_as_published(slope)
    np.testing.assert_allclose(flat(moved.images) - u, d, atol=2e-4)
    there = softmax(flat(moved.images) @ weights)
    pair = (there, p) if direction == "reverse" else (p, there)
    made.check("vat", divergence(*pair).mean(), 0.3 * 0.25, rtol=1e-4)
    made.check("entropy", entropy(p).mean(), 0.06)


def test_vat_blocks_the_gradient_through_the_direction_and_through_the_clean_prediction():
    made = Made("vat", centred=False, vat_xi=0.05, vat_eps=1.5)
    u, weights = flat(made.u["weak"]), made.network.weights.numpy().astype(np.float64)
    there = flat(made.network.calls[3].images)
    p, q = softmax(u @ weights), softmax(there @ weights)
    slope = np.zeros_like(weights)
    for x, row, fixed in zip(there, q, p, strict=True):
        ratio = np.log(row / fixed)
        slope += np.outer(x, row * (ratio - (row * ratio).sum())) / ROWS
    np.testing.assert_allclose(made.slope_of["vat"], slope, atol=2e-5)
    slope = np.zeros_like(weights)
    for x, row in zip(u, p, strict=True):
        slope += np.outer(x, -row * (np.log(row) - (row * np.log(row)).sum())) / ROWS
    np.testing.assert_allclose(made.slope_of["entropy"], slope, atol=2e-5)


def test_vat_ramps_the_adversarial_term_and_not_the_entropy():
    for progress, ramp in ((0.0, 0.0), (0.2, 0.5), (0.4, 1.0), (1.0, 1.0)):
        made = Made("vat", progress=progress)
        assert float(made.terms["vat"].weight) == pytest.approx(0.3 * ramp)
        assert made.terms["entropy"].weight == 0.06


def test_vat_of_a_network_that_says_the_same_of_everything_is_zero_and_finite():
    method = method_of("vat")
    network = network_of(method, scale=0.0)
    with tf.GradientTape() as tape:
        total = total_of(method.losses(batch_of(method), network, context_of(method)))
    assert np.isfinite(tape.gradient(total, network.weights)).all()
    assert np.isfinite(total)


@pytest.fixture(scope="module", params=["float32", "mixed_bfloat16"])
def trained(request):
    """A small network after 150 updates on handwritten digits, and images it has not seen."""
    images, labels = load_digits(return_X_y=True)
    images = np.float32(images.reshape(-1, 8, 8, 1) / 8 - 1)
    network = build_network(NetworkSpec("small", 10, 8, 8, 1, 8), request.param)
    weights = list(network.trainable_by_name().values())
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build(weights)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            logits = network(x, training=True, update_stats=True).logits
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        values = [weight.value for weight in weights]
        optimizer.apply(tape.gradient(loss, values, unconnected_gradients="zero"), weights)

    random = np.random.default_rng(0)
    for _ in range(150):
        rows = random.integers(0, 800, 64)
        step(tf.constant(images[rows]), tf.constant(labels[rows]))
    return network, tf.constant(images[800:928])


@pytest.mark.parametrize("xi", [1e-6, 1.0])
def test_vat_s_direction_is_far_worse_than_a_random_one_for_a_real_network(trained, xi):
    """Also with the published step of 1e-6, which float32 images hardly show.

    What is found then is the slope of rounding errors, which points where predictions change
    easily, too.
    """
    network, images = trained
    eps = 6 * (64 / 3072) ** 0.5  # as long a pixel as 6 is on 32×32×3
    method = method_of("vat", task(10, 128), vat_xi=xi, vat_eps=eps)

    def logits_at(x):
        return network(x, training=True, update_stats=False).logits

    logits = logits_at(images)
    d = method.perturbation(images, logits, network, context_of(method))
    noise = np.random.default_rng(0).normal(size=images.shape)
    noise *= eps / np.sqrt((noise**2).sum((1, 2, 3), keepdims=True))
    found, random = (
        divergence(*(softmax(np.float64(z)) for z in (logits, logits_at(images + step)))).mean()
        for step in (d, np.float32(noise))
    )
    assert found > 5 * random


# --- All of them ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_none_keeps_anything_between_updates(name):
    method = method_of(name)
    assert method.initial_state() == {}
    assert method.heads(0, 4, (1, 1, 4)) == {}
    assert Made(name).result.state == {}
    assert method.views().ratio == 1
    assert method.views().labeled == ("weak",)


@pytest.mark.parametrize("name", EVERY)
def test_a_network_sure_of_everything_gives_finite_losses_and_gradients(name):
    made = Made(name, scale=200.0, progress=1.0)
    assert np.isfinite([float(term.value) for term in made.terms.values()]).all()
    assert np.isfinite(made.slope).all()


def test_nothing_sure_enough_is_zero_and_everything_sure_is_plain_cross_entropy():
    none = Made("pseudo_label", scale=0.01, progress=1.0)
    assert float(none.terms["consistency"].value) == 0
    np.testing.assert_array_equal(none.slope_of["consistency"], np.zeros_like(none.slope))
    every = Made("pseudo_label", threshold=0.0)
    (logits,) = logits_of(every.network, every.u["weak"])
    every.check("consistency", cross_entropy(logits.argmax(-1), logits).mean(), 0.25)


@pytest.mark.parametrize("name", ["mean_teacher", "pi_model"])
def test_the_same_network_on_the_same_views_has_nothing_to_learn(name):
    method = method_of(name)
    batch = batch_of(method)
    same = dict.fromkeys(method.views().unlabeled, batch.unlabeled["weak0"])
    network = network_of(method)
    context = context_of(method, progress=1.0, teacher=network)
    result = method.losses(batch._replace(unlabeled=same), network, context)
    assert float(result.terms["consistency"].value) == pytest.approx(0, abs=1e-12)


def test_the_linear_stand_in_is_what_its_reference_computes():
    network = LinearNetwork(18, CLASSES, centred=True)
    images = batch_of(method_of("pi_model")).labeled["weak"]
    found = network(images, training=True, update_stats=False).logits
    np.testing.assert_allclose(found, logits_of(network, images)[0], atol=1e-5)
