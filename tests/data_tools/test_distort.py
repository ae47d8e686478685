from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from data_tools.pictures.distort import (
    DISTORT_WIDTH,
    ERASE_WIDTH,
    BuildAugmentation,
    affine,
    distort,
    erase,
    uniforms,
)

SHAPES = ((8, 8, 3), (9, 14, 1), (32, 32, 3), (224, 200, 3))


def picture(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def middle(width: int = DISTORT_WIDTH, **changes: float) -> np.ndarray:
    """Numbers that leave an image as it is, but for the changes (by position, as n0=…)."""
    numbers = np.full(width, 0.5, np.float32)
    for name, value in changes.items():
        numbers[int(name[1:])] = value
    return numbers


def plain_distort(image: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Pixel by pixel, from the definition."""
    height, width, _ = image.shape
    angle, ty, tx, s, zy, zx = (2 * float(number) - 1 for number in numbers[:6])
    angle = math.radians(40 * angle)
    result = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            y, x = row - (height - 1) / 2, column - (width - 1) / 2
            y, x = y * (1 + 0.2 * zy), x * (1 + 0.2 * zx)
            x += 0.2 * s * y
            y, x = y + 0.2 * ty * height, x + 0.2 * tx * width
            y, x = (
                math.cos(angle) * y + math.sin(angle) * x,
                -math.sin(angle) * y + math.cos(angle) * x,
            )
            y = min(max(y + (height - 1) / 2, 0), height - 1)
            x = min(max(x + (width - 1) / 2, 0), width - 1)
            top, left = min(int(y), height - 2), min(int(x), width - 2)
            fy, fx = y - top, x - left
            box = image[top : top + 2, left : left + 2].astype(float)
            value = (
                box[0, 0] * (1 - fy) * (1 - fx) + box[0, 1] * (1 - fy) * fx
                + box[1, 0] * fy * (1 - fx) + box[1, 1] * fy * fx
            )  # fmt: skip
            result[row, column] = np.rint(value)
    return result[:, ::-1] if numbers[6] < 0.5 else result


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_distortion_is_what_its_definition_says(shape) -> None:
    image = picture(shape)
    for position in range(6):
        numbers = uniforms(5, "test", position, DISTORT_WIDTH)
        result = distort(image, numbers)
        assert (result.dtype, result.shape) == (np.uint8, shape)
        difference = np.abs(result.astype(int) - plain_distort(image, numbers))
        # A tie in the last digit may be rounded either way.
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01


def test_each_number_does_one_thing() -> None:
    image = picture((20, 30, 3))
    np.testing.assert_array_equal(distort(image, middle()), image)
    np.testing.assert_array_equal(distort(image, middle(n6=0.4)), image[:, ::-1])
    down = distort(image, middle(n1=1.0))
    np.testing.assert_array_equal(down[:16], image[4:])
    np.testing.assert_array_equal(down[16:], np.repeat(image[-1:], 4, 0))
    right = distort(image, middle(n2=0.0))
    np.testing.assert_array_equal(right[:, 6:], image[:, :-6])
    matrix, offset = affine(middle(n0=1.0), 21, 21)
    np.testing.assert_allclose(matrix @ [10, 10] + offset, [10, 10])
    assert math.degrees(math.atan2(matrix[0, 1], matrix[0, 0])) == pytest.approx(40)
    matrix, _ = affine(middle(n3=1.0, n4=0.0, n5=1.0), 21, 21)
    np.testing.assert_allclose(matrix, [[0.8, 0], [0.2 * 0.8, 1.2]])


def test_large_images_stay_bytes() -> None:
    image = np.full(SHAPES[3], 255, np.uint8)
    image[::2] = 254
    result = distort(image, uniforms(1, "x", 4, DISTORT_WIDTH))
    assert set(np.unique(result)) <= {254, 255}


def test_erasing_is_the_policy_cutout() -> None:
    tf = pytest.importorskip("tensorflow")
    from realmix_tf.augment.policies import get_policy

    policy = get_policy("cutout")
    assert policy.width == ERASE_WIDTH
    for shape in SHAPES:
        images = np.stack([picture(shape, seed) for seed in range(12)])
        numbers = np.stack([uniforms(2, "cut", i, ERASE_WIDTH) for i in range(12)])
        numbers[:9, 0] = 0.1
        expected = policy(tf.constant(images), tf.constant(numbers)).numpy()
        for image, row, erased in zip(images, numbers, expected, strict=True):
            np.testing.assert_array_equal(erase(image, row, 0.3), erased)
        changed = (expected != images).any(axis=(1, 2, 3))
        assert changed[:9].all()


def test_erasing_leaves_the_original_and_the_rest_alone() -> None:
    image = picture((16, 16, 1))
    before = image.copy()
    assert erase(image, middle(ERASE_WIDTH), 0.5) is image
    erased = erase(image, middle(ERASE_WIDTH, n0=0.49), 0.5)
    np.testing.assert_array_equal(image, before)
    rows, columns, _ = np.nonzero(erased != image)
    share = np.ptp(rows) * np.ptp(columns) / 256
    assert 0.02 < share < 0.4


def test_numbers_belong_to_their_position() -> None:
    rows = np.stack([uniforms(7, "p", i, 8) for i in range(4000)])
    assert rows.dtype == np.float32
    assert rows.min() >= 0
    assert rows.max() < 1
    np.testing.assert_allclose(rows.mean(0), 0.5, atol=0.03)
    assert np.abs(np.corrcoef(rows.T) - np.eye(8)).max() < 0.08
    np.testing.assert_array_equal(uniforms(7, "p", 3, 5), rows[3, :5])
    assert (uniforms(8, "p", 3, 8) != rows[3]).all()
    assert (uniforms(7, "q", 3, 8) != rows[3]).all()


def test_the_step_of_a_build() -> None:
    step = pickle.loads(pickle.dumps(BuildAugmentation(3, "train", 0.0)))  # noqa: S301
    image = picture((12, 12, 3))
    numbers = BuildAugmentation.numbers(np.array([0, 0, 1, 2]))
    assert numbers.tolist() == [0, 2, 5, 7]
    results = [step(image, number) for number in numbers.tolist()]
    np.testing.assert_array_equal(results[0], image)
    np.testing.assert_array_equal(results[1], image)
    assert (results[2] != image).any()
    assert (results[2] != results[3]).any()
    again = BuildAugmentation(3, "train", 1.0)
    assert (again(image, 2) != image).any()
    assert (again(image, 5) != results[2]).any()
    np.testing.assert_array_equal(again(image, 5), again(image, 5))
