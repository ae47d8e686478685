"""Chains of every operation, replayed with Pillow one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from pillow_reference import as_float, replayed, varied

from realmix_tf.augment import chain, views
from realmix_tf.augment.chain import Op, Step

RANGES = {
    Op.POSTERIZE: (1, 8),
    Op.SOLARIZE: (0, 256),
    Op.BRIGHTNESS: (0.1, 2),
    Op.COLOR: (0.1, 2),
    Op.CONTRAST: (0.1, 2),
    Op.SHARPNESS: (0.1, 2),
    Op.ROTATE: (-45, 45),
    Op.SHEAR_X: (-0.3, 0.3),
    Op.SHEAR_Y: (-0.3, 0.3),
    Op.TRANSLATE_X: (-6, 6),
    Op.TRANSLATE_Y: (-6, 6),
    Op.RESCALE: (0, 0.25),
    Op.CUTOUT: (1, 9),
}
COUNT, SIZE = 400, (15, 18)


def _drawn(depth, count=COUNT, ops=tuple(Op), shares=True, seed=0):
    """Random steps as arrays: op [depth, N], amount, option, centre [depth, N, 2]."""
    random = np.random.default_rng(seed)
    op = random.choice(np.array(ops), (depth, count))
    low, high = (np.array([RANGES.get(o, (0, 1))[i] for o in Op])[op] for i in (0, 1))
    amount = low + (high - low) * random.random(op.shape)
    whole = np.isin(op, (Op.POSTERIZE, Op.SOLARIZE, Op.CUTOUT))
    amount = np.where(whole, np.floor(amount), amount)
    if not shares:
        amount[np.isin(op, (Op.AUTOCONTRAST, Op.EQUALIZE, Op.INVERT, Op.SMOOTH, Op.BLUR))] = 1
    centre = (random.random((*op.shape, 2)) * SIZE).astype(np.int32)
    return op.astype(np.int32), amount, random.integers(0, 6, op.shape, np.int32), centre


def _run(images, drawn, ops=tuple(Op), shares=True):
    drawn = [tf.convert_to_tensor(part) for part in drawn]
    steps = [Step(*(part[number] for part in drawn)) for number in range(drawn[0].shape[0])]
    return chain.run(tf.convert_to_tensor(images), steps, ops, shares)


def _replay(images, drawn):
    pairs = [
        replayed(
            image,
            [
                (Op(op[i]), amount[i], option[i], tuple(centre[i]))
                for op, amount, option, centre in zip(*drawn, strict=True)
            ],
        )
        for i, image in enumerate(images)
    ]
    return [np.stack(part) for part in zip(*pairs, strict=True)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_chains_of_every_operation_are_pillows(depth, channels):
    images, drawn = varied(COUNT, *SIZE, channels), _drawn(depth)
    view = _run(images, drawn)
    pixels, hidden = _replay(images, drawn)
    np.testing.assert_array_equal(view.pixels.numpy(), pixels)
    np.testing.assert_array_equal(view.hidden.numpy(), hidden)
    plain = np.stack([as_float(*one) for one in zip(pixels, hidden, strict=True)])
    np.testing.assert_array_equal(views.to_float(view).numpy(), plain)


def test_without_shares_the_whole_effect_is_applied_whatever_the_amount():
    images, drawn = varied(COUNT, *SIZE, 3), _drawn(2, shares=False)
    op, amount, option, centre = drawn
    shared = np.isin(op, (Op.AUTOCONTRAST, Op.EQUALIZE, Op.INVERT, Op.SMOOTH, Op.BLUR))
    view = _run(images, (op, np.where(shared, 0.3, amount), option, centre), shares=False)
    np.testing.assert_array_equal(view.pixels.numpy(), _replay(images, drawn)[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_row_does_not_depend_on_its_batch_or_its_place_in_it(channels):
    images, drawn = varied(60, *SIZE, channels), _drawn(2, 60)
    together = views.filled(_run(images, drawn)).numpy()
    backwards = views.filled(_run(images[::-1], [part[:, ::-1] for part in drawn])).numpy()
    np.testing.assert_array_equal(backwards[::-1], together)
    single = tf.function(lambda image, *parts: views.filled(_run(image, parts)))
    for i in range(60):
        row = slice(i, i + 1)
        alone = single(tf.constant(images[row]), *(tf.constant(part[:, row]) for part in drawn))
        np.testing.assert_array_equal(alone[0].numpy(), together[i])


def test_the_same_in_parallel_pipelines_whose_last_batch_is_short():
    images, drawn = varied(90, *SIZE, 3), _drawn(2, 90)
    rows = tuple(np.moveaxis(part, 1, 0) for part in drawn)
    piped = tf.data.Dataset.from_tensor_slices((images, rows)).batch(35)

    def view(image, rows):
        steps = [Step(*(part[:, number] for part in rows)) for number in range(2)]
        return chain.run(image, steps, tuple(Op), True)

    piped = list(piped.map(view, num_parallel_calls=4).as_numpy_iterator())
    whole = _run(images, drawn)
    np.testing.assert_array_equal(np.concatenate([v[0] for v in piped]), whole.pixels.numpy())
    np.testing.assert_array_equal(np.concatenate([v[1] for v in piped]), whole.hidden.numpy())


def _only(op, amount, count, option=0, centre=(0, 0)):
    return (
        np.full((1, count), int(op), np.int32),
        np.full((1, count), float(amount)),
        np.full((1, count), option, np.int32),
        np.tile(np.array(centre, np.int32), (1, count, 1)),
    )


@pytest.mark.parametrize("after", [Op.AUTOCONTRAST, Op.EQUALIZE, Op.INVERT, Op.SOLARIZE, Op.BLUR])
@pytest.mark.parametrize(
    ("op", "amount"),
    [
        (Op.ROTATE, 30),
        (Op.SHEAR_X, 0.3),
        (Op.SHEAR_Y, -0.3),
        (Op.TRANSLATE_X, 5),
        (Op.TRANSLATE_Y, -5),
        (Op.CUTOUT, 8),
    ],
)
def test_what_was_uncovered_stays_grey_whatever_follows(op, amount, after):
    images = np.maximum(varied(16, *SIZE, 3), 1)
    first = _only(op, amount, 16, centre=(7, 9))
    both = [np.concatenate(pair) for pair in zip(first, _only(after, 1, 16), strict=True)]
    hidden = (_run(images, first).pixels.numpy() == 0).any(-1)
    view = _run(images, both)
    assert hidden.any((1, 2)).all()
    np.testing.assert_array_equal(view.hidden.numpy(), hidden)
    assert (views.to_float(view).numpy()[hidden] == 0).all()
    assert (views.filled(view).numpy()[hidden] == 128).all()


def test_uncovered_pixels_are_moved_by_later_geometry():
    images = varied(4, *SIZE, 3)
    both = [
        np.concatenate(pair)
        for pair in zip(_only(Op.TRANSLATE_X, 5, 4), _only(Op.TRANSLATE_X, -3, 4), strict=True)
    ]
    hidden = _run(images, both).hidden.numpy()
    # Five columns were uncovered on the right, two of them left the picture again, and three
    # were uncovered on the left.
    assert (hidden == np.isin(np.arange(18), [0, 1, 2, 16, 17])).all()


def test_identity_and_operations_that_cannot_occur_leave_everything_as_it_is():
    images = varied(16, *SIZE, 3)
    view = _run(images, _only(Op.IDENTITY, 0, 16))
    np.testing.assert_array_equal(view.pixels.numpy(), images)
    assert not view.hidden.numpy().any()
    bare = _run(images, _only(Op.IDENTITY, 0, 16), ops=(Op.IDENTITY, Op.INVERT))
    assert bare.hidden is None
