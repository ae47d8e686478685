"""ReMixMatch against slow plain NumPy; how rows were mixed is read off the images."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from by_hand import (
    aligned,
    cross_entropy,
    features_of,
    flat,
    interleaved,
    logits_of,
    mixed_with,
    one_hot,
    sharpened,
    softmax,
    unmixed,
)
from doubles import batch_of, context_of, method_of, network_of, numbers, task, total_of

ROWS, CLASSES = 8, 5


class Made:
    """One update, with the passes it made told apart."""

    def __init__(self, K=1, images=512 * 1024.0, state=None, seed=1, centred=True, **options):
        self.method = method_of("remixmatch", K=K, **options)
        self.config = self.method.config
        self.batch = batch_of(self.method, seed)
        self.network = network_of(self.method, centred=centred)
        self.context = context_of(self.method, images=images, state=state or self.start())
        self.weights = numbers(self.context.weights)
        self.views = [self.batch.unlabeled[name] for name in self.method.views().unlabeled]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(self.views)
            self.result = self.method.losses(self.batch, self.network, self.context)
            total = total_of(self.result)
        self.slope = tape.gradient(total, self.network.weights)
        self.slope_of = {
            name: tape.gradient(term.value, self.views, unconnected_gradients="zero")
            for name, term in self.result.terms.items()
        }
        self.head_slope = tape.gradient(total, list(self.context.weights.values()))
        rotating = int(self.config.w_rot > 0)
        calls = self.network.calls
        # The rotation pass is told by its images; the last K + 2 others are the mixed blocks.
        turned = turned_by_hand(self.batch.unlabeled["strong0"])
        self.rotation = [c for c in calls if np.array_equal(c.images, turned)]
        assert len(self.rotation) == rotating
        rest = [c for c in calls if not any(c is r for r in self.rotation)]
        self.guessing, self.passed = rest[: -(K + 2)], rest[-(K + 2) :]
        self.mixed = interleaved([flat(call.images) for call in self.passed])

    def start(self):
        """A state that shows which average is read where."""
        if not self.config.use_dm:
            return {}
        random = np.random.default_rng(3)
        history = random.dirichlet(np.ones(CLASSES), 128)
        share = random.dirichlet(np.ones(CLASSES))
        return {"label_share": np.float32(share), "class_history": np.float32(history)}

    def raw(self):
        """The predictions the targets are made of, one block a view."""
        p = [softmax(logits_of(self.network, view)[0]) for view in self.views]
        if self.config.redux == "1st":
            return [p[0]] * len(p)
        if self.config.redux == "mean":
            return [sum(p) / len(p)] * len(p)
        return [p[(i + 1) % len(p)] for i in range(len(p))]

    def targets(self, wanted=None):
        raw = self.raw()
        if self.config.use_dm:
            state = numbers(self.context.state)
            wanted = state["label_share"] if wanted is None else wanted
            raw = [aligned(p, wanted, state["class_history"].mean(0)) for p in raw]
        return [sharpened(p, self.config.temperature) for p in raw]

    def expected(self, targets):
        """Cross entropy of labelled rows; of unlabelled ones; squared distance of those."""
        labels = [one_hot(self.batch.labels, CLASSES), *targets]
        images = [flat(self.batch.labeled["weak"]), *map(flat, self.views)]
        every_label, every_image = np.concatenate(labels), np.concatenate(images)
        mixed = []
        for found, block, label in zip(self.mixed, images, labels, strict=True):
            shares, partners = unmixed(found, block, every_image)
            assert shares.min() >= 0.5 - 1e-5
            mixed.append(mixed_with(label, every_label, shares, partners))
        blocks = interleaved(self.mixed)
        logits = interleaved([logits_of(self.network, block)[0] for block in blocks])
        y, z = np.concatenate(mixed[1:]), np.concatenate(logits[1:])
        return (
            cross_entropy(mixed[0], logits[0]).mean(),
            cross_entropy(y, z).mean(),
            ((y - softmax(z)) ** 2).mean(),
        )

    def check(self, name, value, weight, rtol=1e-5):
        term = self.result.terms[name]
        np.testing.assert_allclose(term.value, value, rtol=rtol, err_msg=name)
        np.testing.assert_allclose(term.weight, weight, rtol=1e-6, err_msg=name)


def turned_by_hand(images) -> np.ndarray:
    """Four equal blocks: as it is, upside down, +90° and −90°, as NumPy turns."""
    out = []
    for index, image in enumerate(np.asarray(images)):
        quarters = (0, 2, 1, 3)[index // (len(images) // 4)]
        out.append(np.rot90(image, quarters))
    return np.array(out)


@pytest.mark.parametrize("use_dm", [True, False])
@pytest.mark.parametrize("redux", ["1st", "mean", "swap"])
@pytest.mark.parametrize("K", [1, 3])
def test_mixed_terms_equal_the_plain_ones(K, redux, use_dm):
    made = Made(K, redux=redux, use_dm=use_dm)
    targets = made.targets()
    xe, xeu, _ = made.expected(targets)
    made.check("xe", xe, 1)
    made.check("xeu", xeu, 1.5 * 0.5)
    assert len(made.passed) == K + 2
    # Before mixing: the first strong view against its own target, over its rows.
    (strong,) = logits_of(made.network, made.views[1])
    made.check("kl", cross_entropy(targets[1], strong).mean(), 0.5 * 0.5)


@pytest.mark.parametrize("K", [1, 3])
def test_the_squared_distance_may_stand_for_the_cross_entropy(K):
    made = Made(K, use_xe=False, w_match=75.0)
    _, _, brier = made.expected(made.targets())
    made.check("xeu", brier, 37.5)


def test_expected_shares_may_be_given_instead_of_the_labels():
    wanted = np.array([0.5, 0.2, 0.1, 0.1, 0.1])
    made = Made(p_unlabeled=",".join(map(str, wanted)))
    _, xeu, _ = made.expected(made.targets(wanted))
    made.check("xeu", xeu, 0.75)


@pytest.mark.parametrize("K", [1, 3])
def test_the_rotation_head_tells_four_blocks_of_the_first_strong_view(K):
    made = Made(K, images=0.0, w_rot=0.7)
    turned = turned_by_hand(made.batch.unlabeled["strong0"])
    (features,) = features_of(made.network, turned)
    logits = features @ made.weights["rotation/kernel"] + made.weights["rotation/bias"]
    turns = [0] * 2 + [1] * 2 + [2] * 2 + [3] * 2
    # Not ramped: its full weight from the first update on.
    made.check("rotation", cross_entropy(turns, logits).mean(), 0.7)
    assert (made.rotation[0].training, made.rotation[0].update_stats) == (True, False)
    assert all(np.abs(slope).max() > 0 for slope in made.head_slope)


def test_without_its_weight_the_rotation_pass_is_left_out():
    made = Made(w_rot=0.0)
    assert set(made.result.terms) == {"xe", "xeu", "kl"}
    assert made.method.heads(0, 6, (2, 2, 3)) == {}


def test_the_rotation_head_is_one_glorot_layer_of_four():
    head = method_of("remixmatch").heads(0, 500, (2, 2, 3))
    assert {name: tuple(w.shape) for name, w in head.items()} == {
        "rotation/kernel": (500, 4),
        "rotation/bias": (4,),
    }
    assert np.std(head["rotation/kernel"]) == pytest.approx((2 / 504) ** 0.5, rel=0.05)
    assert np.abs(head["rotation/bias"]).max() == 0
    # The network's 128 features cost 516 weights.
    usual = method_of("remixmatch").heads(0, 128, (8, 8, 128))
    assert sum(np.size(w) for w in usual.values()) == 516


@pytest.mark.parametrize("K", [1, 3])
def test_only_the_last_block_moves_the_averages(K):
    made = Made(K)
    moving = [call for call in made.network.calls if call.update_stats]
    assert moving == [made.passed[-1]]
    assert all(call.training for call in made.network.calls)
    last = interleaved(made.mixed)[-1]
    np.testing.assert_allclose(made.network.moving_mean, 0.001 * last.mean(0), atol=1e-7)


@pytest.mark.parametrize(("redux", "passes"), [("1st", 2), ("mean", 4), ("swap", 4)])
def test_only_views_that_are_read_pass_before_mixing(redux, passes):
    made = Made(3, redux=redux)
    assert len(made.guessing) == passes
    for call, view in zip(made.guessing, made.views, strict=False):
        np.testing.assert_array_equal(call.images, view)


@pytest.mark.parametrize("redux", ["1st", "mean", "swap"])
def test_the_averages_take_unaligned_predictions_and_labels_once_an_update(redux):
    method = method_of("remixmatch", K=3, redux=redux)
    state = numbers(method.initial_state())
    share, history = np.full(CLASSES, 1 / CLASSES), np.full((128, CLASSES), 1 / CLASSES)
    np.testing.assert_allclose(state["label_share"], share)
    np.testing.assert_allclose(state["class_history"], history)
    for update in range(4):
        made = Made(3, state=state, seed=update, redux=redux)
        _, xeu, _ = made.expected(made.targets())
        made.check("xeu", xeu, 0.75, rtol=1e-4)
        labels = np.bincount(made.batch.labels, minlength=CLASSES) / ROWS
        share = 0.999 * share + 0.001 * labels
        history = np.concatenate([history[1:], np.concatenate(made.raw()).mean(0)[None]])
        state = numbers(made.result.state)
        np.testing.assert_allclose(state["label_share"], share, rtol=1e-5)
        np.testing.assert_allclose(state["class_history"], history, rtol=1e-5)


def test_without_alignment_nothing_is_kept():
    assert method_of("remixmatch", use_dm=False).initial_state() == {}
    assert Made(use_dm=False).result.state == {}


@pytest.mark.parametrize("images", [0, 1024 * 1024, 4096 * 1024])
def test_both_unlabelled_terms_are_ramped(images):
    made = Made(images=images, warmup_kimg=2048.0)
    ramp = min(images / (2048 * 1024), 1)
    assert float(made.result.terms["xeu"].weight) == pytest.approx(1.5 * ramp)
    assert float(made.result.terms["kl"].weight) == pytest.approx(0.5 * ramp)


def test_targets_carry_no_gradient():
    made = Made(3, redux="mean", centred=False)
    # Before mixing the weak view and the other strong ones only make the target.
    for view, slope in enumerate(made.slope_of["kl"]):
        assert (np.abs(slope).max() > 0) == (view == 1)
    assert np.isfinite(made.slope).all()


def test_a_batch_that_cannot_be_cut_into_four_is_refused():
    from realmix_tf.errors import UsageError

    for of, replicas in ((task(rows=6), 1), (task(rows=8), 4), (task(image_size=(3, 4)), 1)):
        with pytest.raises(UsageError, match="w_rot=0"):
            method_of("remixmatch", of).check(replicas)
        method_of("remixmatch", of, w_rot=0.0).check(replicas)
    method_of("remixmatch", task(rows=8)).check(2)
