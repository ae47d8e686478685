"""Views: hidden pixels become grey, whatever their value; windows lie where they should."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from pillow_reference import as_float, varied, window

from realmix_tf.augment import ops, views
from realmix_tf.augment.views import View


def _view(size=(8, 8), channels=3, count=64):
    hidden = np.random.default_rng(0).random((count, *size)) < 0.4
    pixels = varied(count, *size, channels)
    return pixels, hidden, View(tf.constant(pixels), tf.constant(hidden))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (31, 33), (9, 12)], ids=str)
def test_hidden_pixels_are_exactly_zero_and_all_others_as_without_hiding(size, channels):
    pixels, hidden, view = _view(size, channels)
    plain = np.stack([as_float(*one) for one in zip(pixels, hidden, strict=True)])
    alone = views.to_float(view).numpy()
    piped = tf.data.Dataset.from_tensor_slices(view).batch(7).map(views.to_float, 4)
    for result in (alone, np.concatenate(list(piped.as_numpy_iterator()))):
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result, plain)
        # Bit for bit: there is no −0 among them.
        np.testing.assert_array_equal(result.view(np.uint32), plain.view(np.uint32))
    seen = ~np.broadcast_to(hidden[..., None], pixels.shape)
    np.testing.assert_array_equal(alone[seen], ops.to_float(tf.constant(pixels)).numpy()[seen])


def test_every_byte_of_a_view_is_what_it_is_as_a_plain_image_bit_for_bit():
    levels = tf.reshape(tf.range(256), [1, 16, 16, 1])
    levels = tf.cast(levels, tf.uint8)
    plain = views.to_float(levels).numpy().view(np.uint32)
    seen = View(levels, tf.zeros([1, 16, 16], tf.bool))
    for view in (View(levels, None), seen):
        piped = tf.data.Dataset.from_tensors(levels).map(
            lambda pixels, view=view: views.to_float(View(pixels, view.hidden))
        )
        for result in (views.to_float(view), next(iter(piped))):
            np.testing.assert_array_equal(result.numpy().view(np.uint32), plain)


def test_a_view_without_hidden_pixels_and_plain_images_are_the_same():
    pixels = tf.constant(varied(8, 8, 8, 3))
    np.testing.assert_array_equal(
        views.to_float(View(pixels, None)).numpy(), views.to_float(pixels).numpy()
    )
    np.testing.assert_array_equal(views.filled(View(pixels, None)), pixels)
    np.testing.assert_array_equal(views.filled(pixels), pixels)


def test_in_pictures_hidden_pixels_are_grey():
    pixels, hidden, view = _view()
    picture = views.filled(view).numpy()
    assert picture.dtype == np.uint8
    assert (picture[hidden] == 128).all()
    np.testing.assert_array_equal(picture[~hidden], pixels[~hidden])


@pytest.mark.parametrize("side", [0, 1, 2, 5, 16])
def test_windows_reach_half_their_side_and_are_cut_off_at_all_borders(side):
    height, width = 20, 9
    row, column = np.divmod(np.arange(height * width), width)
    result = views.window(
        tf.constant(row, tf.int32), tf.constant(column, tf.int32), side, height, width
    ).numpy()
    for y, x, inside in zip(row, column, result, strict=True):
        np.testing.assert_array_equal(inside, window(height, width, y, x, side))


def test_every_image_may_have_its_own_side():
    sides = np.array([0, 2, 4, 9])
    centre = tf.fill([4], 8)
    result = views.window(centre, centre, tf.constant(sides, tf.int32), 16, 16).numpy()
    np.testing.assert_array_equal(result.sum((1, 2)), (2 * (sides // 2)) ** 2)


def test_cutting_out_adds_to_what_is_hidden():
    pixels, hidden, view = _view((16, 16), count=4)
    row, column = np.array([0, 5, 8, 15]), np.array([0, 5, 15, 1])
    cut = views.cut_out(view, tf.constant(row, tf.int32), tf.constant(column, tf.int32), 6)
    for i in range(4):
        inside = window(16, 16, row[i], column[i], 6)
        np.testing.assert_array_equal(cut.hidden[i].numpy(), hidden[i] | inside)
    np.testing.assert_array_equal(cut.pixels.numpy(), pixels)
    bare = views.cut_out(View(view.pixels, None), *(tf.zeros([4], tf.int32),) * 2, 6)
    assert bare.hidden.numpy().sum() == 4 * 9
