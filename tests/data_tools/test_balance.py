from __future__ import annotations

import numpy as np
import pytest

from data_tools.pictures.balance import balance, class_target
from realmix_tf.errors import DataError, UsageError

CLASSES = ("rare", "common", "usual")
LABELS = np.array([1] * 40 + [0] * 3 + [2] * 10 + [-1] * 5 + [1] * 7)


def test_every_class_gets_its_share() -> None:
    rows, copies = balance(LABELS, CLASSES, 29, seed=3)
    assert np.bincount(LABELS[rows]).tolist() == [10, 10, 10] == [class_target(29, 3)] * 3
    assert rows.dtype == copies.dtype == np.int64
    pairs = list(zip(rows.tolist(), copies.tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    assert (LABELS[rows] >= 0).all()


def test_copies_are_shared_out_fairly_and_only_where_pictures_are_missing() -> None:
    rows, copies = balance(LABELS, CLASSES, 30, seed=0)
    rare = LABELS[rows] == 0
    assert not copies[~rare].any()
    per_picture = np.bincount(rows[rare])[40:43]
    assert sorted(per_picture.tolist()) == [3, 3, 4]
    for row in (40, 41, 42):
        assert copies[rows == row].tolist() == list(range(per_picture[row - 40]))
    assert rows[LABELS[rows] == 2].tolist() == list(range(43, 53))


def test_the_choice_depends_on_the_seed_alone() -> None:
    first = balance(LABELS, CLASSES, 30, seed=1)
    np.testing.assert_array_equal(np.stack(first), np.stack(balance(LABELS, CLASSES, 30, seed=1)))
    kept = {
        tuple(rows[LABELS[rows] == 1].tolist())
        for rows, _ in (balance(LABELS, CLASSES, 30, seed=seed) for seed in range(20))
    }
    assert len(kept) > 15
    assert {tuple(sorted(choice)) for choice in kept} == kept
    # Every picture has the same chance.
    chosen = np.concatenate(
        [balance(np.zeros(10, np.int64), "a", 5, seed).rows for seed in range(2000)]
    )
    assert np.abs(np.bincount(chosen, minlength=10) / 2000 - 0.5).max() < 0.06


def test_what_cannot_be_balanced_is_named() -> None:
    with pytest.raises(DataError, match="'b' has no image"):
        balance(np.array([0, 0, 2]), ("a", "b", "c"), 6, seed=0)
    with pytest.raises(UsageError, match="at least 1"):
        balance(LABELS, CLASSES, 0, seed=0)
