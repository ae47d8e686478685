from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools import copies as copying
from data_tools import decoding
from data_tools.checking import verify, verify_file
from data_tools.copies import CopyOptions, make_copies
from data_tools.filters import FilterOptions, filter_dataset
from data_tools.sources import digits
from data_tools.sources.folders import CustomOptions, build_custom, scan_labeled
from data_tools.splits import SplitOptions, create_split
from realmix_tf.data.images import ImageEntry, decode_png, decode_pngs
from realmix_tf.data.manifest import manifest_path, read_manifest
from realmix_tf.data.names import DatasetName
from realmix_tf.data.records import RecordReader
from realmix_tf.errors import DataError, ResourceError, UsageError


def picture(path: Path, color=(10, 20, 30), size=(9, 7)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


@pytest.fixture
def pets(tmp_path) -> CustomOptions:
    for i in range(6):
        picture(tmp_path / "train" / "red_fox" / f"{i}.png", (200, i, 0))
        picture(tmp_path / "train" / "arctic_fox" / "deep" / f"{i}.JPG", (0, i, 200))
        picture(tmp_path / "unlabeled" / "any" / f"{i}.bmp", (i, 9, 9))
    for i in range(2):
        picture(tmp_path / "test" / f"{i:03}_red_fox.png", (200, i, 0))
        picture(tmp_path / "test" / f"{i + 2:03}_arctic_fox.webp", (0, i, 200))
    return CustomOptions(
        name="my-pets",
        data_dir=tmp_path / "data",
        train_dir=tmp_path / "train",
        test_dir=tmp_path / "test",
        unlabel_dir=tmp_path / "unlabeled",
        size=(8, 10),
        workers=1,
    )


def change(options: CustomOptions, **more) -> CustomOptions:
    import dataclasses

    return dataclasses.replace(options, **more)


def files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_folders_become_records(pets, tmp_path) -> None:
    before = {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path)}
    (tmp_path / "unlabeled" / "bad.png").write_bytes(b"no image")
    result = build_custom(pets)
    assert result.facts["classes"] == {"arctic_fox": 6, "red_fox": 6}
    with RecordReader(pets.data_dir / "my-pets-train.tfrecord") as reader:
        reader.verify()
        assert reader.image_shape == (8, 10, 3)
        assert reader.labeled.tolist() == [True] * 12 + [False] * 6
        assert sorted(reader.labels[:2].tolist()) == [0, 1]
        images = decode_pngs([reader.image(i) for i in range(12)])
        np.testing.assert_array_equal(images[:, 0, 0, 0] > 100, reader.labels[:12] == 1)
        assert reader.record(12).name == "unlabeled/any/0.bmp"
    with RecordReader(pets.data_dir / "my-pets-test.tfrecord") as reader:
        assert reader.labels.tolist() == [1, 1, 0, 0]
    mapping = json.loads((pets.data_dir / "my-pets_class_mappings.json").read_text())
    assert mapping == {"0": "arctic_fox", "1": "red_fox"}
    report = json.loads((pets.data_dir / "my-pets-report.json").read_text())
    assert [item["reason"] for item in report["unreadable"]] == ["not an image of a known format"]
    assert result.facts["unlabeled_unreadable"] == 1
    for name, content in before.items():
        assert (tmp_path / name).read_bytes() == content
    with pytest.raises(UsageError, match="exists"):
        build_custom(pets)
    first = (pets.data_dir / "my-pets-train.tfrecord").read_bytes()
    build_custom(change(pets, overwrite=True))
    assert (pets.data_dir / "my-pets-train.tfrecord").read_bytes() == first


