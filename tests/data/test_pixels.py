"""Hashes of decoded pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import squares

from realmix_tf.data import pixels
from realmix_tf.data.examples import encode_example
from realmix_tf.data.images import encode_png
from realmix_tf.data.pixels import RecordHashes, decoded_blocks, pixel_hashes
from realmix_tf.data.record_writer import RecordWriter
from realmix_tf.data.records import RecordReader
from realmix_tf.errors import DataError


def test_hashes_depend_on_pixels_and_shape_alone() -> None:
    images, _ = squares.pictures(50, 1)
    hashes = pixel_hashes(images)
    assert hashes.dtype == np.uint64
    assert len(set(hashes.tolist())) == 50
    np.testing.assert_array_equal(pixel_hashes(np.asfortranarray(images[::-1])), hashes[::-1])
    changed = images.copy()
    changed[:, 7, 7, 2] ^= 1
    assert not np.isin(pixel_hashes(changed), hashes).any()
    reshaped = images.reshape(50, 4, 16, 3)
    assert not np.isin(pixel_hashes(reshaped), hashes).any()
    assert pixel_hashes(images[:0]).shape == (0,)


def test_how_a_png_was_compressed_does_not_matter(tmp_path: Path) -> None:
    images, labels = squares.pictures(9, 1)
    with RecordWriter(
        tmp_path / "a.tfrecord",
        dataset="a",
        role="train",
        classes=squares.CLASSES,
        shape=(8, 8, 3),
        provenance={},
    ) as writer:
        for image, label in zip(images, labels, strict=True):
            writer.write(encode_example(squares.png(image), int(label)))  # Pillow's
            writer.write(encode_example(encode_png(image), int(label)))  # ours
    with RecordReader(tmp_path / "a.tfrecord") as reader:
        assert bytes(reader.image(0)) != bytes(reader.image(1))
        hashes = RecordHashes(reader)(np.arange(18))
    np.testing.assert_array_equal(hashes[0::2], hashes[1::2])
    np.testing.assert_array_equal(hashes[0::2], pixel_hashes(images))


def test_blocks_keep_the_order_asked_for(tmp_path: Path, monkeypatch) -> None:
    images, labels = squares.pictures(40, 1)
    squares.write(tmp_path / "a.tfrecord", images, labels, "train")
    monkeypatch.setattr(pixels, "BLOCK_BYTES", 3 * 8 * 8 * 3)
    ids = np.random.default_rng(0).permutation(40)
    with RecordReader(tmp_path / "a.tfrecord") as reader:
        blocks = list(decoded_blocks(reader, ids))
        assert [len(block) for block, _ in blocks] == [3] * 13 + [1]
        np.testing.assert_array_equal(np.concatenate([block for block, _ in blocks]), ids)
        np.testing.assert_array_equal(np.concatenate([i for _, i in blocks]), images[ids])
        hashes = RecordHashes(reader)
        np.testing.assert_array_equal(hashes(ids[:7]), pixel_hashes(images[ids[:7]]))
        np.testing.assert_array_equal(hashes(ids), pixel_hashes(images[ids]))
        assert list(decoded_blocks(reader, ids[:0])) == []


def test_a_record_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    images, labels = squares.pictures(6, 1)
    path = tmp_path / "a.tfrecord"
    with RecordWriter(
        path, dataset="a", role="train", classes=squares.CLASSES, shape=(8, 8, 3), provenance={}
    ) as writer:
        for k, (image, label) in enumerate(zip(images, labels, strict=True)):
            png = squares.png(image)
            writer.write(encode_example(png[:60] if k == 4 else png, int(label)))
    with RecordReader(path) as reader, pytest.raises(DataError, match=r"a\.tfrecord, record 4"):
        RecordHashes(reader)(np.arange(6))
