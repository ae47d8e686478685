"""The methods' losses against slow plain NumPy, given the same mixing ratios and partners."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from by_hand import cross_entropy, flat, softmax
from doubles import Context, LinearNetwork, make_batch, task, total_of, weak

from realmix_tf.methods import mixing
from realmix_tf.methods.mixmatch import MixMatch
from realmix_tf.methods.mixup_supervised import MixupSupervised
from realmix_tf.methods.realmix import RealMix
from realmix_tf.methods.supervised import Supervised

ROWS, CLASSES, PIXELS = 10, 5, 18
TASK = task(CLASSES, ROWS)


class Plain:
    """MixMatch of a linear network, row by row (no batch statistics, so interleaving is void)."""

    def __init__(self, batch, weights, context, nu, beta, temperature):
        views = [flat(batch.unlabeled[f"weak{i}"]) for i in range(nu)]
        guess = np.mean([softmax(view @ weights) for view in views], 0)
        guess = guess ** (1 / temperature)
        guess /= guess.sum(-1, keepdims=True)
        images = np.concatenate([flat(batch.labeled["weak"]), *views])
        labels = np.concatenate([np.eye(CLASSES)[batch.labels], *[guess] * nu])
        count = len(images)
        ratio = mixing.mix_ratio(context.seed("mixup/ratio"), beta, count).numpy()
        partner = mixing.shuffled(context.seed("mixup/partner"), count).numpy()
        mixed, mixed_labels = np.zeros_like(images), np.zeros_like(labels)
        for i in range(count):
            mixed[i] = ratio[i] * images[i] + (1 - ratio[i]) * images[partner[i]]
            mixed_labels[i] = ratio[i] * labels[i] + (1 - ratio[i]) * labels[partner[i]]
        logits = mixed @ weights
        self.guess, self.labels = guess, mixed_labels
        self.entropy = cross_entropy(mixed_labels[:ROWS], logits[:ROWS])
        self.labeled = softmax(logits[:ROWS])
        self.unlabeled = softmax(logits[ROWS:])
        self.squares = ((mixed_labels[ROWS:] - self.unlabeled) ** 2).sum(-1)


def made(method, nu=2, **options):
    config = method.Config(nu=nu, **options)
    batch = make_batch(ROWS, CLASSES, weak(nu))
    network = LinearNetwork(PIXELS, CLASSES)
    # Towards the labels, so that training signal annealing has rows to drop.
    pull = flat(batch.labeled["weak"]).T @ np.eye(CLASSES)[batch.labels]
    network.weights.assign_add(0.5 * pull.astype(np.float32))
    context = Context(images=512 * 1024.0, progress=0.2)
    result = method(config, TASK).losses(batch, network, context)
    plain = Plain(
        batch,
        network.weights.numpy().astype(np.float64),
        context,
        nu,
        config.beta,
        config.temperature,
    )
    return result, plain, network


@pytest.mark.parametrize("nu", [1, 2, 3])
def test_mixmatch_equals_the_plain_one(nu):
    result, plain, _ = made(MixMatch, nu)
    np.testing.assert_allclose(result.terms["xe"].value, plain.entropy.mean(), rtol=1e-5)
    # The squared distance is a mean over classes too: a factor of 1/C.
    np.testing.assert_allclose(result.terms["l2u"].value, plain.squares.mean() / CLASSES, rtol=1e-5)
    assert float(result.terms["xe"].weight) == 1
    assert float(result.terms["l2u"].weight) == pytest.approx(50)  # half way up to 100
    confidence = plain.unlabeled.max(-1)
    for name, value in (
        ("min", confidence.min()),
        ("mean", confidence.mean()),
        ("max", confidence.max()),
    ):
        np.testing.assert_allclose(result.metrics[f"confidence/{name}"], value, rtol=1e-5)


@pytest.mark.parametrize("schedule", ["linear_schedule", "log_schedule", "exp_schedule"])
@pytest.mark.parametrize(("share", "threshold"), [(0.5, -1), (-1, 0.4), (0.3, 0.35)])
def test_realmix_equals_the_plain_one(schedule, share, threshold):
    result, plain, _ = made(RealMix, tsa=schedule, percent_mask=share, confidence_mask=threshold)
    amount = {"linear_schedule": 0.2, "log_schedule": 1 - np.exp(-1), "exp_schedule": np.exp(-4)}[
        schedule
    ]
    eta = amount * (1 - 1 / CLASSES) + 1 / CLASSES
    labels = plain.labels[:ROWS]
    kept = ((labels > 0) & (plain.labeled < labels * eta)).any(-1)
    assert 0 < kept.sum() < ROWS
    np.testing.assert_allclose(
        result.terms["xe"].value, plain.entropy[kept].sum() / max(kept.sum(), 1), rtol=1e-5
    )
    confidence = plain.unlabeled.max(-1)
    sure = np.ones(2 * ROWS, bool)
    if share > 0:
        sure[np.argsort(confidence)[: int(share * 2 * ROWS)]] = False
    if threshold > 0:
        sure &= confidence >= threshold
    assert 0 < sure.sum() < 2 * ROWS
    np.testing.assert_allclose(
        result.terms["l2u"].value, plain.squares[sure].sum() / (sure.sum() * CLASSES), rtol=1e-5
    )
    assert float(result.terms["l2u"].weight) == pytest.approx(37.5)  # half way up to 75
    np.testing.assert_allclose(result.metrics["kept/labeled"], kept.mean(), rtol=1e-6)
    np.testing.assert_allclose(result.metrics["kept/unlabeled"], sure.mean(), rtol=1e-6)
    np.testing.assert_allclose(result.metrics["mask/threshold"], confidence[sure].min(), rtol=1e-5)


def test_without_its_masks_realmix_is_mixmatch():
    ours, _, _ = made(RealMix)
    theirs, _, _ = made(MixMatch, beta=0.75, w_match=75.0)
    for name in ("xe", "l2u"):
        np.testing.assert_allclose(ours.terms[name].value, theirs.terms[name].value, rtol=1e-6)
        assert float(ours.terms[name].weight) == float(theirs.terms[name].weight)


@pytest.mark.parametrize("rows", [64, 65])
def test_passes_moving_averages_and_interleaving(rows):
    batch, network = make_batch(rows, CLASSES, weak(2)), LinearNetwork(PIXELS, CLASSES)
    context = Context()
    MixMatch(MixMatch.Config(beta=1e-3), TASK).losses(batch, network, context)
    modes = [(training, update) for _, training, update in network.calls]
    assert modes == [(True, False)] * 2 + [(True, True)] + [(True, False)] * 2
    views = [batch.labeled["weak"], batch.unlabeled["weak0"], batch.unlabeled["weak1"]]
    for (images, _, _), view in zip(network.calls[:2], views[1:], strict=True):
        np.testing.assert_array_equal(images, view)
    sizes = [rows // 3, rows // 3 + (rows % 3 == 2), rows - 2 * (rows // 3) - (rows % 3 == 2)]
    edges = np.cumsum([0, *sizes])
    first = np.concatenate(
        [np.asarray(v)[a:b] for v, a, b in zip(views, edges, edges[1:], strict=False)]
    )
    # beta this small leaves each row to itself, so the blocks show where the rows came from.
    np.testing.assert_allclose(network.calls[2][0], first, atol=1e-3)


def test_guesses_are_shared_by_the_views_and_carry_no_gradient():
    batch, network = make_batch(ROWS, CLASSES, weak(2)), LinearNetwork(PIXELS, CLASSES)
    method = MixMatch(MixMatch.Config(), TASK)
    with tf.GradientTape() as tape:
        guess, _ = method.guess(list(batch.unlabeled.values()), network, Context())
    assert tape.gradient(guess, network.weights) is None
    mixed = method.predict_mixed(batch, network, Context())
    assert mixed.unlabeled_targets.shape == [2 * ROWS, CLASSES]
    with tf.GradientTape() as tape:
        targets = method.predict_mixed(batch, network, Context()).unlabeled_targets
    assert tape.gradient(targets, network.weights) is None
    plain = Plain(batch, network.weights.numpy(), Context(), 2, 0.5, 0.5)
    np.testing.assert_allclose(guess, plain.guess, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"confidence_mask": 0.999}, {"tsa": "linear_schedule"}],
    ids=["no unlabelled row kept", "no labelled row kept"],
)
def test_a_batch_of_which_nothing_is_kept_gives_zero_with_finite_gradients(options):
    config = RealMix.Config(beta=1e-3, warmup_kimg=0, **options)
    batch = make_batch(ROWS, CLASSES, weak(2))
    network = LinearNetwork(PIXELS, CLASSES, scale=1e-3)
    term = "l2u"
    if "tsa" in options:  # images that show their label, and a network that knows
        term = "xe"
        images = np.zeros((ROWS, PIXELS), np.float32)
        images[np.arange(ROWS), batch.labels.numpy()] = 1
        batch = batch._replace(labeled={"weak": tf.reshape(images, [ROWS, 3, 3, 2])})
        network.weights.assign(np.eye(PIXELS, CLASSES) * 50)
    with tf.GradientTape() as tape:
        result = RealMix(config, TASK).losses(batch, network, Context())
        total = total_of(result)
    gradient = tape.gradient(total, network.weights)
    assert float(result.terms[term].value) == 0
    assert np.isfinite(gradient).all()
    assert all(np.isfinite(v).all() for v in result.metrics.values())


def test_dropping_rows_divides_by_the_kept_ones_not_by_all():
    all_rows, plain, _ = made(RealMix)
    half, _, _ = made(RealMix, percent_mask=0.5)
    kept = np.argsort(plain.unlabeled.max(-1))[ROWS:]
    np.testing.assert_allclose(
        half.terms["l2u"].value, plain.squares[kept].mean() / CLASSES, rtol=1e-5
    )
    assert float(all_rows.metrics["kept/unlabeled"]) == 1


@pytest.mark.parametrize("smoothing", [0.0, 0.001, 0.3])
def test_supervised_is_the_mean_cross_entropy_with_smoothed_labels(smoothing):
    batch, network = make_batch(ROWS, CLASSES), LinearNetwork(PIXELS, CLASSES)
    method = Supervised(Supervised.Config(smoothing=smoothing), TASK)
    result = method.losses(batch, network, Context())
    logits = flat(batch.labeled["weak"]) @ network.weights.numpy()
    labels = np.eye(CLASSES)[batch.labels]
    labels = labels - smoothing * (labels - 1 / CLASSES)
    np.testing.assert_allclose(
        result.terms["xe"].value, cross_entropy(labels, logits).mean(), rtol=1e-5
    )
    assert [call[1:] for call in network.calls] == [(True, True)]
    assert method.views().unlabeled == ()


def test_supervised_mixup_mixes_each_row_with_its_mirror_in_the_reversed_batch():
    batch, network = make_batch(ROWS, CLASSES), LinearNetwork(PIXELS, CLASSES)
    method = MixupSupervised(MixupSupervised.Config(beta=0.5), TASK)
    result = method.losses(batch, network, Context())
    ratio = mixing.mix_ratio(Context().seed("mixup"), 0.5, ROWS).numpy()[:, None]
    images, labels = flat(batch.labeled["weak"]), np.eye(CLASSES)[batch.labels]
    images = ratio * images + (1 - ratio) * images[::-1]
    labels = ratio * labels + (1 - ratio) * labels[::-1]
    expected = cross_entropy(labels, images @ network.weights.numpy()).mean()
    np.testing.assert_allclose(result.terms["xe"].value, expected, rtol=1e-5)
    assert [call[1:] for call in network.calls] == [(True, True)]
    assert MixupSupervised.recipe.wd == 0.002


# --- Distribution alignment -------------------------------------------------------------------


def test_aligned_guesses_use_the_history_before_and_push_the_unaligned_prediction():
    wanted = "0.4,0.3,0.1,0.1,0.1"
    method = MixMatch(MixMatch.Config(p_unlabeled=wanted), TASK)
    history = method.initial_state()["class_history"].numpy()
    np.testing.assert_allclose(history, np.full((128, CLASSES), 0.2))
    history = np.random.default_rng(0).dirichlet(np.ones(CLASSES), 128).astype(np.float32)
    batch, network = make_batch(ROWS, CLASSES, weak(2)), LinearNetwork(PIXELS, CLASSES)
    context = Context(state={"class_history": tf.Variable(history)})
    guess, state = method.guess(list(batch.unlabeled.values()), network, context)
    raw = np.mean([softmax(flat(v) @ network.weights.numpy()) for v in batch.unlabeled.values()], 0)
    aligned = raw * (1e-6 + np.array([0.4, 0.3, 0.1, 0.1, 0.1])) / (1e-6 + history.mean(0))
    aligned = (aligned / aligned.sum(-1, keepdims=True)) ** 2
    np.testing.assert_allclose(guess, aligned / aligned.sum(-1, keepdims=True), atol=1e-5)
    pushed = state["class_history"].numpy()
    np.testing.assert_array_equal(pushed[:-1], history[1:])
    np.testing.assert_allclose(pushed[-1], raw.mean(0), rtol=1e-5)


def test_without_expected_shares_there_is_no_state():
    assert MixMatch(MixMatch.Config(), TASK).initial_state() == {}
    result, _, _ = made(MixMatch)
    assert result.state == {}
