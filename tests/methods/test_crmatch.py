"""CR-Match against slow plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from by_hand import (
    cross_entropy,
    features_of,
    flat,
    logits_of,
    maps_of,
    softmax,
    unit,
)
from doubles import batch_of, context_of, method_of, network_of, show, task, tells, total_of

from realmix_tf.errors import UsageError

ROWS, CLASSES = 8, 5


class Made:
    def __init__(self, scale=0.9, centred=True, batch=None, network=None, of=None, **options):
        options = {"uratio": 3, "confidence": 0.6} | options
        self.method = method_of("crmatch", of, **options)
        self.batch = batch or batch_of(self.method)
        self.network = network or network_of(self.method, scale=scale, centred=centred)
        self.context = context_of(self.method)
        self.weights = {
            name: w.numpy().astype(np.float64) for name, w in self.context.weights.items()
        }
        self.views = (
            self.batch.labeled["weak"],
            self.batch.unlabeled["weak"],
            self.batch.unlabeled["strong"],
        )
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(self.views)
            self.result = self.method.losses(self.batch, self.network, self.context)
            total = total_of(self.result)
        self.terms = self.result.terms
        every = [*self.network.variables, *self.context.weights.values()]
        self.slopes = tape.gradient(total, every, unconnected_gradients="zero")
        self.slope_to = {
            name: tape.gradient(term.value, self.views, unconnected_gradients="zero")
            for name, term in self.terms.items()
        }
        self.x, self.w, self.s = logits_of(self.network, *self.views)
        self.p = softmax(self.w)
        self.mask = np.array([float(p.max() >= self.method.config.confidence) for p in self.p])

    def check(self, name, value, weight=1, rtol=1e-5):
        np.testing.assert_allclose(self.terms[name].value, value, rtol, 1e-7, err_msg=name)
        assert float(self.terms[name].weight) == pytest.approx(weight)


def test_labelled_and_unlabelled_terms_are_fixmatch_s():
    made = Made(wu=2.0)
    assert 0 < made.mask.sum() < len(made.mask)
    made.check("xe", cross_entropy(made.batch.labels, made.x).mean())
    rows = cross_entropy(made.p.argmax(-1), made.s)
    made.check("xeu", (made.mask * rows).mean(), 2)
    assert np.abs(made.slope_to["xeu"][2]).max() > 0
    uncentred = Made(centred=False)
    assert np.abs(uncentred.slope_to["xeu"][1]).max() == 0


def test_projected_feature_maps_of_sure_images_are_pushed_apart():
    made = Made(w_dist=0.7)
    _, weak, strong = maps_of(made.network, *made.views)
    w, b = made.weights["distance/kernel"], made.weights["distance/bias"]
    value, parallel = 0.0, []
    for m, f, g in zip(made.mask, unit(weak @ w + b), unit(strong @ w + b), strict=True):
        parallel.append(f @ g)
        value += m * max(0.0, f @ g) / len(made.mask)
    assert min(parallel) < 0 < max(parallel)
    made.check("distance", value, 0.7, rtol=1e-4)
    # Both views' features move; the mask has no gradient, so logits do not.
    uncentred = Made(centred=False)
    labeled, weak, strong = (np.abs(slope).max() for slope in uncentred.slope_to["distance"])
    assert labeled == 0
    assert weak > 0
    assert strong > 0


def test_a_head_of_its_own_tells_all_four_turns_of_each_image():
    made = Made(w_rot=0.3)
    first, second = made.network.calls
    images = np.asarray(made.batch.unlabeled["weak"])[:ROWS]
    turned = np.concatenate([np.rot90(images, k, (1, 2)) for k in (0, 2, 1, 3)])
    np.testing.assert_array_equal(second.images, turned)
    (features,) = features_of(made.network, turned)
    w = made.weights
    hidden = np.maximum(features @ w["rotation/hidden/kernel"] + w["rotation/hidden/bias"], 0)
    logits = hidden @ w["rotation/output/kernel"] + w["rotation/output/bias"]
    made.check("rotation", cross_entropy(np.repeat(range(4), ROWS), logits).mean(), 0.3)
    # Its pass moves no averages; the joint pass does, once.
    assert (first.training, first.update_stats) == (True, True)
    assert (second.training, second.update_stats) == (True, False)
    every = np.concatenate([flat(view) for view in made.views])
    np.testing.assert_allclose(made.network.moving_mean, 0.001 * every.mean(0), atol=1e-7)
    assert all(np.abs(slope).max() > 0 for slope in made.slopes)


def test_without_its_weight_there_is_no_rotation():
    made = Made(w_rot=0.0)
    assert set(made.terms) == {"xe", "xeu", "distance"}
    assert set(made.weights) == {"distance/kernel", "distance/bias"}
    assert len(made.network.calls) == 1


def test_the_distance_layer_maps_the_flattened_map_to_the_feature_width():
    heads = method_of("crmatch").heads(0, 128, (8, 8, 128))
    assert heads["distance/kernel"].shape == (8 * 8 * 128, 128)
    assert heads["rotation/output/kernel"].shape == (128, 4)


@pytest.mark.parametrize(("confidence", "kept"), [(1.0, 0), (0.0, 1)])
def test_nothing_kept_and_everything_kept(confidence, kept):
    made = Made(confidence=confidence)
    assert float(made.result.metrics["kept/unlabeled"]) == kept
    for name in ("xeu", "distance"):
        assert (float(made.terms[name].value) > 0) == kept
    assert all(np.isfinite(slope).all() for slope in made.slopes)


def test_a_row_exactly_at_the_threshold_counts():
    of = task(3, 1)
    method = method_of("crmatch", of, uratio=2)
    batch = batch_of(method)
    weak = show(np.array([[0, 0, -200], [0, 0, -1]], float))
    batch = batch._replace(unlabeled=batch.unlabeled | {"weak": weak})
    made = Made(batch=batch, network=tells(network_of(method)), of=of, uratio=2, confidence=0.5)
    assert made.mask.tolist() == [1, 0]
    made.check("xeu", cross_entropy([0, 0], made.s)[0] / 2)


def test_images_that_cannot_be_turned_are_refused():
    oblong = task(image_size=(3, 4))
    with pytest.raises(UsageError, match="w_rot=0"):
        method_of("crmatch", oblong).check(1)
    method_of("crmatch", oblong, w_rot=0.0).check(1)
    # Any number of images can be turned four times.
    method_of("crmatch", task(rows=6)).check(4)
