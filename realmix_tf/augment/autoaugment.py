"""AutoAugment (Cubuk et al. 2018, arXiv 1805.09501): policies that were searched for.

A policy is 25 pairs of operations, each with a probability and a level from 0 to 9. An image draws
one pair. The pairs are those of the paper's tables for CIFAR-10 and SVHN; what a level means is
taken from the FixMatch code (``levels.code_amount``). That code itself draws from longer lists, of
95 and 40 pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from realmix_tf.augment import chain, levels
from realmix_tf.augment.chain import Op, Step
from realmix_tf.augment.randaugment import MIN_SIZE, centre, default_side
from realmix_tf.augment.views import View, cut_out

Part = tuple[Op, float, int]

_CONTRAST, _BRIGHT, _COLOR, _SHARP = Op.CONTRAST, Op.BRIGHTNESS, Op.COLOR, Op.SHARPNESS
_AUTO, _EQUAL, _INVERT = Op.AUTOCONTRAST, Op.EQUALIZE, Op.INVERT
_POSTER, _SOLAR, _TURN = Op.POSTERIZE, Op.SOLARIZE, Op.ROTATE
_SHEAR_X, _SHEAR_Y, _MOVE_X, _MOVE_Y = Op.SHEAR_X, Op.SHEAR_Y, Op.TRANSLATE_X, Op.TRANSLATE_Y

# Operation, probability, level; the level of operations without a parameter is 0.
CIFAR10: tuple[tuple[Part, Part], ...] = (
    ((_INVERT, 0.1, 0), (_CONTRAST, 0.2, 6)),
    ((_TURN, 0.7, 2), (_MOVE_X, 0.3, 9)),
    ((_SHARP, 0.8, 1), (_SHARP, 0.9, 3)),
    ((_SHEAR_Y, 0.5, 8), (_MOVE_Y, 0.7, 9)),
    ((_AUTO, 0.5, 0), (_EQUAL, 0.9, 0)),
    ((_SHEAR_Y, 0.2, 7), (_POSTER, 0.3, 7)),
    ((_COLOR, 0.4, 3), (_BRIGHT, 0.6, 7)),
    ((_SHARP, 0.3, 9), (_BRIGHT, 0.7, 9)),
    ((_EQUAL, 0.6, 0), (_EQUAL, 0.5, 0)),
    ((_CONTRAST, 0.6, 7), (_SHARP, 0.6, 5)),
    ((_COLOR, 0.7, 7), (_MOVE_X, 0.5, 8)),
    ((_EQUAL, 0.3, 0), (_AUTO, 0.4, 0)),
    ((_MOVE_Y, 0.4, 3), (_SHARP, 0.2, 6)),
    ((_BRIGHT, 0.9, 6), (_COLOR, 0.2, 8)),
    ((_SOLAR, 0.5, 2), (_INVERT, 0.0, 0)),
    ((_EQUAL, 0.2, 0), (_AUTO, 0.6, 0)),
    ((_EQUAL, 0.2, 0), (_EQUAL, 0.6, 0)),
    ((_COLOR, 0.9, 9), (_EQUAL, 0.6, 0)),
    ((_AUTO, 0.8, 0), (_SOLAR, 0.2, 8)),
    ((_BRIGHT, 0.1, 3), (_COLOR, 0.7, 0)),
    ((_SOLAR, 0.4, 5), (_AUTO, 0.9, 0)),
    ((_MOVE_Y, 0.9, 9), (_MOVE_Y, 0.7, 9)),
    ((_AUTO, 0.9, 0), (_SOLAR, 0.8, 3)),
    ((_EQUAL, 0.8, 0), (_INVERT, 0.1, 0)),
    ((_MOVE_Y, 0.7, 9), (_AUTO, 0.9, 0)),
)
SVHN: tuple[tuple[Part, Part], ...] = (
    ((_SHEAR_X, 0.9, 4), (_INVERT, 0.2, 0)),
    ((_SHEAR_Y, 0.9, 8), (_INVERT, 0.7, 0)),
    ((_EQUAL, 0.6, 0), (_SOLAR, 0.6, 6)),
    ((_INVERT, 0.9, 0), (_EQUAL, 0.6, 0)),
    ((_EQUAL, 0.6, 0), (_TURN, 0.9, 3)),
    ((_SHEAR_X, 0.9, 4), (_AUTO, 0.8, 0)),
    ((_SHEAR_Y, 0.9, 8), (_INVERT, 0.4, 0)),
    ((_SHEAR_Y, 0.9, 5), (_SOLAR, 0.2, 6)),
    ((_INVERT, 0.9, 0), (_AUTO, 0.8, 0)),
    ((_EQUAL, 0.6, 0), (_TURN, 0.9, 3)),
    ((_SHEAR_X, 0.9, 4), (_SOLAR, 0.3, 3)),
    ((_SHEAR_Y, 0.8, 8), (_INVERT, 0.7, 0)),
    ((_EQUAL, 0.9, 0), (_MOVE_Y, 0.6, 6)),
    ((_INVERT, 0.9, 0), (_EQUAL, 0.6, 0)),
    ((_CONTRAST, 0.3, 3), (_TURN, 0.8, 4)),
    ((_INVERT, 0.8, 0), (_MOVE_Y, 0.0, 2)),
    ((_SHEAR_Y, 0.7, 6), (_SOLAR, 0.4, 8)),
    ((_INVERT, 0.6, 0), (_TURN, 0.8, 4)),
    ((_SHEAR_Y, 0.3, 7), (_MOVE_X, 0.9, 3)),
    ((_SHEAR_X, 0.1, 6), (_INVERT, 0.6, 0)),
    ((_SOLAR, 0.7, 2), (_MOVE_Y, 0.6, 7)),
    ((_SHEAR_Y, 0.8, 4), (_INVERT, 0.8, 0)),
    ((_SHEAR_X, 0.7, 9), (_MOVE_Y, 0.8, 3)),
    ((_SHEAR_Y, 0.8, 5), (_AUTO, 0.7, 0)),
    ((_SHEAR_X, 0.7, 2), (_INVERT, 0.1, 0)),
)
_FOR_DATASET = {"svhn": SVHN, "svhn_noextra": SVHN}


def searched_policy(dataset: str) -> tuple[tuple[Part, Part], ...]:
    """The policy that was searched on the dataset; CIFAR-10's for those without one."""
    return _FOR_DATASET.get(dataset, CIFAR10)


