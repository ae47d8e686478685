from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from data_tools.looking.checking import verify, verify_file
from data_tools.records import copies as copying
from data_tools.records.copies import CopyOptions, make_copies
from data_tools.records.filters import FilterOptions, filter_dataset
from data_tools.records.splits import SplitOptions, create_split
from data_tools.sources import digits
from realmix_tf.data.images import decode_png
from realmix_tf.data.manifest import manifest_path, read_manifest
from realmix_tf.data.names import DatasetName
from realmix_tf.data.records import RecordReader
from realmix_tf.errors import DataError, UsageError


def files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_digits_are_built_once_and_repaired(tmp_path) -> None:
    first = digits.build(tmp_path)
    assert not first.already_there
    with RecordReader(tmp_path / "digits-test.tfrecord") as reader:
        counts = np.bincount(reader.labels)
        assert counts.sum() == 500
        assert counts.min() >= 47
        assert decode_png(reader.image(0)).shape == (8, 8, 1)
    before = {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path)}
    assert digits.build(tmp_path).already_there
    damaged = bytearray(before["digits-train.tfrecord"])
    damaged[5000] ^= 1
    (tmp_path / "digits-train.tfrecord").write_bytes(damaged)
    again = digits.build(tmp_path)
    assert "built again, because digits-train.tfrecord" in again.facts["state"]
    assert {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path)} == before


@pytest.fixture
def split(tmp_path) -> Path:
    digits.build(tmp_path)
    create_split(
        SplitOptions(tmp_path / "SSL" / "digits", (tmp_path / "digits-train.tfrecord",), 20, 1)
    )
    return tmp_path


def copy_options(folder: Path, **more) -> CopyOptions:
    return CopyOptions(
        **{
            "data_dir": folder,
            "name": DatasetName.parse_split("digits.1@20"),
            "copies": 3,
            "augment": "digits",
            **more,
        }
    )


def test_copies_are_augmented_shuffled_and_traceable(split) -> None:
    pytest.importorskip("tensorflow")
    result = make_copies(copy_options(split))
    ids = json.loads((split / "SSL" / "digits.1@20-map.json").read_text())["unlabel"]
    with (
        RecordReader(result.file) as reader,
        RecordReader(split / "digits-train.tfrecord") as whole,
    ):
        reader.verify()
        assert len(reader) == 3 * 1277
        assert sorted(reader.sources.tolist()) == sorted(ids * 3)
        assert (reader.sources[:-1] == reader.sources[1:]).mean() < 0.01
        np.testing.assert_array_equal(reader.labels, whole.labels[reader.sources])
        moved = 0
        for i in range(0, len(reader), 97):
            copy = decode_png(reader.image(i))[1:-1, 1:-1]
            original = decode_png(whole.image(int(reader.sources[i])))
            shifts = [original[y : y + 6, x : x + 6] for y in range(3) for x in range(3)]
            assert any((copy == shifted).all() for shifted in shifts)
            moved += not (copy == original[1:-1, 1:-1]).all()
        assert moved > 10
    manifest = read_manifest(result.file)
    assert manifest is not None
    assert manifest.provenance["augment"] == "digits"
    assert manifest.provenance["parents"][0]["file"] == "digits.1@20-unlabel.tfrecord"


def test_copies_refuse_a_map_of_another_split(split) -> None:
    pytest.importorskip("tensorflow")
    path = split / "SSL" / "digits.1@20-map.json"
    path.write_text(json.dumps({"label": [], "unlabel": [1, 2]}))
    with pytest.raises(DataError, match=r"does not list 1277 .*digits\.1@20-map"):
        make_copies(copy_options(split))
    assert not list((split / "SSL").glob("*aug*"))
    path.unlink()  # then a source is the place in the file
    with RecordReader(make_copies(copy_options(split, copies=1)).file) as reader:
        assert sorted(reader.sources.tolist()) == list(range(1277))


def test_copies_depend_on_nothing_but_their_options(split, monkeypatch) -> None:
    pytest.importorskip("tensorflow")
    first = make_copies(copy_options(split)).file.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        make_copies(copy_options(split))
    monkeypatch.setattr(copying, "BLOCK_BYTES", 64 * 100)
    monkeypatch.setattr(copying, "HELD_BYTES", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert make_copies(copy_options(split, overwrite=True)).file.read_bytes() == first
    assert make_copies(copy_options(split, overwrite=True, seed=2)).file.read_bytes() != first


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"copies": 0}, UsageError),
        ({"augment": "cifar"}, UsageError),
        ({"augment": "stl10"}, UsageError),
        ({"unlabel_size": 1000}, DataError),
        ({"name": DatasetName.parse_split("digits.1@21")}, DataError),
        ({"name": DatasetName.parse_split("digits_aug2.1@20")}, UsageError),
    ],
)
def test_copies_that_make_no_sense_are_refused(split, change, error) -> None:
    with pytest.raises(error):
        make_copies(copy_options(split, **change))
    assert not list((split / "SSL").glob("*aug*"))


def filtered(folder: Path, **more):
    return filter_dataset(
        FilterOptions(
            **{
                "source": folder / "digits-test.tfrecord",
                "output": folder / "digits6-test.tfrecord",
                "classes": ("7", "2", "4"),
                **more,
            }
        )
    )


def test_filters_number_what_they_keep(split) -> None:
    result = filtered(split)
    assert result.class_map == {2: 0, 4: 1, 7: 2}
    manifest = read_manifest(result.file)
    assert manifest is not None
    assert manifest.provenance["class_map"] == {"2": 0, "4": 1, "7": 2}
    assert manifest.classes == ("2", "4", "7")
    assert manifest.dataset == "digits6"
    with RecordReader(split / "digits-test.tfrecord") as whole, RecordReader(result.file) as part:
        part.verify()
        kept = np.flatnonzero(np.isin(whole.labels, [2, 4, 7]))
        np.testing.assert_array_equal(np.array([2, 4, 7])[part.labels], whole.labels[kept])
        assert part.image(5) == whole.image(int(kept[5]))
        assert result.dropped == len(whole) - len(kept)


def test_filters_can_keep_ids_and_drop_labels(split) -> None:
    result = filtered(split, keep_ids=True, output=split / "a-test.tfrecord")
    with RecordReader(result.file) as reader:
        assert set(reader.labels.tolist()) == {2, 4, 7}
        assert len(reader.classes) == 10
    result = filtered(split, unlabeled=True, output=split / "b-test.tfrecord")
    with RecordReader(result.file) as reader:
        reader.verify()
        assert not reader.labeled.any()
    with pytest.raises(DataError, match="no record"):
        filtered(split, source=result.file, classes=("1",), output=split / "c-test.tfrecord")


@pytest.mark.parametrize(
    "change",
    [{"classes": ("10",)}, {"classes": ("cat",)}, {"classes": ()}, {"output": Path("x.txt")}],
)
def test_filters_that_make_no_sense_are_refused(split, change) -> None:
    with pytest.raises(UsageError):
        filtered(split, **change)
    with pytest.raises(UsageError, match="replace the source"):
        filtered(split, output=split / "digits-test.tfrecord", overwrite=True)


def test_damage_is_found_by_verify(split) -> None:
    assert all(status.ok for status in verify([split]))
    path = split / "digits-test.tfrecord"
    content = bytearray(path.read_bytes())
    content[-300] ^= 8
    path.write_bytes(content)
    assert "record 49" in verify_file(path).problem
    path.unlink()
    assert not next(s for s in verify([split]) if s.file.endswith("digits-test.tfrecord")).ok
    manifest_path(path).unlink()
    with pytest.raises(DataError, match="no such"):
        verify([path])
