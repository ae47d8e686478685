"""CoMatch against slow plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from by_hand import (
    aligned,
    cross_entropy,
    features_of,
    flat,
    logits_of,
    one_hot,
    projected,
    softmax,
    unit,
)
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

ROWS, CLASSES, WIDTH, RATIO = 8, 5, 7, 2
MEMORY = 5 * (RATIO + 1) * ROWS


class Made:
    def __init__(self, state=None, seed=1, images=1e6, centred=True, scale=0.9, **options):
        of = options.pop("of", None)
        batch, network = options.pop("batch", None), options.pop("network", None)
        options = {"proj_size": WIDTH, "uratio": RATIO, "confidence": 0.6} | options
        self.method = method_of("comatch", of, **options)
        self.config = self.method.config
        self.batch = batch or batch_of(self.method, seed)
        self.network = network or network_of(self.method, scale=scale, centred=centred)
        self.before = state or numbers(self.method.initial_state())
        self.context = context_of(self.method, images=images, state=self.before)
        names = ("weak", "strong0", "strong1")
        self.views = (self.batch.labeled["weak"], *(self.batch.unlabeled[n] for n in names))
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
        self.x, self.w, self.s, _ = logits_of(self.network, *self.views)
        weights = numbers(self.context.weights)
        self.z = [projected(weights, f) for f in features_of(self.network, *self.views)]
        p = softmax(self.w)
        self.queue = np.concatenate([self.before["class_history"][1:], p.mean(0)[None]])
        held = self.queue[self.queue.sum(-1) > 0]
        classes = p.shape[-1]
        self.guess = aligned(p, np.full(classes, 1 / classes), held.mean(0))

    def smoothed(self, features, guesses):
        """0.9·p + 0.1·Σ_k softmax_k(z_w·z_k/T)·p_k over the memory, row by row."""
        out = []
        for z, p in zip(self.z[1], self.guess, strict=True):
            share = softmax(features @ z / self.config.temperature)
            alpha = self.config.smoothing
            out.append(alpha * p + (1 - alpha) * share @ guesses)
        return np.array(out)

    def graph(self, q):
        """q·qᵀ with ones on the diagonal, weak links cut, rows that sum to 1."""
        links = np.zeros((len(q), len(q)))
        for i in range(len(q)):
            for j in range(len(q)):
                value = 1.0 if i == j else q[i] @ q[j]
                links[i, j] = value if value >= self.config.edge else 0.0
            links[i] /= links[i].sum()
        return links

    def check(self, name, value, weight=1.0, rtol=1e-4):
        np.testing.assert_allclose(self.result.terms[name].value, value, rtol, 1e-7, err_msg=name)
        np.testing.assert_allclose(self.result.terms[name].weight, weight, err_msg=name)

    def check_losses(self, q, wu=1.0, w_ctr=1.0):
        mask = [float(p.max() >= self.config.confidence) for p in q]
        self.check("xe", cross_entropy(self.batch.labels, self.x).mean())
        self.check("xeu", (mask * cross_entropy(q, self.s)).mean(), wu)
        likeness = self.z[2] @ self.z[3].T / self.config.temperature
        self.check("contrast", cross_entropy(self.graph(q), likeness).mean(), w_ctr)
        np.testing.assert_allclose(self.result.metrics["kept/unlabeled"], np.mean(mask), rtol=1e-5)
        return mask


def rows_sorted(*columns) -> np.ndarray:
    rows = np.concatenate(columns, 1)
    return rows[np.lexsort(rows.round(4).T)]


@pytest.mark.parametrize("options", [{}, {"smoothing": 0.5, "edge": 0.5, "wu": 2.0, "w_ctr": 5.0}])
def test_guesses_are_smoothed_by_a_memory_of_five_updates(options):
    features, guesses = np.zeros((MEMORY, WIDTH)), np.zeros((MEMORY, CLASSES))
    state, partly = None, 0
    for update in range(8):
        made = Made(state, update, images=ROWS * update, warmup_kimg=5 * ROWS / 1024, **options)
        q = made.guess if update < 5 else made.smoothed(features, guesses)
        mask = made.check_losses(q, options.get("wu", 1.0), options.get("w_ctr", 1.0))
        partly += 0 < sum(mask) < len(mask)
        # What is remembered: aligned guesses before smoothing, and the labels as they are.
        newest = np.concatenate([made.z[0], made.z[1]])
        said = np.concatenate([one_hot(made.batch.labels, CLASSES), made.guess])
        features = np.concatenate([features[len(newest) :], newest])
        guesses = np.concatenate([guesses[len(said) :], said])
        found = rows_sorted(made.state["memory_guesses"], made.state["memory_features"])
        np.testing.assert_allclose(found, rows_sorted(guesses, features), atol=1e-4)
        np.testing.assert_allclose(made.state["class_history"], made.queue, atol=1e-6)
        state = made.state
    assert partly > 4


def full_state():
    random = np.random.default_rng(0)
    return {
        "memory_features": np.float32(unit(random.normal(size=(MEMORY, WIDTH)))),
        "memory_guesses": np.float32(random.dirichlet(np.ones(CLASSES), MEMORY)),
        "class_history": np.zeros((32, CLASSES), np.float32),
    }


def test_until_the_memory_is_full_and_the_warm_up_over_guesses_stand_for_themselves():
    state = full_state()
    for images, warmup_kimg, believed in (
        (64 * 1024 - ROWS, 64.0, False),
        (64 * 1024, 64.0, True),
        (4 * ROWS, 0.0, False),
        (5 * ROWS, 0.0, True),
    ):
        made = Made(state, images=images, warmup_kimg=warmup_kimg)
        smoothed = made.smoothed(state["memory_features"], state["memory_guesses"])
        made.check_losses(smoothed if believed else made.guess)


def test_an_agreement_of_exactly_the_edge_is_a_link_and_each_image_is_linked_to_itself():
    # All rows undecided between two classes: any two guesses agree by exactly 1/2.
    of = task(2, 3)
    method = method_of("comatch", of, uratio=1)
    batch = batch_of(method)
    batch = batch._replace(unlabeled=batch.unlabeled | {"weak": show(np.zeros((3, 2)))})
    # A link to oneself weighs 1, one to another image its agreement.
    for edge, graph in ((0.5, (np.eye(3) + 1) / 4), (0.500001, np.eye(3))):
        made = Made(
            of=of, batch=batch, network=tells(network_of(method)), images=0.0, uratio=1, edge=edge
        )
        likeness = made.z[2] @ made.z[3].T / 0.2
        made.check("contrast", cross_entropy(graph, likeness).mean())


def test_targets_graph_and_memory_carry_no_gradient():
    made = Made(full_state(), centred=False, confidence=0.3)
    for name, learning in (("xe", [0]), ("xeu", [2]), ("contrast", [2, 3])):
        for view, slope in enumerate(made.slope_to[name]):
            assert (np.abs(slope).max() > 0) == (view in learning), (name, view)
    assert all(np.abs(slope).max() > 0 for slope in made.slopes)


@pytest.mark.parametrize(("confidence", "kept"), [(1.0, 0), (0.0, 1)])
def test_nothing_kept_and_everything_kept(confidence, kept):
    made = Made(confidence=confidence, images=0.0)
    assert float(made.result.metrics["kept/unlabeled"]) == kept
    assert (float(made.result.terms["xeu"].value) > 0) == kept
    assert all(np.isfinite(slope).all() for slope in made.slopes)
    # The contrastive term does not depend on the mask.
    assert float(made.result.terms["contrast"].value) > 0


def test_a_row_exactly_at_the_threshold_counts():
    # Alike rows are the queue's mean, so alignment makes them uniform: 1/2 each.
    of = task(2, 3)
    method = method_of("comatch", of, uratio=1)
    batch = batch_of(method)
    batch = batch._replace(unlabeled=batch.unlabeled | {"weak": show(np.zeros((3, 2)))})
    options = {"of": of, "batch": batch, "images": 0.0, "uratio": 1}
    made = Made(network=tells(network_of(method)), confidence=0.5, **options)
    assert float(made.result.metrics["kept/unlabeled"]) == 1
    above = Made(network=tells(network_of(method)), confidence=0.500001, **options)
    assert float(above.result.metrics["kept/unlabeled"]) == 0


def test_all_rows_pass_together_once_and_move_the_averages():
    made = Made()
    (call,) = made.network.calls
    assert (call.training, call.update_stats) == (True, True)
    rows = np.concatenate([flat(view) for view in made.views])
    assert len(rows) == (1 + 3 * RATIO) * ROWS
    np.testing.assert_allclose(made.network.moving_mean, 0.001 * rows.mean(0), atol=1e-7)


def test_memory_and_projection_have_the_published_sizes():
    method = method_of("comatch", task(10, 64))
    shapes = {name: tuple(v.shape) for name, v in method.initial_state().items()}
    assert shapes == {
        "memory_features": (5 * 8 * 64, 64),
        "memory_guesses": (5 * 8 * 64, 10),
        "class_history": (32, 10),
    }
    assert method.heads(0, 128, (8, 8, 128))["projection/output/kernel"].shape == (128, 64)
