"""Augmentation while a dataset is built: distorted copies of rare classes, and cutout.

No TensorFlow: this runs in the processes that decode files. All numbers come from a counter-based
generator by (seed, purpose, position), so neither batching nor the number of processes matters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from realmix_tf.data.images import UInt8Array
from realmix_tf.keys import key

Int64Array = NDArray[np.int64]
Float32Array = NDArray[np.float32]

ROTATION = 40.0  # degrees
SHIFT = 0.2  # of the height and of the width
SHEAR = 0.2  # columns a row
ZOOM = 0.2
CUTOUT_AREA = (0.02, 0.4)
CUTOUT_ASPECT = (0.3, 1 / 0.3)

DISTORT_WIDTH = 7
ERASE_WIDTH = 6


@dataclass(frozen=True)
class BuildAugmentation:
    """What a decoded picture goes through before it is stored; a picklable post-step.

    Attributes:
      seed: of all random numbers.
      purpose: distinguishes the parts of a dataset, such as ``"train"``.
      cutout: the probability of erasing a rectangle, 0..1.
    """

    seed: int
    purpose: str
    cutout: float = 0.0

    @staticmethod
    def numbers(copies: Int64Array) -> Int64Array:
        """What the step is given for each picture of an output: its position, and whether it is
        a copy that has to differ from its original.

        Args:
          copies: int64 [M] ≥ 0, 0 for the picture itself, in the order of the output.
        """
        return 2 * np.arange(len(copies)) + (copies > 0)

    def __call__(self, image: UInt8Array, number: int) -> UInt8Array:
        """uint8 [height, width, channels] → the same shape; ``number`` from ``numbers``."""
        position, is_copy = divmod(number, 2)
        if is_copy:
            purpose = f"{self.purpose}/distort"
            image = distort(image, uniforms(self.seed, purpose, position, DISTORT_WIDTH))
        if self.cutout:
            purpose = f"{self.purpose}/cutout"
            drawn = uniforms(self.seed, purpose, position, ERASE_WIDTH)
            image = erase(image, drawn, self.cutout)
        return image


def uniforms(seed: int, purpose: str, position: int, width: int) -> Float32Array:
    """Uniform numbers for one position.

    Returns:
      float32 [width] in [0, 1), multiples of 2⁻²⁴.
    """
    # The low word of the counter runs while numbers are drawn; the next is the position.
    generator = np.random.Philox(key=key(seed, purpose), counter=[0, position, 0, 0])
    words = np.asarray(generator.random_raw(width))
    return (words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def distort(image: UInt8Array, numbers: Float32Array) -> UInt8Array:
    """Rotates, shifts, shears, zooms and perhaps mirrors an image.

    With x to the right and y downwards from the centre, the output's point p shows the input's
    point R·(t + S·Z·p), the order of Keras' ``ImageDataGenerator``: R turns by up to 40°; t is up
    to 20 % of the width and of the height; S adds up to 0.2·y to x; Z scales x and y separately by
    0.8 to 1.2. Then half of the images are mirrored. What lies outside shows the nearest border
    pixel; between pixels the interpolation is bilinear.

    The published tool handed 0.2 to Keras as the shear. That is an angle: in radians, as Keras
    then read it, sin 0.2 ≈ 20 % of the height, which is what is done here; in degrees, as later
    versions read it, it would be 0.35 % and change nothing.

    Args:
      image: uint8 [height, width, channels].
      numbers: float32 [7] in [0, 1): angle, shift in y, shift in x, shear, zoom of y, zoom of x,
        and mirrored where below ½; the first six spread evenly over their ranges.

    Returns:
      uint8 of the same shape.
    """
    height, width = image.shape[:2]
    matrix, offset = affine(numbers, height, width)
    result = np.empty_like(image)
    for channel in range(image.shape[2]):
        values = ndimage.affine_transform(
            image[:, :, channel], matrix, offset, output=np.float64, order=1, mode="nearest"
        )
        result[:, :, channel] = np.rint(values)
    return result[:, ::-1] if numbers[6] < 0.5 else result


def affine(
    numbers: Float32Array, height: int, width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The distortion as a map of pixels: input (y, x) = matrix · output (y, x) + offset.

    Args:
      numbers: as for ``distort``.
      height, width: of the image.

    Returns:
      float64 [2, 2] and [2].
    """
    angle, down, right, slant, zoom_y, zoom_x = (
        2.0 * float(number) - 1.0 for number in numbers[:6]
    )
    cosine = math.cos(math.radians(ROTATION * angle))
    sine = math.sin(math.radians(ROTATION * angle))
    turn = np.array([[cosine, sine], [-sine, cosine]])
    shift = np.array([SHIFT * down * height, SHIFT * right * width])
    shear = np.array([[1.0, 0.0], [SHEAR * slant, 1.0]])
    zoom = np.diag([1.0 + ZOOM * zoom_y, 1.0 + ZOOM * zoom_x])
    matrix = turn @ shear @ zoom
    center = np.array([(height - 1) / 2, (width - 1) / 2])
    return matrix, turn @ shift + center - matrix @ center


def erase(image: UInt8Array, numbers: Float32Array, probability: float) -> UInt8Array:
    """Fills a rectangle with random bytes: the policy ``cutout`` of ``realmix_tf.augment``.

    The same numbers give the same rectangle and the same bytes as there: area 2–40 % of the image,
    height over width 0.3–1/0.3, sides rounded and cut to the image.

    Args:
      image: uint8 [height, width, channels].
      numbers: float32 [6] in [0, 1): erased where the first is below ``probability``, area,
        aspect, place from top and from left, key of the bytes.
      probability: 0..1.

    Returns:
      uint8 of the same shape, a new array where something was erased.
    """
    if not numbers[0] < probability:
        return image
    height, width, _ = image.shape
    area = np.float32(height * width) * _between(numbers[1], CUTOUT_AREA)
    aspect = _between(numbers[2], CUTOUT_ASPECT)
    box_height = min(max(int(np.rint(np.sqrt(area * aspect))), 1), height)
    box_width = min(max(int(np.rint(np.sqrt(area / aspect))), 1), width)
    top = _place(numbers[3], height - box_height)
    left = _place(numbers[4], width - box_width)
    places = np.arange(image.size, dtype=np.uint32).reshape(image.shape)
    box = np.s_[top : top + box_height, left : left + box_width]
    start = np.uint32(int(numbers[5] * np.float32(2.0**24)) * 0x9E3779B1 & 0xFFFFFFFF)
    result = image.copy()
    result[box] = _hash_byte(places[box] + start)
    return result


def _between(number: np.float32, bounds: tuple[float, float]) -> np.float32:
    low, high = bounds
    return np.float32(np.float32(low) + number * np.float32(high - low))


def _place(fraction: np.float32, room: int) -> int:
    return int(np.floor(fraction * np.float32(room + 1)))


def _hash_byte(words: NDArray[np.uint32]) -> UInt8Array:
    """One well-mixed byte a 32-bit word (the finaliser of MurmurHash3)."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        words = (words ^ (words >> np.uint32(shift))) * np.uint32(factor)
    return (words >> np.uint32(24)).astype(np.uint8)
