"""CTAugment (Berthelot et al. 2019, ReMixMatch, arXiv 1911.09785, section 3.2.2).

Every parameter of every operation is cut into bins, and every bin has a rate: how well the model
still recognises a labelled image after an operation drawn from it. Training views are drawn from
bins with high rates. Probe views of labelled images, drawn from all bins alike, update the rates
and are never trained on.

The rates are an argument and a result: they belong to whoever trains, as part of the state that a
checkpoint holds. Differences from the published code: translations move by up to ±0.3 of the size,
as the paper means them, not of a pixel; cutout hides (grey) rather than paints 127.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from realmix_tf.augment import chain
from realmix_tf.augment.chain import Op, Step
from realmix_tf.augment.randaugment import MIN_SIZE, centre
from realmix_tf.augment.views import View, cut_out

# In the order of the published code. Bins of the first and the second parameter.
OPERATIONS: tuple[tuple[Op, tuple[int, ...]], ...] = (
    (Op.AUTOCONTRAST, (17,)),
    (Op.BLUR, (17,)),
    (Op.BRIGHTNESS, (17,)),
    (Op.COLOR, (17,)),
    (Op.CONTRAST, (17,)),
    (Op.CUTOUT, (17,)),
    (Op.EQUALIZE, (17,)),
    (Op.INVERT, (17,)),
    (Op.IDENTITY, ()),
    (Op.POSTERIZE, (8,)),
    (Op.RESCALE, (17, 6)),
    (Op.ROTATE, (17,)),
    (Op.SHARPNESS, (17,)),
    (Op.SHEAR_X, (17,)),
    (Op.SHEAR_Y, (17,)),
    (Op.SMOOTH, (17,)),
    (Op.SOLARIZE, (17,)),
    (Op.TRANSLATE_X, (17,)),
    (Op.TRANSLATE_Y, (17,)),
)
PARAMETERS, BINS = 2, 17
NONE = -1  # the bin of a parameter that an operation does not have

_COUNTS = np.array([(*bins, 0, 0)[:PARAMETERS] for _, bins in OPERATIONS], np.int32)
_USED = np.arange(BINS) < _COUNTS[:, :, None]
_CELLS = len(OPERATIONS) * PARAMETERS * BINS
_PER_STEP = 7  # operation, two times bin and place within, row and column of a window
_PER_PROBE = 5  # operation, two values, row and column of a window
_AS_DRAWN, _DOWN, _NEAREST = range(3)  # how the number from a value is rounded


class Chain(NamedTuple):
    """Drawn operations with their parameters.

    Attributes:
      op: int32 [N, depth], places in ``OPERATIONS``.
      value: float32 [N, depth, 2] in [0, 1], the parameters.
      bin: int32 [N, depth, 2], the bins they fall into; −1 where there is no such parameter.
      window: float32 [N, depth, 2] in [0, 1), where a cutout lies.
    """

    op: tf.Tensor
    value: tf.Tensor
    bin: tf.Tensor
    window: tf.Tensor


@dataclass(frozen=True)
class CTAugment:
    """A policy on top of a weak one, which learns.

    Attributes:
      depth: operations an image.
      threshold: bins whose weight is below this share of the best one's are not drawn.
      decay: of the rates.
      cutout: whether training views end with a window of the largest size, 1 + ⌊0.499·side⌋
        pixels: 16 at 32 pixels, 48 at 96.
    """

    depth: int = 2
    threshold: float = 0.8
    decay: float = 0.99
    cutout: bool = False

    @property
    def name(self) -> str:
        return "ctac" if self.cutout else "cta"

    @property
    def min_size(self) -> int:
        """The smallest height and width, in pixels."""
        return MIN_SIZE

    @property
    def width(self) -> int:
        """Uniform numbers a training view needs."""
        return self.depth * _PER_STEP + (2 if self.cutout else 0)

    @property
    def probe_width(self) -> int:
        """Uniform numbers a probe view needs."""
        return self.depth * _PER_PROBE

    def __call__(self, images: tf.Tensor, uniforms: tf.Tensor, rates: tf.Tensor) -> View:
        """Training views.

        Args:
          images: uint8 [N, H, W, C], after the weak policy.
          uniforms: float32 [N, width] in [0, 1).
          rates: float32 [19, 2, 17].
        """
        view = self.apply(images, self.sample(rates, uniforms))
        if not self.cutout:
            return view
        _, height, width, _ = images.shape
        side = 1 + int(0.499 * min(height, width))
        return cut_out(view, *centre(uniforms[:, -2:], height, width), side)

    def weights(self, rates: tf.Tensor) -> tf.Tensor:
        """float32 [19, 2, 17] in [0, 1]: p = rate + (1 − decay), over its maximum, 0 below th."""
        weights = (rates + (1.0 - self.decay)) * tf.constant(_USED, tf.float32)
        best = tf.reduce_max(weights, -1, keepdims=True)
        weights = tf.math.divide_no_nan(weights, best)
        return tf.where(weights < self.threshold, 0.0, weights)

    def sample(self, rates: tf.Tensor, uniforms: tf.Tensor) -> Chain:
        """Draws chains for training: bins by weight, values evenly within a bin.

        Args:
          rates: float32 [19, 2, 17].
          uniforms: float32 [N, width] in [0, 1).
        """
        numbers = tf.reshape(uniforms[:, : self.depth * _PER_STEP], [-1, self.depth, _PER_STEP])
        op = _operation(numbers[..., 0])
        # In double precision a uniform number times the sum stays below the sum.
        upto = tf.cumsum(tf.cast(self.weights(rates), tf.float64), -1)
        upto = tf.gather(upto, op)
        drawn = tf.cast(numbers[..., 1:4:2], tf.float64)[..., None] * upto[..., -1:]
        bins = tf.reduce_sum(tf.cast(upto <= drawn, tf.int32), -1)
        counts = tf.gather(_COUNTS, op)
        bins = tf.where(counts > 0, bins, NONE)
        within = tf.cast(numbers[..., 2:5:2], tf.float64)
        value = (tf.cast(bins, tf.float64) + within) / tf.cast(tf.maximum(counts, 1), tf.float64)
        value = tf.where(counts > 0, tf.cast(value, tf.float32), 0.0)
        return Chain(op, value, bins, numbers[..., 5:])

    def probe(self, uniforms: tf.Tensor) -> Chain:
        """Draws chains that try all bins alike.

        Args:
          uniforms: float32 [N, probe_width] in [0, 1).
        """
        numbers = tf.reshape(uniforms, [-1, self.depth, _PER_PROBE])
        op = _operation(numbers[..., 0])
        value = numbers[..., 1:3]
        counts = tf.gather(_COUNTS, op)
        places = tf.cast(value, tf.float64) * tf.cast(counts, tf.float64) * 0.999
        bins = tf.where(counts > 0, tf.cast(places, tf.int32), NONE)
        return Chain(op, tf.where(counts > 0, value, 0.0), bins, numbers[..., 3:])

    def apply(self, images: tf.Tensor, drawn: Chain) -> View:
        """uint8 [N, H, W, C] and chains → views; the forced cutout is not part of them."""
        _, height, width, _ = images.shape
        steps = self.steps(drawn, height, width)
        return chain.run(images, steps, [op for op, _ in OPERATIONS], shares=True)

    def steps(self, drawn: Chain, height: int, width: int) -> list[Step]:
        """The chains in the units of ``chain.Op``, for images of that size."""
        codes = np.array([op for op, _ in OPERATIONS], np.int32)
        plain = [_meaning(op, height, width) for op, _ in OPERATIONS]
        offset, slope, signed, rounding = (np.array(column) for column in zip(*plain, strict=True))
        steps = []
        for number in range(self.depth):
            op = drawn.op[:, number]
            value = tf.cast(drawn.value[:, number], tf.float64)
            # [0, 1], or [−1, 1] for what goes both ways.
            both_ways = tf.gather(signed, op)
            amount = (value[:, 0] * (1.0 + both_ways) - both_ways) * tf.gather(slope, op)
            rounded = tf.gather(rounding, op)
            amount = tf.where(rounded == _DOWN, tf.floor(amount), amount)
            amount = tf.where(rounded == _NEAREST, tf.round(amount), amount) + tf.gather(offset, op)
            place = tf.stack(centre(drawn.window[:, number], height, width), 1)
            method = tf.cast(value[:, 1] * 5.99, tf.int32)
            steps.append(Step(tf.gather(codes, op), amount, method, place))
        return steps

    def updated(self, rates: tf.Tensor, drawn: Chain, omega: tf.Tensor) -> tf.Tensor:
        """The rates after probes: rate ← decay·rate + (1 − decay)·ω for every bin that was drawn.

        Equals going through the images one after the other, in each through its operations, and in
        each of those through its parameters; a bin that is met several times changes several times.

        Args:
          rates: float32 [19, 2, 17].
          drawn: the chains of the probe views.
          omega: float32 [N] in [0, 1]: 1 − ½·Σ|p − one-hot(label)| of the model's prediction p on
            the probe view, which is p[label].
        """
        parameter = tf.range(PARAMETERS)
        cell = (drawn.op[..., None] * PARAMETERS + parameter) * BINS + drawn.bin
        # What does not exist goes to one place beyond the last.
        cell = tf.reshape(tf.where(drawn.bin == NONE, _CELLS, cell), [-1])
        hits = tf.math.bincount(cell, minlength=_CELLS + 1, maxlength=_CELLS + 1)
        # How many later hits there are of the same bin: each of them lets this one fade.
        order = tf.argsort(cell, stable=True)
        place = tf.math.invert_permutation(order)
        last = tf.gather(tf.cumsum(hits), cell) - 1
        fade = tf.pow(tf.constant(self.decay, tf.float64), tf.cast(last - place, tf.float64))
        each = tf.cast(tf.repeat(omega, self.depth * PARAMETERS), tf.float64)
        gained = tf.math.unsorted_segment_sum(each * (1.0 - self.decay) * fade, cell, _CELLS + 1)
        kept = tf.pow(tf.constant(self.decay, tf.float64), tf.cast(hits, tf.float64))
        flat = tf.cast(tf.reshape(rates, [-1]), tf.float64)
        return tf.reshape(tf.cast(flat * kept[:-1] + gained[:-1], tf.float32), tf.shape(rates))


def initial_rates() -> npt.NDArray[np.float32]:
    """float32 [19, 2, 17]: operation, parameter, bin. 1, and 0 for bins that do not exist."""
    return _USED.astype(np.float32)


def _operation(uniform: tf.Tensor) -> tf.Tensor:
    return tf.cast(uniform * float(len(OPERATIONS)), tf.int32)


def _meaning(op: Op, height: int, width: int) -> tuple[float, float, float, int]:
    """From the first value to ``Step.amount``: offset, slope, 1 if it goes both ways, rounding."""
    if op in (Op.BRIGHTNESS, Op.COLOR, Op.CONTRAST, Op.SHARPNESS):
        return 0.1, 1.9, 0.0, _AS_DRAWN
    special = {
        Op.CUTOUT: (1.0, 0.499 * min(height, width), 0.0, _DOWN),
        Op.POSTERIZE: (1.0, 7.999, 0.0, _DOWN),
        Op.RESCALE: (0.0, 0.25, 0.0, _AS_DRAWN),
        Op.ROTATE: (0.0, 45.0, 1.0, _NEAREST),
        Op.SHEAR_X: (0.0, 0.3, 1.0, _AS_DRAWN),
        Op.SHEAR_Y: (0.0, 0.3, 1.0, _AS_DRAWN),
        Op.SOLARIZE: (0.0, 255.999, 0.0, _DOWN),
        Op.TRANSLATE_X: (0.0, 0.3 * width, 1.0, _AS_DRAWN),
        Op.TRANSLATE_Y: (0.0, 0.3 * height, 1.0, _AS_DRAWN),
    }
    return special.get(op, (0.0, 1.0, 0.0, _AS_DRAWN))