@dataclass(frozen=True)
class AutoAugment:
    """A policy on top of a weak one.

    Attributes:
      pairs: operation, probability and level, twice, for every pair.
      cutout: whether the window of the FixMatch code follows, 16 pixels wide.
    """

    pairs: tuple[tuple[Part, Part], ...] = CIFAR10
    cutout: bool = False

    @property
    def name(self) -> str:
        return "aac" if self.cutout else "aa"

    @property
    def min_size(self) -> int:
        """The smallest height and width, in pixels."""
        return MIN_SIZE

    @property
    def width(self) -> int:
        """Uniform numbers it needs an image: the pair, two times whether and sign, the window."""
        return 5 + (2 if self.cutout else 0)

    def __call__(self, images: tf.Tensor, uniforms: tf.Tensor) -> View:
        """uint8 [N, H, W, C] and float32 [N, width] in [0, 1) → a view."""
        _, height, width, _ = images.shape
        ops = {part[0] for pair in self.pairs for part in pair}
        view = chain.run(images, self.steps(uniforms, height, width), ops)
        if not self.cutout:
            return view
        place = centre(uniforms[:, 5:7], height, width)
        return cut_out(view, *place, default_side(height, width))

    def steps(self, uniforms: tf.Tensor, height: int, width: int) -> list[Step]:
        """The drawn operations with their parameters, for images of that size."""
        pair = tf.cast(uniforms[:, 0] * float(len(self.pairs)), tf.int32)
        whether, plus = uniforms[:, 1:5:2], tf.cast(uniforms[:, 2:5:2] >= 0.5, tf.int32)
        steps = []
        for number in range(2):
            parts = [pair[number] for pair in self.pairs]
            op, probability, _ = zip(*parts, strict=True)
            amount = [levels.code_amount(op, level, height, width) for op, _, level in parts]
            minus = [-a if o in levels.SIGNED else a for o, a in zip(op, amount, strict=True)]
            signed = tf.gather(np.array([minus, amount]).T.reshape(-1), 2 * pair + plus[:, number])
            applied = whether[:, number] < tf.gather(np.array(probability, np.float32), pair)
            drawn = tf.gather(np.array(op, np.int32), pair)
            steps.append(Step(tf.where(applied, drawn, int(Op.IDENTITY)), signed))
        return steps
