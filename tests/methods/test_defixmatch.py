"""DeFixMatch against slow plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from by_hand import (
    cross_entropy,
    flat,
    gradient_of_cross_entropy,
    logits_of,
    softmax,
)
from doubles import batch_of, context_of, method_of, network_of, show, task, tells, total_of

ROWS, CLASSES = 8, 5


def fixmatch_s(weak, strong, tau):
    """Targets and weights of the rows, and the mean loss over all of them."""
    p = softmax(weak)
    mask = np.array([float(row.max() >= tau) for row in p])
    return p.argmax(-1), mask, (mask * cross_entropy(p.argmax(-1), strong)).mean()


@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
def test_the_unlabelled_term_less_what_it_says_of_labelled_images(tau):
    method = method_of("defixmatch", confidence=tau, uratio=3)
    batch, network = batch_of(method), network_of(method, scale=0.9, centred=True)
    with tf.GradientTape(persistent=True) as tape:
        result = method.losses(batch, network, context_of(method))
        total = total_of(result)
    views = [*batch.labeled.values(), *batch.unlabeled.values()]
    xw, xs, uw, us = logits_of(network, *views)
    supervised = (cross_entropy(batch.labels, xw) + cross_entropy(batch.labels, xs)).mean() / 2
    guess, mask, unlabeled = fixmatch_s(uw, us, tau)
    guess_x, mask_x, labeled = fixmatch_s(xw, xs, tau)
    for name, value, weight in (
        ("xe", supervised, 1),
        ("xeu", unlabeled, 0.5),
        ("bias", labeled, -0.5),
    ):
        np.testing.assert_allclose(result.terms[name].value, value, rtol=1e-5, err_msg=name)
        assert result.terms[name].weight == weight
    np.testing.assert_allclose(total, supervised + 0.5 * (unlabeled - labeled), rtol=1e-5)
    np.testing.assert_allclose(result.metrics["kept/unlabeled"], mask.mean(), rtol=1e-5)
    if tau == 0.6:
        assert 0 < mask.sum() < len(mask)
        assert 0 < mask_x.sum() < len(mask_x)
    # Weak views teach without a gradient; strong ones of both kinds learn, in opposite directions.
    rows = [flat(view) for view in views]
    centre = np.concatenate(rows).mean(0)
    for name, x, target, logits, weight in (
        ("xeu", rows[3], guess, us, mask),
        ("bias", rows[1], guess_x, xs, mask_x),
    ):
        slope = gradient_of_cross_entropy(x - centre, target, logits, weight / len(weight))
        found = tape.gradient(result.terms[name].value, network.weights)
        np.testing.assert_allclose(found, slope, atol=1e-5, err_msg=name)
    (call,) = network.calls
    assert (call.training, call.update_stats) == (True, True)
    assert len(call.images) == 2 * ROWS + 2 * 3 * ROWS


def test_labels_play_no_part_in_the_bias_term():
    method = method_of("defixmatch", confidence=0.5)
    batch, network = batch_of(method), network_of(method)
    other = batch._replace(labels=(batch.labels + 1) % CLASSES)
    one, two = (method.losses(b, network, context_of(method)) for b in (batch, other))
    assert float(one.terms["bias"].value) == float(two.terms["bias"].value)
    assert float(one.terms["xe"].value) != float(two.terms["xe"].value)


def test_a_row_exactly_at_the_threshold_counts_on_both_sides():
    method = method_of("defixmatch", task(3, 2), uratio=1, confidence=0.5)
    batch, network = batch_of(method), tells(network_of(method))
    weak = show(np.array([[0, 0, -200], [0, 0, -1]], float))
    batch = batch._replace(
        labeled=batch.labeled | {"weak": weak}, unlabeled=batch.unlabeled | {"weak": weak}
    )
    result = method.losses(batch, network, context_of(method))
    for name, strong in (("xeu", batch.unlabeled["strong"]), ("bias", batch.labeled["strong"])):
        rows = cross_entropy([0, 0], logits_of(network, strong)[0])
        np.testing.assert_allclose(result.terms[name].value, rows[0] / 2, rtol=1e-5)


def test_labelled_images_as_unlabelled_ones_cancel():
    method = method_of("defixmatch", uratio=1, confidence=0.3)
    batch, network = batch_of(method), network_of(method)
    same = batch._replace(unlabeled=batch.labeled)
    result = method.losses(same, network, context_of(method))
    np.testing.assert_allclose(total_of(result), result.terms["xe"].value, rtol=1e-6)
