"""MixMatch in all nine ways of mixing, with raw and with averaged weights as the guesser.

How rows were mixed is read off the images that passed the network, so the reference knows nothing
of the seeds: the blocks are put back in order, and each row is taken apart into itself and its
partner.
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from by_hand import (
    aligned,
    cross_entropy,
    flat,
    interleaved,
    logits_of,
    mixed_with,
    one_hot,
    sharpened,
    softmax,
    unmixed,
)
from doubles import batch_of, context_of, method_of, network_of, task, total_of

ROWS, CLASSES = 8, 5
# What a mode mixes labelled (first) and unlabelled rows with: x, y, both, or nothing.
MODES = {
    "xxy.yxy": ("xy", "xy"),
    "xx.yy": ("x", "y"),
    "xx.yxy": ("x", "xy"),
    "xx.yx": ("x", "x"),
    "xx.": ("x", ""),
    ".yy": ("", "y"),
    "xxy.": ("xy", ""),
    ".yxy": ("", "xy"),
    ".": ("", ""),
}


class Made:
    """One update, and how its rows were mixed."""

    def __init__(self, mode="xxy.yxy", nu=2, rows=ROWS, images=512 * 1024.0, **options):
        method = method_of("mixmatch", task(CLASSES, rows), mixmode=mode, nu=nu, **options)
        self.batch, self.network = batch_of(method), network_of(method, centred=True)
        self.teacher = network_of(method, seed=9, centred=True)
        self.context = context_of(method, images=images, teacher=self.teacher)
        with tf.GradientTape() as tape:
            self.result = method.losses(self.batch, self.network, self.context)
            total = total_of(self.result)
        self.slope = tape.gradient(total, self.network.weights)
        guessing = 0 if options.get("ema_guess") else nu
        self.guess_calls, passes = self.network.calls[:guessing], self.network.calls[guessing:]
        self.views = [self.batch.unlabeled[f"weak{i}"] for i in range(nu)]
        self.blocks = [flat(self.batch.labeled["weak"]), *map(flat, self.views)]
        self.passed = passes
        self.mixed = interleaved([flat(call.images) for call in passes])

    def guess(self, network, temperature=0.5):
        p = np.mean([softmax(logits_of(network, view)[0]) for view in self.views], 0)
        return sharpened(p, temperature)

    def pool(self, letters):
        return np.concatenate(self.blocks[("x" not in letters) :][: None if "y" in letters else 1])

    def mixing(self, mode):
        """Shares and partners of every block, partners as places among the labels of all rows."""
        found = []
        for index, (mixed, block) in enumerate(zip(self.mixed, self.blocks, strict=True)):
            letters = MODES[mode][index > 0]
            if not letters:
                np.testing.assert_array_equal(mixed, block)
                found.append((np.ones(len(block)), np.zeros(len(block), int)))
                continue
            shares, partners = unmixed(mixed, block, self.pool(letters))
            found.append((shares, partners + (0 if "x" in letters else len(block))))
        return found


def expected(made: Made, mode: str, guess: np.ndarray) -> tuple[float, float]:
    """Cross entropy of labelled rows and squared distance of unlabelled ones."""
    nu = len(made.views)
    targets = [one_hot(made.batch.labels, CLASSES), *[guess] * nu]
    every = np.concatenate(targets)
    mixed = [
        mixed_with(target, every, *found)
        for target, found in zip(targets, made.mixing(mode), strict=True)
    ]
    blocks = interleaved(made.mixed)
    logits = interleaved([logits_of(made.network, block)[0] for block in blocks])
    errors = [((t - softmax(z)) ** 2).sum(-1) for t, z in zip(mixed[1:], logits[1:], strict=True)]
    return cross_entropy(mixed[0], logits[0]).mean(), np.concatenate(errors).mean() / CLASSES


@pytest.mark.parametrize("nu", [1, 2, 3])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_mixes_what_it_names_and_asks_for_the_mixed_labels(mode, nu):
    made = Made(mode, nu)
    xe, distance = expected(made, mode, made.guess(made.network))
    np.testing.assert_allclose(made.result.terms["xe"].value, xe, rtol=1e-5)
    np.testing.assert_allclose(made.result.terms["l2u"].value, distance, rtol=1e-5)
    assert float(made.result.terms["xe"].weight) == 1
    assert float(made.result.terms["l2u"].weight) == pytest.approx(50)
    assert np.isfinite(made.slope).all()


@pytest.mark.parametrize("mode", MODES)
def test_shares_are_a_row_s_own_and_partners_a_permutation(mode):
    made = Made(mode, rows=16)
    first, second = MODES[mode]
    mixing = made.mixing(mode)
    shares = np.concatenate(
        [s for (s, _), m in zip(mixing, [first, second, second], strict=True) if m] or [np.ones(1)]
    )
    assert shares.min() >= 0.5 - 1e-5
    assert shares.max() <= 1 + 1e-5
    sure = shares[shares < 0.99]
    assert len(np.unique(sure.round(6))) == len(sure)
    assert not (first or second) or len(sure) > 4
    # A partner taken twice by rows of one draw would show as a repeated place.
    draws = []
    if mode == "xxy.yxy":
        draws = [mixing]
    elif first:
        draws.append(mixing[:1])
    if second == "x":
        draws += [mixing[1:2], mixing[2:]]
    elif second and mode != "xxy.yxy":
        draws.append(mixing[1:])
    for draw in draws:
        share, partner = (np.concatenate(part) for part in zip(*draw, strict=True))
        seen = partner[share < 0.99]  # a partner of no weight cannot be read off
        assert len(np.unique(seen)) == len(seen)


def test_the_averaged_weights_may_guess_instead():
    made = Made(ema_guess=True)
    assert made.guess_calls == []
    assert [len(call.images) for call in made.teacher.calls] == [ROWS, ROWS]
    for call, view in zip(made.teacher.calls, made.views, strict=True):
        np.testing.assert_array_equal(call.images, view)
    _, distance = expected(made, "xxy.yxy", made.guess(made.teacher))
    np.testing.assert_allclose(made.result.terms["l2u"].value, distance, rtol=1e-5)
    assert method_of("mixmatch", ema_guess=True).reads_teacher
    assert not method_of("mixmatch").reads_teacher
    assert not method_of("realmix").reads_teacher


def test_guess_passes_leave_the_averages_alone_and_the_first_block_moves_them():
    made = Made(rows=64)
    assert [call.update_stats for call in made.network.calls] == [False] * 2 + [True] + [False] * 2
    assert all(call.training for call in made.network.calls)
    first = interleaved(made.mixed)[0]
    np.testing.assert_allclose(made.network.moving_mean, 0.001 * first.mean(0), atol=1e-7)
    # 21 labelled rows, 21 of the first view, 22 of the second.
    kinds = interleaved([np.full(64, kind) for kind in (0, 1, 2)])
    assert np.bincount(kinds[0]).tolist() == [21, 21, 22]
    assert np.bincount(kinds[1]).tolist() == [21, 43]


def test_guesses_may_be_aligned_to_expected_shares():
    wanted = [0.4, 0.3, 0.1, 0.1, 0.1]
    made = Made("xx.yy", p_unlabeled=",".join(map(str, wanted)))
    p = np.mean([softmax(logits_of(made.network, view)[0]) for view in made.views], 0)
    guess = sharpened(aligned(p, wanted, np.full(CLASSES, 0.2)), 0.5)
    _, distance = expected(made, "xx.yy", guess)
    np.testing.assert_allclose(made.result.terms["l2u"].value, distance, rtol=1e-5)
    history = made.result.state["class_history"]
    np.testing.assert_allclose(history[-1], p.mean(0), rtol=1e-5)
    np.testing.assert_allclose(history[:-1], np.full((127, CLASSES), 0.2), rtol=1e-6)