def test_unreadable_labelled_images_stop_the_build_and_are_all_listed(pets, tmp_path) -> None:
    good = (tmp_path / "train" / "red_fox" / "0.png").read_bytes()
    (tmp_path / "train" / "red_fox" / "0.png").write_bytes(good[:-30])
    (tmp_path / "train" / "red_fox" / "pipe").symlink_to("/nowhere")
    (tmp_path / "test" / "000_red_fox.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"3 labelled images.*0\.png"):
        build_custom(pets)
    report = json.loads((pets.data_dir / "my-pets-report.json").read_text())
    assert len(report["unreadable"]) == 3
    assert files_below(pets.data_dir) == ["my-pets-report.json"]


def test_a_failed_rebuild_leaves_the_old_set(pets, tmp_path) -> None:
    build_custom(pets)
    (tmp_path / "test" / "000_red_fox.png").write_bytes(b"")
    with pytest.raises(DataError, match="1 labelled images"):
        build_custom(change(pets, overwrite=True))
    assert [status.ok for status in verify([pets.data_dir])] == [True, True]


def test_a_missing_unlabelled_folder_is_fine(pets) -> None:
    build_custom(change(pets, unlabel_dir=None, channels=1))
    with RecordReader(pets.data_dir / "my-pets-train.tfrecord") as reader:
        assert len(reader) == 12
        assert decode_png(reader.image(0)).shape == (8, 10, 1)


def test_classes_are_compared(pets, tmp_path) -> None:
    picture(tmp_path / "train" / "wolf" / "1.png")
    with pytest.raises(DataError, match=r"lacks the class 'wolf'.*--allow_missing"):
        build_custom(pets)
    result = build_custom(change(pets, allow_missing=True))
    assert result.facts["notes"][0] == "the test set lacks 'wolf'"
    picture(tmp_path / "test" / "9_cow.png")
    with pytest.raises(DataError, match="'cow'"):
        build_custom(change(pets, overwrite=True, allow_missing=True))


def test_folders_without_images_are_errors(pets, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        scan_labeled(tmp_path / "empty")
    (tmp_path / "train" / "cow").mkdir()
    with pytest.raises(DataError, match="'cow'"):
        build_custom(pets)
    assert not pets.data_dir.exists()


def test_names_that_give_no_class_are_errors(tmp_path) -> None:
    picture(tmp_path / "a" / "1_cat.png")
    picture(tmp_path / "a" / "cat2.png")
    with pytest.raises(DataError, match=r"cat2\.png.*007_red_fox"):
        scan_labeled(tmp_path / "a")
    picture(tmp_path / "a" / "dog" / "x.png")
    with pytest.raises(DataError, match="beside the class folders"):
        scan_labeled(tmp_path / "a")


def test_class_names_are_kept_whole(tmp_path) -> None:
    for name in ("1_red_fox.png", "2_arctic_fox.png", "03_a-b c.d.png"):
        picture(tmp_path / name)
    assert scan_labeled(tmp_path).names == ("a-b c.d", "arctic_fox", "red_fox")


def test_the_output_may_not_lie_in_the_input(pets, tmp_path) -> None:
    with pytest.raises(UsageError, match="inside"):
        build_custom(change(pets, data_dir=tmp_path / "unlabeled" / "data"))


@pytest.mark.parametrize("part", ["train", "test", ""])
def test_the_input_folders_may_not_overlap(pets, tmp_path, part) -> None:
    with pytest.raises(UsageError, match="would count twice"):
        build_custom(change(pets, unlabel_dir=tmp_path / part, data_dir=tmp_path.parent / "d"))
    with pytest.raises(UsageError, match="would count twice"):
        build_custom(change(pets, test_dir=pets.train_dir))


def test_no_space_is_said_before_the_work(pets, monkeypatch) -> None:
    import shutil

    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(ResourceError, match="only 10 B is free"):
        build_custom(pets)
    assert files_below(pets.data_dir) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_said_before_the_work(pets) -> None:
    pets.data_dir.mkdir(mode=0o500)
    with pytest.raises(ResourceError, match="permission"):
        build_custom(pets)


def crash_on_some(task, image_format):
    if any(path.endswith("_crash.png") for path, _ in task):
        os._exit(139)
    return decoding._encode_task(task, image_format)


@pytest.mark.process
def test_a_crashing_decoder_costs_one_file(tmp_path, monkeypatch) -> None:
    entries = []
    for i in range(40):
        path = picture(tmp_path / (f"{i}_crash.png" if i == 20 else f"{i}.png"))
        entries.append(ImageEntry(str(path), path.name))
    image_format = decoding.ImageFormat(4, 4, 3, 10**6)
    original = decoding._encode_task
    monkeypatch.setattr(decoding, "_encode_task", crash_on_some)
    try:
        results = list(decoding.encode_files(entries, image_format, workers=2))
    finally:
        decoding._encode_task = original
    assert [i for i, item in enumerate(results) if item.problem] == [20]
    assert "crashed" in results[20].problem
    assert [item.entry for item in results] == entries


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
