"""The files of a split that do not belong together are refused, whatever mixed them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from data_tools.records.copies import CopyOptions, make_copies
from data_tools.records.splits import SplitOptions, create_split
from realmix_tf.data.division import Division, Files, divide
from realmix_tf.data.examples import encode_example
from realmix_tf.data.images import encode_pngs
from realmix_tf.data.manifest import manifest_path, provenance
from realmix_tf.data.names import DatasetName
from realmix_tf.data.record_writer import RecordWriter
from realmix_tf.data.records import RecordReader
from realmix_tf.errors import DataError

NAME = DatasetName.parse("a_aug2.1@4-2")


def write_dataset(folder: Path, seed: int, side: int = 8) -> None:
    random = np.random.default_rng(seed)
    for part, count in (("train", 20), ("test", 6)):
        pngs = encode_pngs(random.integers(0, 256, (count, side, side, 3), np.uint8))
        with RecordWriter(
            folder / f"a-{part}.tfrecord",
            dataset="a",
            role=part,
            classes=("x", "y"),
            shape=(side, side, 3),
            provenance=provenance("test"),
            overwrite=True,
        ) as writer:
            for i, png in enumerate(pngs):
                writer.write(encode_example(png, i % 2), i % 2)


def split(folder: Path, **more) -> None:
    inputs = (folder / "a-train.tfrecord",)
    options = {"labels": 4, "seed": 1, "overwrite": True, **more}
    create_split(SplitOptions(folder / "SSL" / "a", inputs, **options))


def copy(folder: Path) -> None:
    make_copies(CopyOptions(folder, NAME.without_copies(), 2, "none", overwrite=True))


def division(folder: Path) -> Division:
    names = (
        NAME.label_file(folder),
        NAME.without_copies().unlabel_file(folder),
        NAME.unlabel_file(folder),
        NAME.test_file(folder),
    )
    readers = [RecordReader(path) for path in names]
    return divide(Files(NAME, *readers, NAME.map_file(folder)))


@pytest.fixture
def made(tmp_path) -> Path:
    write_dataset(tmp_path, 0)
    split(tmp_path)
    copy(tmp_path)
    return tmp_path


def test_files_of_one_draw_belong_together(made):
    whole = division(made)
    assert whole.notes == []
    assert (len(whole.labeled), len(whole.valid), len(whole.unlabeled)) == (4, 2, 28)


def test_copies_of_an_earlier_split_are_refused(made):
    write_dataset(made, 1)
    split(made)
    with pytest.raises(DataError, match=r"made from another a\.1@4-unlabel.*make_aug_copy"):
        division(made)
    copy(made)
    assert division(made).notes == []


@pytest.mark.parametrize("kept", ["label", "unlabel"])
def test_a_split_of_two_draws_is_refused(made, tmp_path_factory, kept):
    aside = tmp_path_factory.mktemp("aside")
    for path in (made / "SSL").glob(f"a.1@4-{kept}.*"):
        shutil.copy(path, aside)
    split(made, labels=None, class_counts=(("x", 3), ("y", 1)))
    copy(made)
    for path in aside.iterdir():
        shutil.copy(path, made / "SSL")
    with pytest.raises(DataError, match="another draw"):
        division(made)


def test_a_split_without_its_map_is_incomplete(made):
    NAME.map_file(made).unlink()
    with pytest.raises(DataError, match="its map is missing"):
        division(made)


def test_a_dataset_built_again_is_said(made):
    write_dataset(made, 1)
    assert division(made).notes == ["a-train.tfrecord is not the one that this split was made from"]


def test_another_size_cannot_be_compared(made):
    write_dataset(made, 0, side=6)
    with pytest.raises(DataError, match="are 8×8×3, these are 6×6×3"):
        division(made)


def test_files_without_manifests_say_nothing(made):
    for path in (made / "SSL").glob("*.tfrecord"):
        manifest_path(path).unlink()
    assert len(division(made).labeled) == 4
