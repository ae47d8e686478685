"""The weak policies: what each may do, how often, and that pipelines do not change it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from realmix_tf.augment.names import POLICY_NAMES, default_policy
from realmix_tf.augment.policies import get_policy
from realmix_tf.errors import UsageError
from realmix_tf.randomness import uniforms


def photos(count: int, side: int, channels: int = 3) -> np.ndarray:
    shape = (count, side, side, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", POLICY_NAMES)
def test_a_policy_gives_the_same_bytes_alone_and_in_a_parallel_pipeline(name, channels):
    policy, images = get_policy(name), photos(48, 16, channels)

    def view(start):
        numbers = uniforms(9, "view", start, 8, policy.width)
        return policy(tf.constant(images)[start : start + 8], numbers)

    piped = tf.data.Dataset.range(0, 48, 8).map(view, num_parallel_calls=4)
    together = np.concatenate(list(piped.as_numpy_iterator()))
    alone = policy(tf.constant(images), uniforms(9, "view", 0, 48, policy.width)).numpy()
    one_by_one = np.concatenate(
        [
            policy(tf.constant(images[i : i + 1]), uniforms(9, "view", i, 1, policy.width))
            for i in range(48)
        ]
    )
    assert alone.dtype == np.uint8
    assert alone.shape == images.shape
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(one_by_one, alone)


def test_none_changes_nothing():
    images = photos(4, 8)
    np.testing.assert_array_equal(get_policy("none")(tf.constant(images), tf.zeros([4, 1])), images)


def _moves(name: str, side: int, count: int) -> Counter:
    """How often each (mirrored, dy, dx) occurs, told from images whose pixels are all distinct."""
    policy = get_policy(name)
    places = np.arange(side * side).reshape(side, side)
    image = np.stack([places // 256, places % 256, np.zeros_like(places)], -1).astype(np.uint8)
    numbers = uniforms(4, "view", 0, count, policy.width)
    result = policy(tf.constant(np.repeat(image[None], count, 0)), numbers).numpy().astype(int)
    values = result[..., 0] * 256 + result[..., 1]
    middle = (side - 1) // 2
    row, column = np.divmod(values[:, middle, middle], side)
    step = values[:, middle, middle + 1] - values[:, middle, middle]
    # In a mirrored image the neighbour to the right is the one that stood to the left.
    mirrored = step == -1
    assert (np.abs(step) == 1).all()
    column = np.where(mirrored, side - 1 - column, column)
    return Counter(
        zip(mirrored.tolist(), (row - middle).tolist(), (column - middle).tolist(), strict=True)
    )


@pytest.mark.parametrize(
    ("name", "pixels", "mirrors"),
    [("cifar10", 4, True), ("svhn", 4, False), ("stl10", 12, True), ("digits", 1, False)],
)
def test_every_offset_occurs_equally_often_and_house_numbers_are_never_mirrored(
    name, pixels, mirrors
):
    cells = (2 * pixels + 1) ** 2 * (1 + mirrors)
    each = 14 if cells > 1000 else 40
    moves = _moves(name, 2 * pixels + 2, each * cells)
    assert {m for m, _, _ in moves} == ({False, True} if mirrors else {False})
    assert {dy for _, dy, _ in moves} == set(range(-pixels, pixels + 1))
    assert {dx for _, _, dx in moves} == set(range(-pixels, pixels + 1))
    assert len(moves) == cells
    chi_square = sum((n - each) ** 2 / each for n in moves.values())
    assert chi_square < cells + 5 * np.sqrt(2 * cells)


def test_two_views_shift_independently():
    policy, images = get_policy("cifar10"), photos(64, 12)
    views = [
        policy(tf.constant(images), uniforms(1, purpose, 0, 64, policy.width)).numpy()
        for purpose in ("unlabeled/weak0", "unlabeled/weak1")
    ]
    assert (views[0] != views[1]).any((1, 2, 3)).mean() > 0.95


def test_cutout_erases_three_of_ten_images_and_the_published_areas_and_aspects():
    policy, count, side = get_policy("cutout"), 6000, 32
    images = np.zeros((count, side, side, 1), np.uint8)
    numbers = uniforms(3, "view", 0, count, policy.width)
    changed = (policy(tf.constant(images), numbers).numpy() != 0)[..., 0]
    erased = changed.any((1, 2))
    assert abs(erased.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / count)
    rows, columns = changed[erased].any(2), changed[erased].any(1)
    height, width = rows.sum(1), columns.sum(1)
    area, aspect = height * width / side**2, height / width
    whole = (height < side) & (width < side)
    assert area.min() > 0.01
    assert area.max() < 0.44
    assert abs(area[whole].mean() - 0.21) < 0.02
    assert aspect.min() >= 0.25
    assert aspect.max() < 4
    assert abs(np.median(aspect[whole]) - (0.3 + 1 / 0.3) / 2) < 0.15


def test_color_uses_the_published_ranges():
    # A grey image shows brightness alone; the jitter must reach, and not pass, ±0.1.
    policy, count = get_policy("color"), 2000
    grey = np.full((count, 6, 6, 3), 128, np.uint8)
    numbers = uniforms(3, "view", 0, count, policy.width)
    level = policy(tf.constant(grey), numbers).numpy()[:, 0, 0, 0].astype(int)
    assert 128 - 26 <= level.min() <= 128 - 25
    assert 128 + 25 <= level.max() <= 128 + 26
    assert abs(level.mean() - 128) < 2


@pytest.mark.parametrize(
    ("dataset", "policy"),
    [
        ("svhn", "svhn"),
        ("svhn_noextra", "svhn"),
        ("stl10", "stl10"),
        ("digits", "digits"),
        ("cifar10", "cifar10"),
        ("mydataset", "cifar10"),
    ],
)
def test_each_dataset_has_its_published_policy(dataset, policy):
    assert default_policy(dataset) == policy
    assert get_policy(policy).name == policy


def test_an_unknown_policy_is_a_usage_error_that_lists_the_known():
    with pytest.raises(UsageError, match=r"'cifar'.*--augment.*cifar10 or svhn"):
        get_policy("cifar")


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_the_smallest_image_a_policy_allows_works(name):
    policy = get_policy(name)
    images = photos(200, policy.min_size)
    numbers = uniforms(3, "view", 0, 200, policy.width)
    result = policy(tf.constant(images), numbers).numpy()
    assert result.shape == images.shape
    if name not in ("none", "color", "cutout"):
        for image, moved in zip(images, result, strict=True):
            assert set(map(tuple, moved.reshape(-1, 3))) <= set(map(tuple, image.reshape(-1, 3)))
