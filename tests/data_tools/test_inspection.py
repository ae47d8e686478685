"""Histograms, statistics and sheets of pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import squares
from PIL import Image

from data_tools.looking import sheets
from data_tools.looking.inputs import Inputs
from data_tools.looking.inspection import InspectOptions, describe, inspect_dataset, plan_inspection
from realmix_tf.data.examples import encode_example
from realmix_tf.data.names import DatasetName
from realmix_tf.data.record_writer import RecordWriter
from realmix_tf.errors import UsageError

ODD = ("猫" * 40, "a\nb\x1b[31m", "=cmd()", "x" * 500, "السلام", "e\u0301" * 60, " ", "../../etc")


def inputs(folder: Path, name: str) -> Inputs:
    return Inputs(name=DatasetName.parse(name), data_dir=folder)


def test_everything_is_counted(tmp_path) -> None:
    images, truth = squares.pictures(30, 1)
    with RecordWriter(
        tmp_path / "a-train.tfrecord",
        dataset="a",
        role="train",
        classes=squares.CLASSES,
        shape=(8, 8, 3),
        provenance={},
    ) as writer:
        for k, (image, label) in enumerate(zip(images, truth.tolist(), strict=True)):
            pseudo = label if k % 5 == 1 else None
            known = k % 5 > 1
            writer.write(
                encode_example(
                    squares.png(image), label if known else -1, labeled=known, pseudo=pseudo,
                    source=0 if k == 29 else None,
                )
            )  # fmt: skip
    (found,) = inspect_dataset(InspectOptions(inputs(tmp_path, "a-0"))).sets
    assert (found.records, found.labeled, found.pseudo_labeled, found.unlabeled) == (30, 18, 6, 6)
    assert found.copies == 1
    known = np.arange(30) % 5 > 1
    assert found.per_class == tuple(np.bincount(truth[known]).tolist())
    assert sum(found.pseudo_per_class) == 6
    values = images.reshape(-1, 3) / 255
    np.testing.assert_allclose(found.mean, values.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.std, values.std(0), atol=1e-6)
    assert (found.lowest, found.highest) == (images.min(), images.max())
    sizes = [len(squares.png(image)) for image in images]
    assert (found.png_least, found.png_most) == (min(sizes), max(sizes))
    assert found.bytes == (tmp_path / "a-train.tfrecord").stat().st_size
    assert "pseudo-labelled, by class" in describe([found])
    json.dumps(found.as_json())


def test_a_limit_spreads_over_the_file(tmp_path) -> None:
    images, truth = squares.pictures(30, 1)
    squares.write(tmp_path / "a.tfrecord", images, truth, "train")
    options = InspectOptions(Inputs((tmp_path / "a.tfrecord",)), limit=4)
    (found,) = inspect_dataset(options).sets
    assert (found.decoded, found.records) == (4, 30)
    expected = images[[0, 7, 15, 22]].reshape(-1, 3) / 255
    np.testing.assert_allclose(found.mean, expected.mean(0), atol=1e-6)
    assert plan_inspection(options).facts == {"images": {"a": 30}}


def test_the_sets_of_a_split_and_the_files_of_a_dataset(tmp_path) -> None:
    squares.write_split(tmp_path)
    found = inspect_dataset(InspectOptions(inputs(tmp_path, "squares.1@12-10")))
    assert [s.name for s in found.sets] == ["labeled", "unlabeled", "validation", "test"]
    found = inspect_dataset(InspectOptions(inputs(tmp_path, "squares-0")))
    assert [s.name for s in found.sets] == ["squares-train", "squares-test"]
    assert not found.notes
    (tmp_path / "squares-test.tfrecord").unlink()
    found = inspect_dataset(InspectOptions(inputs(tmp_path, "squares.1@12-10")))
    assert "there is no test set squares-test.tfrecord" in found.notes
    assert list(found.notes) == found.as_json()["notes"]


def test_a_sheet_survives_odd_class_names(tmp_path) -> None:
    count = len(ODD)
    images, _ = squares.pictures(count * 3, 1)
    squares.write(
        tmp_path / "a.tfrecord", images, np.arange(count * 3) % count, "train", classes=ODD
    )
    grid = tmp_path / "grid.png"
    options = InspectOptions(Inputs((tmp_path / "a.tfrecord",)), grid=grid, per_class=8)
    (found,) = inspect_dataset(options).sets
    text = describe([found])
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 400
    with Image.open(grid) as image:
        sheet = np.asarray(image.convert("RGB"))
    assert sheet.shape[1] == 190 + 3 * 70 + 6 + 6
    # Text ends before the pictures begin: the gap between is empty in every row.
    assert (sheet[:, 190:196] == 255).all()
    first = sheet[6 + 18 + 6 :, 196:260][:64]
    np.testing.assert_array_equal(first[4::8, 4::8], images[0])
    with pytest.raises(UsageError, match="--overwrite"):
        inspect_dataset(options)
    before = grid.read_bytes()
    inspect_dataset(InspectOptions(options.inputs, grid=grid, per_class=8, overwrite=True))
    assert grid.read_bytes() == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"limit": 0}, "--limit"),
        ({"per_class": 0}, "--per_class"),
        ({"per_class": 1000}, "--per_class"),
        ({"grid": Path("a.txt")}, r"a\.txt\.png"),
    ],
)
def test_impossible_wishes(tmp_path, more, message) -> None:
    squares.write_split(tmp_path)
    options = InspectOptions(inputs(tmp_path, "squares-0"), **more)
    for call in (inspect_dataset, plan_inspection):
        with pytest.raises(UsageError, match=message):
            call(options)


def test_text_is_shortened_to_its_room() -> None:
    font = sheets._font(13)
    for text in (*ODD, "", "w" * 10_000_000):
        shown = sheets.fitted(text, 100, font)
        assert font.getlength(shown) <= 100
        assert "\n" not in shown
    assert sheets.fitted("short", 100, font) == "short"
