"""What an update reads is a pure function of (seed, update)."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from realmix_tf.augment import codes
from realmix_tf.augment.policies import get_policy
from realmix_tf.augment.slots import slot_policies
from realmix_tf.augment.views import to_float
from realmix_tf.data.sampling import permuted
from realmix_tf.data.training_data import TrainingData
from realmix_tf.errors import UsageError
from realmix_tf.methods.base import Views
from realmix_tf.randomness import uniforms
from realmix_tf.training.input import TrainingInput


class Store:
    """Images whose first pixel is their number."""

    def __init__(self, count: int, labels: np.ndarray, side: int = 8) -> None:
        self.shape, self.labels = (side, side, 1), labels
        self.pixels = np.random.default_rng(count).integers(0, 256, (count, *self.shape), np.uint8)
        self.pixels[:, 0, 0, 0] = np.arange(count)

    def __len__(self) -> int:
        return len(self.pixels)

    def gather(self, positions):
        return tf.gather(self.pixels, positions)


def data(unlabeled: bool = True, hidden_seed: int = 0, side: int = 8) -> TrainingData:
    hidden = np.random.default_rng(hidden_seed).integers(0, 3, 50)
    return TrainingData(
        classes=("a", "b", "c"),
        shape=(side, side, 1),
        labeled=Store(12, np.arange(12) % 3, side),
        unlabeled=Store(50, hidden, side) if unlabeled else None,
        valid=None,
        test=None,
        sources={},
    )


VIEWS = Views(unlabeled=("weak0", "weak1"))


def source(replicas: int = 1, policy: str = "digits", seed: int = 5, **more) -> TrainingInput:
    views = more.pop("views", VIEWS)
    given = more.pop("data", None) or data()
    policies = slot_policies(codes.parse(policy, "digits"))
    return TrainingInput(given, views, policies, 10, seed, replicas, **more)


def take(source: TrainingInput, count: int, start: int = 0) -> list:
    return list(source.dataset(start).take(count).as_numpy_iterator())


def flat(values) -> list[np.ndarray]:
    return tf.nest.flatten(values)


def test_a_batch_is_the_images_at_its_positions_augmented_by_its_numbers():
    given = data()
    for update, batch in enumerate(take(source(data=given), 7)):
        positions = update * 10 + tf.range(10, dtype=tf.int64)
        for purpose, store, views in (
            ("labeled", given.labeled, batch.labeled),
            ("unlabeled", given.unlabeled, batch.unlabeled),
        ):
            chosen = permuted(positions, len(store), 5, purpose).numpy()
            for name, images in views.items():
                numbers = uniforms(5, f"{purpose}/{name}", update * 10, 10, 3)
                moved = get_policy("digits")(tf.constant(store.pixels[chosen]), numbers).numpy()
                np.testing.assert_allclose(images, moved / 127.5 - 1, atol=1e-6)
        chosen = permuted(positions, 12, 5, "labeled").numpy()
        np.testing.assert_array_equal(batch.labels, given.labeled.labels[chosen])
        np.testing.assert_array_equal(batch.labeled_index, chosen)
        chosen = permuted(positions, 50, 5, "unlabeled").numpy()
        np.testing.assert_array_equal(batch.unlabeled_index, chosen)


def test_starting_at_an_update_gives_what_would_have_come_then():
    whole = take(source(), 9)
    for start in (1, 5):
        for one, other in zip(take(source(), 9 - start, start), whole[start:], strict=True):
            for a, b in zip(flat(one), flat(other), strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("replicas", [2, 5])
@pytest.mark.parametrize("ratio", [1, 3])
def test_the_replicas_together_read_the_batch_of_one_device(replicas, ratio):
    views = Views(unlabeled=("weak0",), ratio=ratio)
    whole = take(source(views=views), 3, start=4)
    parts = take(source(replicas, views=views), 3 * replicas, start=4)
    for update, batch in enumerate(whole):
        assert batch.unlabeled["weak0"].shape[0] == 10 * ratio
        mine = parts[update * replicas : (update + 1) * replicas]
        for index, value in enumerate(flat(batch)):
            joined = np.concatenate([flat(part)[index] for part in mine])
            np.testing.assert_array_equal(joined, value)


def test_the_views_of_an_image_are_augmented_independently():
    batches = take(source(), 4)
    pairs = [b.unlabeled["weak0"] != b.unlabeled["weak1"] for b in batches]
    assert np.mean(np.concatenate(pairs).any((1, 2, 3))) > 0.7


def test_an_epoch_reads_each_labelled_image_once():
    batches = take(source(policy="none"), 6)  # 60 positions are five epochs of 12
    numbers = np.concatenate([b.labeled["weak"][:, 0, 0, 0] for b in batches])
    numbers = np.rint((numbers + 1) * 127.5).astype(int).reshape(5, 12)
    np.testing.assert_array_equal(np.sort(numbers, 1), np.tile(np.arange(12), (5, 1)))
    assert len(np.unique(numbers, axis=0)) == 5


def test_without_shuffling_images_come_in_file_order():
    batches = take(source(policy="none", shuffle=False), 3)
    numbers = np.concatenate([b.labeled["weak"][:, 0, 0, 0] for b in batches])
    np.testing.assert_array_equal(np.rint((numbers + 1) * 127.5), np.arange(30) % 12)


def test_hidden_labels_of_unlabelled_images_reach_nothing():
    for one, other in zip(
        take(source(data=data(hidden_seed=0)), 3),
        take(source(data=data(hidden_seed=1)), 3),
        strict=True,
    ):
        for a, b in zip(flat(one), flat(other), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_method_without_unlabelled_views_reads_none():
    batch = take(source(data=data(unlabeled=False), views=Views()), 1)[0]
    assert dict(batch.unlabeled) == {}


@pytest.mark.parametrize(
    ("make", "flag"),
    [
        (lambda: source(replicas=3), "--batch"),
        (lambda: source(data=data(unlabeled=False)), "--dataset"),
        (lambda: source(policy="stl10"), "--augment"),
    ],
)
def test_what_does_not_fit_is_a_usage_error_that_names_the_flag(make, flag):
    with pytest.raises(UsageError, match=flag):
        make()


# --- Strong views -----------------------------------------------------------------------------

STRONG = Views(("weak", "strong"), ("weak", "strong0", "strong1"), ratio=2)


def test_each_view_is_made_by_the_policy_of_its_slot():
    given = data()
    batch = take(source(policy="d.x.rac", views=STRONG, data=given), 1, start=3)[0]
    policies = slot_policies(codes.parse("d.x.rac", "digits"))
    slots = {
        "labeled/weak": policies.labeled,
        "labeled/strong": policies.strong,
        "unlabeled/weak": policies.weak,
        "unlabeled/strong0": policies.strong,
        "unlabeled/strong1": policies.strong,
    }
    for purpose, policy in slots.items():
        kind, _, name = purpose.partition("/")
        store, rows = (given.labeled, 10) if kind == "labeled" else (given.unlabeled, 20)
        index = batch.labeled_index if kind == "labeled" else batch.unlabeled_index
        numbers = uniforms(5, purpose, 3 * rows, rows, policy.width)
        made = to_float(policy(tf.constant(store.pixels[index]), numbers))
        np.testing.assert_array_equal(getattr(batch, kind)[name], made)
    plain = given.unlabeled.pixels[batch.unlabeled_index] / 127.5 - 1
    np.testing.assert_allclose(batch.unlabeled["weak"], plain, atol=1e-6)
    assert (batch.unlabeled["strong0"] != batch.unlabeled["strong1"]).any((1, 2, 3)).mean() > 0.9


def test_views_that_learn_are_handed_over_unfinished_with_a_probe_of_the_labelled_images():
    given = source(policy="d.d.cta", views=STRONG)
    assert set(given.learned) == {
        "labeled/strong", "unlabeled/strong0", "unlabeled/strong1", "labeled/probe",
    }  # fmt: skip
    batch = take(given, 1)[0]
    for view in (batch.labeled["strong"], batch.labeled["probe"], batch.unlabeled["strong1"]):
        assert view[0].dtype == np.uint8
    assert batch.labeled["weak"].dtype == np.float32
    assert source(policy="d.d.rac", views=STRONG).learned == {}
    # A method that reads no strong views has nothing to learn from.
    assert source(policy="d.d.cta").learned == {}


def test_the_probe_is_drawn_anew_and_does_not_change_other_views():
    learning, not_learning = (
        take(source(policy=p, views=STRONG), 1)[0] for p in ("d.d.cta", "d.d.rac")
    )
    np.testing.assert_array_equal(learning.labeled["weak"], not_learning.labeled["weak"])
    probe, weak = learning.labeled["probe"][0], learning.labeled["weak"]
    assert (probe / 127.5 - 1 - weak != 0).any((1, 2, 3)).mean() > 0.5


@pytest.mark.parametrize("replicas", [2, 5])
def test_replicas_together_read_the_strong_views_of_one_device(replicas):
    one = source(policy="ra.d.cta", views=STRONG)
    whole = take(one, 1, start=2)[0]
    parts = take(source(replicas, policy="ra.d.cta", views=STRONG), replicas, start=2)
    for index, value in enumerate(flat(whole)):
        np.testing.assert_array_equal(np.concatenate([flat(p)[index] for p in parts]), value)
