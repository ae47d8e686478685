"""SimMatch against slow plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from by_hand import (
    aligned,
    cross_entropy,
    features_of,
    logits_of,
    normalized,
    one_hot,
    projected,
    softmax,
    unit,
)
from doubles import batch_of, context_of, method_of, network_of, numbers, task, total_of

ROWS, CLASSES, WIDTH, LABELED = 8, 5, 7, 24


def known_state(seed=0, recorded=5):
    """A bank in which every image was seen, and a queue of some updates."""
    random = np.random.default_rng(seed)
    queue = np.zeros((32, CLASSES))
    queue[32 - recorded :] = random.dirichlet(np.ones(CLASSES), recorded)
    state = {
        "bank_features": unit(random.normal(size=(LABELED, WIDTH))),
        "bank_classes": one_hot(random.integers(0, CLASSES, LABELED), CLASSES),
        "class_history": queue,
    }
    return {name: np.float32(value) for name, value in state.items()}


class Made:
    def __init__(self, state=None, seed=1, images=1e6, centred=True, **options):
        options = {"proj_size": WIDTH, "uratio": 3, "confidence": 0.5} | options
        self.method = method_of("simmatch", **options)
        self.config = self.method.config
        self.batch = batch_of(self.method, seed)
        self.network = network_of(self.method, scale=0.9, centred=centred)
        self.before = known_state() if state is None else state
        self.context = context_of(self.method, images=images, state=self.before)
        self.views = (
            self.batch.labeled["weak"],
            self.batch.unlabeled["weak"],
            self.batch.unlabeled["strong"],
        )
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(self.views)
            self.result = self.method.losses(self.batch, self.network, self.context)
            total = total_of(self.result)
        every = [*self.network.variables[:2], *self.context.weights.values()]
        self.slopes = tape.gradient(total, every, unconnected_gradients="zero")
        self.slope_to = {
            name: tape.gradient(term.value, self.views, unconnected_gradients="zero")
            for name, term in self.result.terms.items()
        }
        self.state = numbers(self.result.state)
        self.x, self.w, self.s = logits_of(self.network, *self.views)
        weights = numbers(self.context.weights)
        self.z = [projected(weights, f) for f in features_of(self.network, *self.views)]
        # The queue takes this update's mean first, then aligns to the mean of what it holds.
        p = softmax(self.w)
        self.queue = np.concatenate([self.before["class_history"][1:], p.mean(0)[None]])
        held = self.queue[self.queue.sum(-1) > 0]
        self.guess = aligned(p, np.full(CLASSES, 1 / CLASSES), held.mean(0))

    def check(self, name, value, weight=1.0, rtol=1e-4):
        np.testing.assert_allclose(self.result.terms[name].value, value, rtol, 1e-7, err_msg=name)
        np.testing.assert_allclose(self.result.terms[name].weight, weight, err_msg=name)

    def exchanged(self, bank, classes):
        """The smoothed guess and the calibrated likeness, row by row."""
        smoothed, calibrated = [], []
        named = classes.argmax(-1)
        for z, p in zip(self.z[1], self.guess, strict=True):
            t = softmax(bank @ z / self.config.temperature)
            mass = np.zeros(CLASSES)
            for slot, value in enumerate(t):
                mass[named[slot]] += value
            smoothed.append(self.config.smoothing * p + (1 - self.config.smoothing) * mass)
            calibrated.append(normalized(t * p[named]))
        return np.array(smoothed), np.array(calibrated)

    def check_losses(self, target, instance, in_weight=1.0):
        mask = [float(p.max() >= self.config.confidence) for p in target]
        assert 0 < sum(mask) < len(mask)
        self.check("xe", cross_entropy(self.batch.labels, self.x).mean())
        self.check("xeu", (mask * cross_entropy(target, self.s)).mean())
        if in_weight:
            self.check("instance", instance, in_weight)
        else:
            assert float(self.result.terms["instance"].weight) == 0


@pytest.mark.parametrize("options", [{}, {"smoothing": 0.6, "temperature": 0.3, "w_in": 2.0}])
def test_guesses_and_likenesses_correct_each_other_over_several_updates(options):
    state = known_state()
    bank, classes = state["bank_features"].copy(), state["bank_classes"].copy()
    for update in range(4):
        made = Made(state, update, **options)
        smoothed, calibrated = made.exchanged(bank, classes)
        likeness = made.z[2] @ bank.T / made.config.temperature
        instance = cross_entropy(calibrated, likeness).mean()
        made.check_losses(smoothed, instance, options.get("w_in", 1.0))
        # The bank moves after it was read: 0.7 of the slot, 0.3 of the new feature, length 1.
        for slot, label, z in zip(
            made.batch.labeled_index, made.batch.labels, made.z[0], strict=True
        ):
            bank[slot] = unit((0.7 * bank[slot] + 0.3 * z)[None])[0]
            classes[slot] = one_hot(label, CLASSES)
        np.testing.assert_allclose(made.state["bank_features"], bank, atol=1e-5)
        np.testing.assert_array_equal(made.state["bank_classes"], classes)
        np.testing.assert_allclose(made.state["class_history"], made.queue, atol=1e-6)
        state = made.state


def test_in_the_first_epoch_the_bank_is_filled_and_not_believed():
    made = Made(images=64 * 1024 - ROWS)
    made.check_losses(made.guess, None, in_weight=0)
    assert (made.state["bank_features"] != made.before["bank_features"]).any()
    after = Made(images=64 * 1024)
    assert float(after.result.terms["instance"].weight) == 1


def test_images_not_seen_yet_take_no_part_and_are_taken_over_at_first_sight():
    """Not in the paper, whose bank starts at random features of class 0."""
    state = known_state()
    unseen = np.arange(0, LABELED, 2)
    for name in ("bank_features", "bank_classes"):
        state[name][unseen] = 0
    made = Made(state)
    kept = np.delete(state["bank_features"], unseen, 0), np.delete(state["bank_classes"], unseen, 0)
    smoothed, calibrated = made.exchanged(*kept)
    np.testing.assert_allclose(smoothed.sum(-1), 1)
    made.check_losses(smoothed, cross_entropy(calibrated, made.z[2] @ kept[0].T / 0.1).mean())
    index = made.batch.labeled_index.numpy()
    for slot, z in zip(index, made.z[0], strict=True):
        if slot in unseen:
            np.testing.assert_allclose(made.state["bank_features"][slot], z, atol=1e-5)
    assert set(index) & set(unseen)
    untouched = np.setdiff1d(np.arange(LABELED), index)
    np.testing.assert_array_equal(
        made.state["bank_features"][untouched], state["bank_features"][untouched]
    )


def test_an_empty_bank_is_finite_from_the_first_update_on():
    state = numbers(method_of("simmatch", proj_size=WIDTH).initial_state())
    for images in (0.0, 1e6):
        made = Made(state, images=images)
        assert all(np.isfinite(float(term.value)) for term in made.result.terms.values())
        assert all(np.isfinite(slope).all() for slope in made.slopes)
        assert all(np.isfinite(value).all() for value in made.state.values())


def test_an_image_that_occurs_twice_in_a_batch_counts_with_its_mean():
    method = method_of("simmatch", proj_size=WIDTH, uratio=3)
    batch = batch_of(method)
    index = batch.labeled_index.numpy()
    index[1] = index[0]
    labels = batch.labels.numpy()
    labels[1] = labels[0]
    batch = batch._replace(labeled_index=tf.constant(index), labels=tf.constant(labels))
    network, context = network_of(method), context_of(method, state=known_state())
    result = method.losses(batch, network, context)
    weights = numbers(context.weights)
    z = projected(weights, features_of(network, batch.labeled["weak"])[0])
    slot = known_state()["bank_features"][index[0]]
    moved = unit((0.7 * slot + 0.3 * z[:2].mean(0))[None])[0]
    np.testing.assert_allclose(result.state["bank_features"][index[0]], moved, atol=1e-5)


def test_the_weak_view_and_the_bank_teach_without_a_gradient():
    made = Made(centred=False)
    labeled, weak, strong = (np.abs(s).max() for s in made.slope_to["instance"])
    assert labeled == weak == 0
    assert strong > 0
    labeled, weak, strong = (np.abs(s).max() for s in made.slope_to["xeu"])
    assert labeled == weak == 0
    assert strong > 0
    assert all(np.abs(slope).max() > 0 for slope in made.slopes)


@pytest.mark.parametrize(("confidence", "kept"), [(1.0, 0), (0.0, 1)])
def test_nothing_kept_and_everything_kept(confidence, kept):
    made = Made(confidence=confidence)
    assert float(made.result.metrics["kept/unlabeled"]) == kept
    assert (float(made.result.terms["xeu"].value) > 0) == kept
    assert all(np.isfinite(slope).all() for slope in made.slopes)


def test_the_projection_is_two_layers_of_the_feature_width():
    heads = method_of("simmatch", task(num_labeled=40)).heads(0, 128, (8, 8, 128))
    assert {name: tuple(w.shape) for name, w in heads.items()} == {
        "projection/hidden/kernel": (128, 128),
        "projection/hidden/bias": (128,),
        "projection/output/kernel": (128, 128),
        "projection/output/bias": (128,),
    }
    state = method_of("simmatch", task(num_labeled=40)).initial_state()
    assert state["bank_features"].shape == (40, 128)
    assert state["class_history"].shape == (32, CLASSES)
