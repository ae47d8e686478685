"""RandAugment (Cubuk et al. 2019, arXiv 1909.13719), in the three forms the literature trains with.

- The FixMatch code's: two of fourteen operations, with replacement, each applied with probability
  1/2 at a level from 1 to 9; then Cutout. Or fixed numbers of operations at a fixed level. (A level
  behind ``rac`` is that level here; in that code ``rac<m>`` draws from 1 to m − 1.)
- The same with the ranges of the FixMatch paper's table, as the PyTorch editions have it.
- The one of TorchSSL and USB: three operations, always applied, values uniform in these ranges,
  then Cutout of a random size. They fill it with (125, 123, 114); here it is hidden, as always.

The published code loses up to a level of grey when it turns floats into bytes; here the bytes stay
bytes, and an image that is left alone comes out unchanged.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from realmix_tf.augment import chain, levels
from realmix_tf.augment.chain import Op, Step
from realmix_tf.augment.codes import StrongCode
from realmix_tf.augment.views import View, cut_out

_PER_STEP = 4  # operation, level, whether, sign
_RANDOM_LEVELS = (1, 9)
WINDOW = 16  # side of the FixMatch code's window in pixels, from 32 pixels on
MIN_SIZE = 8

Drawn = tuple[tf.Tensor, tf.Tensor]  # operations, int32 [N, count], and amounts, float64


@dataclass(frozen=True)
class RandAugment:
    """A policy on top of a weak one.

    Attributes:
      code: which of the forms; ``code.family`` is ``randaugment``.
    """

    code: StrongCode

    @property
    def name(self) -> str:
        return self.code.text

    @property
    def min_size(self) -> int:
        """The smallest height and width, in pixels."""
        return MIN_SIZE

    @property
    def width(self) -> int:
        """Uniform numbers it needs an image."""
        return self.code.operations * _PER_STEP + (3 if self.code.cutout else 0)

    def __call__(self, images: tf.Tensor, uniforms: tf.Tensor) -> View:
        """uint8 [N, H, W, C] and float32 [N, width] in [0, 1) → a view."""
        _, height, width, _ = images.shape
        steps = self.steps(uniforms, height, width)
        view = chain.run(images, steps, levels.RANDOM)
        if not self.code.cutout:
            return view
        place = uniforms[:, -3:]
        side = self._side(place[:, 2], height, width)
        return cut_out(view, *centre(place[:, :2], height, width), side)

    def steps(self, uniforms: tf.Tensor, height: int, width: int) -> list[Step]:
        """The drawn operations with their parameters, for images of that size."""
        count = self.code.operations
        numbers = tf.reshape(uniforms[:, : count * _PER_STEP], [-1, count, _PER_STEP])
        if self.code.ranges == "uniform":
            op, amount = _uniform_steps(numbers, height, width)
        else:
            op, amount = self._level_steps(numbers, height, width)
        return [Step(op[:, number], amount[:, number]) for number in range(count)]

    def _level_steps(self, numbers: tf.Tensor, height: int, width: int) -> Drawn:
        """All outcomes of one step stand in a table; the numbers say which one it is."""
        low, high = _RANDOM_LEVELS if self.code.level is None else (self.code.level,) * 2
        sizes = (len(levels.RANDOM), high - low + 1, 2, 2)
        paper = self.code.ranges == "paper"
        amount_of = levels.paper_amount if paper else levels.code_amount
        ops, amounts = [], []
        for op, level, skipped, plus in itertools.product(*(range(size) for size in sizes)):
            chosen = levels.RANDOM[op]
            amount = amount_of(chosen, low + level, height, width)
            amounts.append(-amount if chosen in levels.SIGNED and not plus else amount)
            ops.append(Op.IDENTITY if skipped and not self.code.always else chosen)
        strides = np.cumprod((1, *sizes[:0:-1]))[::-1].astype(np.int32)
        entry = tf.reduce_sum(
            tf.cast(numbers * np.array(sizes, np.float32), tf.int32) * strides, -1
        )
        return tf.gather(np.array(ops, np.int32), entry), tf.gather(np.array(amounts), entry)

    def _side(self, uniform: tf.Tensor, height: int, width: int) -> tf.Tensor | int:
        smaller = min(height, width)
        if self.code.ranges == "uniform":
            return tf.cast(uniform * (0.5 * smaller), tf.int32)
        if self.code.cutout_percent is not None:
            return self.code.cutout_percent * smaller // 100
        return default_side(height, width)


def _uniform_steps(numbers: tf.Tensor, height: int, width: int) -> Drawn:
    drawn = tf.cast(numbers[..., 0] * float(len(levels.RANDOM)), tf.int32)
    op = tf.gather(np.array(levels.RANDOM, np.int32), drawn)
    low, high = levels.paper_range(height, width)
    share = tf.cast(numbers[..., 1], tf.float64)
    amount = tf.gather(low, op) + share * tf.gather(high - low, op)
    amount = tf.where(op == Op.POSTERIZE, tf.floor(amount), amount)
    # A level is inverted from the threshold on: between two levels that is from the upper one on.
    return op, tf.where(op == Op.SOLARIZE, tf.math.ceil(amount), amount)


def centre(uniforms: tf.Tensor, height: int, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Row and column, int32 [N], uniform over the pixels, from float32 [N, 2] in [0, 1)."""
    return (
        tf.cast(uniforms[:, 0] * float(height), tf.int32),
        tf.cast(uniforms[:, 1] * float(width), tf.int32),
    )


def default_side(height: int, width: int) -> int:
    """Side of the FixMatch code's window: 16 pixels, in proportion below 32 pixels."""
    return int(WINDOW * levels.small_scale(height, width) + 0.5)
