"""AdaMatch against slow plain NumPy; the random shares of its two passes are given."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from by_hand import aligned, cross_entropy, flat, logits_of, one_hot, softmax
from doubles import (
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

ROWS, CLASSES = 8, 5


@pytest.fixture
def shares(monkeypatch):
    """Uniform numbers that are known: [2·ROWS, CLASSES], or what a test puts there."""
    given = {"value": np.random.default_rng(5).uniform(size=(2 * ROWS, CLASSES))}

    def uniform(shape, seed, **kwargs):
        assert np.shape(given["value"]) == tuple(shape)
        return tf.constant(given["value"], tf.float32)

    monkeypatch.setattr(tf.random, "stateless_uniform", uniform)
    return given


class Made:
    def __init__(self, share, state=None, seed=1, progress=0.25, scale=0.8, batch=None, **options):
        self.method = method_of("adamatch", **options)
        self.batch = batch or batch_of(self.method, seed)
        self.network = network_of(self.method, centred=True, scale=scale)
        self.x = [self.batch.labeled[name] for name in ("weak", "strong")]
        self.u = [self.batch.unlabeled[name] for name in ("weak", "strong")]
        self.context = context_of(
            self.method, progress=progress, state=state or self.method.initial_state()
        )
        with tf.GradientTape(persistent=True) as tape:
            self.result = self.method.losses(self.batch, self.network, self.context)
        weights = self.network.weights
        self.slope_of = {n: tape.gradient(t.value, weights) for n, t in self.result.terms.items()}
        self.state = numbers(self.result.state)
        # The joint pass, the labelled pass, and what lies between them.
        *together, self.weak, self.strong = logits_of(self.network, *self.x, *self.u)
        self.together, self.alone = (
            np.concatenate(v) for v in (together, logits_of(self.network, *self.x))
        )
        self.logits = self.together + share * (self.alone - self.together)
        self.labels = np.tile(self.batch.labels, 2)

    def check(self, name, value, weight, rtol=1e-5):
        term = self.result.terms[name]
        np.testing.assert_allclose(term.value, value, rtol, 1e-7, err_msg=name)
        np.testing.assert_allclose(term.weight, weight, rtol=1e-6, err_msg=name)

    def supervised(self):
        rows = cross_entropy(self.labels, self.logits)
        return (rows[:ROWS].mean() + rows[ROWS:].mean()) / 2


def test_averages_thresholds_and_losses_over_several_updates(shares):
    labeled_mean = np.full(CLASSES, 1 / CLASSES)
    history = np.full((128, CLASSES), 1 / CLASSES)
    state = numbers(method_of("adamatch").initial_state())
    np.testing.assert_allclose(state["labeled_mean"], labeled_mean)
    np.testing.assert_allclose(state["unlabeled_history"], history)
    partly = 0
    for update in range(5):
        made = Made(shares["value"], state, update, wu=2.0)
        made.check("xe", made.supervised(), 1)
        labeled = softmax(made.logits[:ROWS])  # of the weak views
        threshold = 0.9 * labeled.max(-1).mean()
        guess = softmax(made.weak)
        labeled_mean = 0.999 * labeled_mean + 0.001 * labeled.mean(0)
        history = np.concatenate([history[1:], guess.mean(0)[None]])
        even = aligned(guess, labeled_mean, history.mean(0))
        mask = [float(p.max() >= threshold) for p in even]
        value = (mask * cross_entropy(even.argmax(-1), made.strong)).mean()
        made.check("xeu", value, 2 * (0.5 - 0.5 * np.cos(np.pi / 2)))
        np.testing.assert_allclose(made.result.metrics["kept/unlabeled"], np.mean(mask), rtol=1e-5)
        np.testing.assert_allclose(made.result.metrics["thresholds/relative"], threshold, rtol=1e-5)
        np.testing.assert_allclose(made.state["labeled_mean"], labeled_mean, rtol=1e-5)
        np.testing.assert_allclose(made.state["unlabeled_history"], history, rtol=1e-5)
        state = made.state
        partly += 0 < sum(mask) < len(mask)
    assert partly > 2


def test_guesses_are_aligned_before_they_are_masked_and_named(shares):
    random = np.random.default_rng(0)
    wanted = np.array([0.02, 0.38, 0.2, 0.2, 0.2], np.float32)
    history = random.dirichlet([9, 1, 2, 2, 2], 128).astype(np.float32)
    made = Made(shares["value"], {"labeled_mean": wanted, "unlabeled_history": history})
    guess = softmax(made.weak)
    # The averages that this update is part of already.
    wanted = 0.999 * wanted + 0.001 * softmax(made.logits[:ROWS]).mean(0)
    even = aligned(guess, wanted, np.concatenate([history[1:], guess.mean(0)[None]]).mean(0))
    assert (even.argmax(-1) != guess.argmax(-1)).any()
    threshold = 0.9 * softmax(made.logits[:ROWS]).max(-1).mean()
    mask = even.max(-1) >= threshold
    assert 0 < mask.sum() < len(mask)
    made.check("xeu", (mask * cross_entropy(even.argmax(-1), made.strong)).mean(), 0.5)
    # What is recorded is not aligned.
    np.testing.assert_allclose(made.state["unlabeled_history"][-1], guess.mean(0), rtol=1e-5)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_logits_lie_between_the_joint_pass_and_the_labelled_one(shares, end):
    shares["value"] = np.full((2 * ROWS, CLASSES), end)
    made = Made(end)
    here = made.together if end == 0 else made.alone
    made.check("xe", cross_entropy(made.labels, here).mean(), 1)
    there = made.alone if end == 0 else made.together
    assert abs(cross_entropy(made.labels, there).mean() - made.supervised()) > 1e-3


def test_the_shares_are_random_numbers_of_the_update():
    made, again = Made(0.0), Made(0.0)
    found = float(made.result.terms["xe"].value)
    assert found == float(again.result.terms["xe"].value)
    ends = [cross_entropy(made.labels, z).mean() for z in (made.together, made.alone)]
    assert min(abs(found - end) for end in ends) > 1e-4


def test_gradients_take_both_ways_and_never_the_guess(shares):
    made = Made(shares["value"])
    rows = [flat(v) for v in (*made.x, *made.u)]
    centre = np.concatenate(rows).mean(0)
    labeled = np.concatenate(rows[:2])
    joint, alone = labeled - centre, labeled - labeled.mean(0)
    error = (softmax(made.logits) - one_hot(made.labels, CLASSES)) / (2 * ROWS)
    share = shares["value"]
    slope = joint.T @ ((1 - share) * error) + alone.T @ (share * error)
    np.testing.assert_allclose(made.slope_of["xe"], slope, atol=1e-5)
    guess, labeled = softmax(made.weak), softmax(made.logits[:ROWS])
    wanted = 0.999 * 0.2 + 0.001 * labeled.mean(0)
    even = aligned(guess, wanted, 127 / 128 * 0.2 + guess.mean(0) / 128)
    threshold = 0.9 * labeled.max(-1).mean()
    mask = (even.max(-1) >= threshold)[:, None]
    error = mask * (softmax(made.strong) - one_hot(even.argmax(-1), CLASSES)) / len(even)
    np.testing.assert_allclose(made.slope_of["xeu"], (rows[3] - centre).T @ error, atol=1e-5)


def test_only_the_joint_pass_moves_the_averages(shares):
    made = Made(shares["value"])
    modes = sorted((len(c.images), c.training, c.update_stats) for c in made.network.calls)
    assert modes == [(2 * ROWS, True, False), (2 * ROWS + 2 * 3 * ROWS, True, True)]
    every = np.concatenate([flat(v) for v in (*made.x, *made.u)])
    np.testing.assert_allclose(made.network.moving_mean, 0.001 * every.mean(0), atol=1e-7)


@pytest.mark.parametrize(
    ("progress", "ramp"), [(0, 0), (0.125, 0.146447), (0.25, 0.5), (0.5, 1), (0.75, 1), (1, 1)]
)
def test_the_unlabelled_weight_rises_as_a_cosine_over_the_first_half(shares, progress, ramp):
    made = Made(shares["value"], progress=progress, wu=3.0)
    np.testing.assert_allclose(made.result.terms["xeu"].weight, 3 * ramp, atol=1e-5)


def test_the_threshold_follows_the_labelled_confidence_and_equality_counts(shares):
    shares["value"] = np.zeros((2, 2))
    method = method_of("adamatch", task(2, 1), uratio=3, confidence=1.0)
    network = tells(network_of(method))
    batch = batch_of(method)
    weak = show(np.array([[0, 0], [0.001, 0], [3, 0]]))
    for labeled, kept in (([[0, 0]], 3), ([[1, 0]], 1)):
        views = {"weak": show(np.array(labeled)), "strong": show(np.array([[9, 0]]))}
        unlabeled = {"weak": weak, "strong": batch.unlabeled["strong"]}
        result = method.losses(
            batch._replace(labeled=views, unlabeled=unlabeled), network, context_of(method)
        )
        np.testing.assert_allclose(result.metrics["kept/unlabeled"], kept / 3, rtol=1e-6)


def test_nothing_kept_is_zero_and_finite(shares):
    method = method_of("adamatch", confidence=1.0)
    batch, network = batch_of(method), tells(network_of(method))
    sure = {name: show(40.0 * one_hot(batch.labels, CLASSES)) for name in batch.labeled}
    batch = batch._replace(labeled=sure)
    with tf.GradientTape() as tape:
        result = method.losses(batch, network, context_of(method, progress=1.0))
        total = total_of(result)
    assert float(result.terms["xeu"].value) == 0
    assert float(result.metrics["kept/unlabeled"]) == 0
    assert np.isfinite(tape.gradient(total, network.weights)).all()


def test_its_recipe_is_its_own():
    recipe = method_of("adamatch").recipe
    assert (recipe.optimizer, recipe.lr, recipe.wd) == ("sgd", 0.03, 1e-3)
    assert recipe.lr_final == 0.25
