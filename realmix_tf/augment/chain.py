"""Chains of operations: every image of a batch gets its own operation, many images at once.

A step names an operation and its parameter for every image. The rows are sorted into families that
are computed alike, each family is computed for its rows only, and the results are put back. An
image's result depends on that image and its own numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from realmix_tf.augment import pillow_color as color
from realmix_tf.augment import pillow_filters as filters
from realmix_tf.augment import pillow_geometry as geometry
from realmix_tf.augment.views import View, per_channel, window


class Op(IntEnum):
    """The operations, and what ``Step.amount`` means for each.

    Those marked "share" are blended with the unchanged image: 1 is the whole effect, 0 none.
    """

    IDENTITY = 0  # nothing
    AUTOCONTRAST = 1  # share
    EQUALIZE = 2  # share
    INVERT = 3  # share
    POSTERIZE = 4  # bits, 0 to 8
    SOLARIZE = 5  # threshold, 0 to 256
    BRIGHTNESS = 6  # factor
    COLOR = 7  # factor
    CONTRAST = 8  # factor
    SHARPNESS = 9  # factor
    SMOOTH = 10  # share
    BLUR = 11  # share
    ROTATE = 12  # degrees, counter-clockwise
    SHEAR_X = 13  # pixels to the side for each pixel downwards
    SHEAR_Y = 14  # pixels downwards for each pixel to the side
    TRANSLATE_X = 15  # pixels to the left
    TRANSLATE_Y = 16  # pixels upwards
    RESCALE = 17  # share of every side that is cropped away, 0 to 0.25; option: the filter
    CUTOUT = 18  # side of the window in pixels; row, column: its centre


class Step(NamedTuple):
    """One step of a chain for every image.

    Attributes:
      op: int32 [N], members of ``Op``.
      amount: float64 [N], see ``Op``.
      option: int32 [N], the filter of RESCALE; None where that does not occur.
      centre: int32 [N, 2], row and column of CUTOUT's window; None where that does not occur.
    """

    op: tf.Tensor
    amount: tf.Tensor
    option: tf.Tensor | None = None
    centre: tf.Tensor | None = None


_AFFINE = (Op.ROTATE, Op.SHEAR_X, Op.SHEAR_Y, Op.TRANSLATE_X, Op.TRANSLATE_Y)
_BITS = (Op.POSTERIZE, Op.SOLARIZE)
_SHARED = (Op.AUTOCONTRAST, Op.EQUALIZE, Op.INVERT, Op.SMOOTH, Op.BLUR)

Pair = tuple[tf.Tensor, tf.Tensor]
# What is blended, from the first image (amount 0) to the second (amount 1).
_BLENDS: dict[Op, Callable[[tf.Tensor], Pair]] = {
    Op.AUTOCONTRAST: lambda images: (images, color.autocontrast(images)),
    Op.EQUALIZE: lambda images: (images, color.equalize(images)),
    Op.INVERT: lambda images: (images, color.invert(images)),
    Op.SMOOTH: lambda images: (images, filters.smooth(images)),
    Op.BLUR: lambda images: (images, filters.blur(images)),
    Op.BRIGHTNESS: lambda images: (tf.zeros_like(images), images),
    Op.COLOR: lambda images: (color.grey(images), images),
    Op.CONTRAST: lambda images: (color.flat_grey(images), images),
    Op.SHARPNESS: lambda images: (filters.smooth(images), images),
}


def run(
    images: tf.Tensor, steps: Sequence[Step], ops: Collection[Op], shares: bool = False
) -> View:
    """Applies the steps in order.

    Args:
      images: uint8 [N, H, W, C] with C = 1 or 3; H, W and C are known.
      steps: at least one.
      ops: every operation that can occur; what cannot is left out of the graph.
      shares: whether operations marked "share" occur with less than the whole effect. Otherwise
        their amount is not looked at.
    """
    view = View(images, None)
    families = _families(frozenset(ops), images.shape[-1])
    for step in steps:
        view = _apply(view, step, families, shares)
    pixels, hidden = view
    if hidden is not None:
        hidden = tf.ensure_shape(hidden, images.shape[:3])
    return View(tf.ensure_shape(pixels, images.shape), hidden)


def _families(ops: frozenset[Op], channels: int) -> tuple[tuple[Op, ...], ...]:
    """The groups of operations that are computed together; what does nothing is in none."""
    groups: list[tuple[Op, ...]] = [_AFFINE, _BITS, (Op.RESCALE,), (Op.CUTOUT,)]
    groups += [(op,) for op in _BLENDS if op is not Op.COLOR or channels == 3]
    kept = (tuple(op for op in group if op in ops) for group in groups)
    return tuple(group for group in kept if group)


class _Rows(NamedTuple):
    """The rows of one family."""

    index: tf.Tensor  # int32 [M], their places in the batch
    images: tf.Tensor  # uint8 [M, H, W, C]
    amount: tf.Tensor  # float64 [M]


def _apply(view: View, step: Step, families: tuple[tuple[Op, ...], ...], shares: bool) -> View:
    images, hidden = view
    everything = tf.range(tf.shape(images)[0])
    table = np.zeros(len(Op), np.int32)
    for number, family in enumerate(families, 1):
        table[list(family)] = number
    family_of = tf.gather(table, step.op)
    parts = zip(
        *(
            tf.dynamic_partition(values, family_of, len(families) + 1)
            for values in (everything, images, step.amount)
        ),
        strict=True,
    )
    untouched, *members = (_Rows(*part) for part in parts)
    places, pixels = [untouched.index], [untouched.images]
    moved, now_hidden = [everything], [hidden]
    blends: list[tuple[_Rows, Pair]] = []
    for family, rows in zip(families, members, strict=True):
        if family[0] in _BLENDS:
            pair = _BLENDS[family[0]](rows.images)
            if family[0] not in _SHARED or shares:
                blends.append((rows, pair))
                continue
            result = pair[1]
        elif family[0] in _BITS:
            result = _bits(rows, tf.gather(step.op, rows.index))
        else:
            result, covered = _geometry(family[0], rows, step, hidden)
            moved.append(rows.index)
            now_hidden.append(covered)
        places.append(rows.index)
        pixels.append(result)
    if blends:
        weight = tf.cast(tf.concat([rows.amount for rows, _ in blends], 0), tf.float32)
        first, second = (tf.concat([pair[i] for _, pair in blends], 0) for i in (0, 1))
        places += [tf.concat([rows.index for rows, _ in blends], 0)]
        pixels += [color.blend(first, second, weight)]
    if len(moved) > 1:
        if hidden is None:
            now_hidden[0] = tf.zeros(tf.shape(images)[:3], tf.bool)
        # Where a row occurs twice the later entry counts.
        hidden = tf.dynamic_stitch(moved, now_hidden)
    return View(tf.dynamic_stitch(places, pixels), hidden)


def _bits(rows: _Rows, op: tf.Tensor) -> tf.Tensor:
    amount = tf.cast(rows.amount, tf.int32)
    posterized = op == Op.POSTERIZE
    kept = color.posterize(rows.images, tf.where(posterized, amount, 8))
    return color.solarize(kept, tf.where(posterized, 256, amount))


def _geometry(op: Op, rows: _Rows, step: Step, hidden: tf.Tensor | None) -> geometry.Moved:
    before = None if hidden is None else tf.gather(hidden, rows.index)
    if op in _AFFINE:
        matrix = _matrices(rows, tf.gather(step.op, rows.index))
        return geometry.affine(rows.images, matrix, before)
    if op is Op.RESCALE:
        filters_of = tf.gather(step.option, rows.index)
        return geometry.rescale(rows.images, rows.amount, filters_of, before)
    _, height, width, channels = rows.images.shape
    centre = tf.gather(step.centre, rows.index)
    side = tf.cast(rows.amount, tf.int32)
    covered = window(centre[:, 0], centre[:, 1], side, height, width)
    seen = tf.cast(per_channel(1.0 - tf.cast(covered, tf.float32), channels), tf.uint8)
    return rows.images * seen, covered if before is None else covered | before


def _matrices(rows: _Rows, op: tf.Tensor) -> tf.Tensor:
    """float64 [M, 6] for ``geometry.affine``."""
    _, height, width, _ = rows.images.shape
    entry = np.zeros((len(Op), 6))
    for shifted, place in (
        (Op.SHEAR_X, 1),
        (Op.TRANSLATE_X, 2),
        (Op.SHEAR_Y, 3),
        (Op.TRANSLATE_Y, 5),
    ):
        entry[shifted, place] = 1.0
    turned = op == Op.ROTATE
    whole = op >= Op.TRANSLATE_X
    amount = tf.where(whole, geometry.whole_shift(rows.amount), rows.amount)
    degrees = tf.where(turned, amount, 0.0)
    return geometry.rotation(degrees, height, width) + amount[:, None] * tf.gather(entry, op)
