"""Folders of pictures as records: what is found, what is refused, what is said."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools.folders.renaming import RenameOptions, rename
from data_tools.looking.checking import verify
from data_tools.pictures.class_folders import scan_labeled
from data_tools.pictures.listing import IN_MEMORY, Listing, Spill
from data_tools.pictures.same_pictures import TEST, TRAIN, UNLABELED, same_pictures
from data_tools.records.ordering import class_mixed_order
from data_tools.sources.folders import CustomOptions, build_custom, plan_custom
from realmix_tf.data.images import ImageEntry, decode_png, decode_pngs, find_images
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


def report_of(options: CustomOptions) -> dict:
    return json.loads((options.data_dir / f"{options.name}-report.json").read_text())


def test_labelled_images_are_left_out_loudly_when_asked(pets, tmp_path) -> None:
    (tmp_path / "train" / "red_fox" / "0.png").write_bytes(b"<html>")
    (tmp_path / "train" / "red_fox" / "3.png").write_bytes(b"")
    (tmp_path / "test" / "000_red_fox.png").write_bytes(b"GIF89a")
    result = build_custom(change(pets, on_bad="skip"))
    assert result.facts["classes"] == {"arctic_fox": 6, "red_fox": 4}
    assert result.facts["labeled_unreadable"] == {"red_fox": 2}
    assert result.facts["test_unreadable"] == {"red_fox": 1}
    assert any("2 labelled train images could not be read" in n for n in result.facts["notes"])
    assert {item["action"] for item in report_of(pets)["unreadable"]} == {"left out"}
    with RecordReader(pets.data_dir / "my-pets-train.tfrecord") as reader:
        images = decode_pngs([reader.image(i) for i in range(10)])
        np.testing.assert_array_equal(images[:, 0, 0, 0] > 100, reader.labels[:10] == 1)
    for path in (tmp_path / "train" / "red_fox").iterdir():
        path.write_bytes(b"no")
    with pytest.raises(DataError, match="no train image of the class 'red_fox'"):
        build_custom(change(pets, on_bad="skip", overwrite=True))


def test_a_folder_of_other_things_is_given_up_early(pets, tmp_path) -> None:
    for i in range(400):
        (tmp_path / "unlabeled" / f"{i}.txt").write_text("words")
    with pytest.raises(DataError, match=r"100 files in a row.*--max_bad=100"):
        build_custom(pets)
    assert files_below(pets.data_dir) == ["my-pets-report.json"]
    result = build_custom(change(pets, max_bad=100))
    assert result.facts["unlabeled_unreadable"] == 400
    for i in range(400):
        picture(tmp_path / "unlabeled" / f"{i}a.bmp", (i % 256, 1, 1))
    with pytest.raises(DataError, match=r"files cannot be used \(unlabeled\).*now 10 percent"):
        build_custom(change(pets, overwrite=True))
    assert build_custom(change(pets, overwrite=True, max_bad=60)).facts["unlabeled"] == 406


def test_unlabelled_folders_without_pictures_are_errors(pets, tmp_path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no images in this folder, it is empty"):
        build_custom(change(pets, unlabel_dir=tmp_path / "none"))
    (tmp_path / "none" / "a.png").write_text("a")
    with pytest.raises(DataError, match="none of the 1 files is an image"):
        build_custom(change(pets, unlabel_dir=tmp_path / "none"))
    (tmp_path / "none" / "a.png").rename(tmp_path / "none" / ".a.png")
    with pytest.raises(DataError, match=r"only '\.a\.png'"):
        build_custom(change(pets, unlabel_dir=tmp_path / "none"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("Cat", "cat"), "'Cat' and 'cat' differ only in case"),
        (("cat", "cat "), "'cat' and 'cat ' differ only in case or spaces"),
        (("  ", "cat"), "nothing but spaces"),
        (("a\nb", "cat"), "control characters"),
        ((b"\xff", b"cat"), "not UTF-8"),
    ],
)
def test_class_names_that_would_cause_trouble(tmp_path, names, message) -> None:
    for name in names:
        picture(tmp_path / "in" / os.fsdecode(name) / "1.png")
    with pytest.raises(DataError, match=message):
        scan_labeled(tmp_path / "in")


def test_one_class_in_two_unicode_forms_is_one_class(tmp_path) -> None:
    for name in ("caf\u00e9", "cafe\u0301", "tea"):
        picture(tmp_path / name / "1.png")
    found = scan_labeled(tmp_path)
    assert found.names == ("caf\u00e9", "tea")
    assert found.labels.tolist() == [0, 0, 1]
    assert "two ways" in found.notes[0]


def test_a_class_of_another_case_in_the_test_folder(pets, tmp_path) -> None:
    picture(tmp_path / "test" / "9_Red_Fox.png")
    (tmp_path / "test" / "000_red_fox.png").unlink()
    (tmp_path / "test" / "001_red_fox.png").unlink()
    with pytest.raises(DataError, match=r"'Red_Fox'.*try: the name 'red_fox'"):
        build_custom(pets)


def test_pictures_that_occur_twice_are_said(pets, tmp_path) -> None:
    same = (tmp_path / "train" / "red_fox" / "1.png").read_bytes()
    for name in ("test/7_red_fox.png", "train/arctic_fox/x.png", "unlabeled/y.png"):
        (tmp_path / name).write_bytes(same)
    (tmp_path / "unlabeled" / "link.png").symlink_to(tmp_path / "test" / "000_red_fox.png")
    result = build_custom(pets)
    said = [note for note in result.facts["notes"] if note.startswith("warning")]
    assert len(said) == 3
    found = report_of(pets)["same_pictures"]
    # (0.png and 1.png of red_fox are in the test folder from the start.)
    assert {key: item["pictures"] for key, item in found.items()} == {
        "train_test": 3, "unlabeled_test": 3, "contradictions": 4,
    }  # fmt: skip
    example = found["contradictions"]["examples"][0]
    assert {"train/red_fox/1.png (red_fox)", "train/arctic_fox/x.png (arctic_fox)"} < set(example)
    notes = {item["note"] for item in report_of(pets)["notes"]}
    assert notes == {"a link to a picture in another input folder"}


def test_same_pictures_agree_with_a_plain_search() -> None:
    random = np.random.RandomState(0)
    for _ in range(20):
        hashes = random.randint(0, 30, 60).astype(np.uint64)
        parts = random.choice([TRAIN, TEST, UNLABELED], 60).astype(np.uint8)
        labels = np.where(parts == UNLABELED, -1, random.randint(0, 3, 60))
        found = same_pictures(hashes, parts, labels)
        train, test, other = (
            {h for h, p in zip(hashes.tolist(), parts, strict=True) if p == part}
            for part in (TRAIN, TEST, UNLABELED)
        )
        tests = hashes[parts == TEST].tolist()
        assert found.train_test.pictures == sum(h in train for h in tests)
        assert found.unlabeled_test.pictures == sum(h in other for h in tests)
        several = 0
        for value in train | test:
            mine = labels[(hashes == value) & (parts != UNLABELED)]
            several += len(mine) if len(set(mine.tolist())) > 1 else 0
        assert found.contradictions.pictures == several
        for group in found.contradictions.first(99):
            assert len(set(hashes[group].tolist())) == 1
    empty = np.zeros(0, np.int64)
    nothing = same_pictures(empty.astype(np.uint64), empty.astype(np.uint8), empty)
    assert nothing.train_test.pictures == 0


def test_listings_read_like_lists_of_entries(tmp_path) -> None:
    entries = [
        ImageEntry(f"/r/{i}/é\udcff.png", f"{i}/é\udcff.png", "broken" if i % 5 == 2 else "")
        for i in range(40)
    ]
    listing = Listing("/r", tmp_path / "new")
    for entry in entries:
        listing.add(entry)
    assert len(listing) == 40
    assert listing.entries([]) == []
    assert listing.entries(np.arange(3, 9)) == entries[3:9]
    assert listing.entries([30, 2, 2, 7]) == [entries[30], entries[2], entries[2], entries[7]]
    assert not (tmp_path / "new").exists()
    listing.close()


def test_much_is_kept_in_a_file_without_a_name(tmp_path) -> None:
    spill = Spill(tmp_path / "new")
    block = os.urandom(70_000)
    for _ in range(20):
        spill.append(block)
    assert spill.size > IN_MEMORY
    assert spill.read(70_000 * 7 + 5, 70_000 * 7 + 50) == block[5:50]
    spill.append(b"end")
    assert spill.read(1_400_000 - 1, 1_400_003) == block[-1:] + b"end"
    assert os.listdir(tmp_path / "new") == []
    spill.close()


def test_class_mixed_orders_agree_with_a_plain_sort() -> None:
    random = np.random.RandomState(3)
    for count, classes in ((1, 1), (30, 4), (500, 40)):
        ids = random.randint(0, classes, count)
        draw = np.random.RandomState(5)
        queues = [draw.permutation(np.flatnonzero(ids == c)) for c in range(ids.max() + 1)]
        keys = [((k + 0.5) / len(q), c, i) for c, q in enumerate(queues) for k, i in enumerate(q)]
        assert class_mixed_order(ids, 5).tolist() == [i for _, _, i in sorted(keys)]
    assert class_mixed_order([], 0).tolist() == []


def test_a_plan_says_what_a_build_would_do_and_writes_nothing(pets, tmp_path) -> None:
    (tmp_path / "unlabeled" / "bad.png").write_bytes(b"no image")
    before = files_below(tmp_path)
    plan = plan_custom(pets)
    assert files_below(tmp_path) == before
    assert not pets.data_dir.exists()
    assert plan.facts["classes"] == {"arctic_fox": 6, "red_fox": 6}
    assert plan.facts["test_classes"] == {"arctic_fox": 2, "red_fox": 2}
    assert (plan.facts["labeled"], plan.facts["unlabeled"], plan.facts["test"]) == (12, 7, 4)
    reads = {use.path: use.bytes for use in plan.reads}
    for folder in (pets.train_dir, pets.test_dir, pets.unlabel_dir):
        sizes = sum(Path(entry.path).stat().st_size for entry in find_images(folder))
        assert reads[str(folder)] == sizes
    assert plan.seconds > 0
    assert plan.memory > 10 << 20
    assert any("1 of 23 sampled files" in note for note in plan.notes)
    build_custom(pets)
    for use in plan.writes[:2]:
        assert 0.5 < use.bytes / Path(use.path).stat().st_size < 2
    with pytest.raises(UsageError, match="exists"):
        plan_custom(pets)
    with pytest.raises(DataError, match="no such folder"):
        plan_custom(change(pets, overwrite=True, test_dir=tmp_path / "none"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"on_bad": "ignore"}, {"max_bad": 101}, {"file_timeout": 0}, {"workers": 0},
        {"min_side": 0}, {"channels": 2}, {"max_pixels": 0},
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(pets, wrong) -> None:
    for function in (build_custom, plan_custom):
        with pytest.raises(UsageError):
            function(change(pets, **wrong))
    assert not pets.data_dir.exists()


def test_small_and_thin_pictures(pets, tmp_path) -> None:
    picture(tmp_path / "unlabeled" / "thin.png", size=(100, 2))
    picture(tmp_path / "unlabeled" / "dot.png", size=(1, 1))
    build_custom(pets)
    assert {item["note"] for item in report_of(pets)["notes"]} == {
        "one side is more than 20 times the other", "a side is shorter than 4 pixels",
    }  # fmt: skip
    result = build_custom(change(pets, overwrite=True, min_side=3))
    assert result.facts["unlabeled_unreadable"] == 2
    assert "shorter than 3 pixels" in report_of(pets)["unreadable"][0]["reason"]


def unbalanced(options: CustomOptions) -> None:
    for i in range(6, 10):
        picture(options.train_dir / "red_fox" / f"{i}.png", (200, i, 0), size=(8, 8))


def test_training_sets_are_balanced_with_copies_that_name_their_original(pets) -> None:
    unbalanced(pets)
    result = build_custom(change(pets, train_balance=15))
    assert result.facts["classes"] == {"arctic_fox": 8, "red_fox": 8}
    assert result.facts["copies"] == {"train": 2}
    assert any("14 of 16 images and 2 augmented copies" in n for n in result.facts["notes"])
    with RecordReader(pets.data_dir / "my-pets-train.tfrecord") as reader:
        reader.verify()
        assert reader.labeled.tolist() == [True] * 16 + [False] * 6
        sources = reader.sources
        assert sources[:14].tolist() == [-1] * 14
        assert sources[16:].tolist() == [-1] * 6
        for i in (14, 15):
            original, copy = reader.record(int(sources[i])), reader.record(i)
            assert (copy.name, copy.label) == (original.name, original.label)
            assert copy.label == 0
    first = (pets.data_dir / "my-pets-train.tfrecord").read_bytes()
    again = change(pets, train_balance=15, overwrite=True, workers=2)
    build_custom(again)
    assert (pets.data_dir / "my-pets-train.tfrecord").read_bytes() == first
    build_custom(change(again, seed=1))
    assert (pets.data_dir / "my-pets-train.tfrecord").read_bytes() != first


def test_copies_of_pictures_that_cannot_be_read_are_not_made(pets, tmp_path) -> None:
    (tmp_path / "train" / "arctic_fox" / "deep" / "2.JPG").write_bytes(b"")
    result = build_custom(change(pets, train_balance=24, on_bad="skip"))
    assert result.facts["classes"] == {"arctic_fox": 10, "red_fox": 12}
    with RecordReader(pets.data_dir / "my-pets-train.tfrecord") as reader:
        copies = np.flatnonzero(reader.sources >= 0)
        assert copies.tolist() == list(range(11, 22))
        assert sorted(reader.sources[copies].tolist()) == list(range(11))
        for i in copies.tolist():
            assert reader.record(i).name == reader.record(int(reader.sources[i])).name
    assert len(report_of(pets)["unreadable"]) == 1


def predictions(path: Path, classes: list[str]) -> Path:
    path.write_text(json.dumps({f"any/{i}.bmp": name for i, name in enumerate(classes)}))
    return path


def test_unlabelled_sets_get_pseudo_labels_and_balance(pets, tmp_path) -> None:
    names = ["red_fox"] * 4 + ["arctic_fox"] * 2
    options = change(pets, pseudo_label=predictions(tmp_path / "p.json", names))
    result = build_custom(options)
    assert result.facts["pseudo_labels"] == {"arctic_fox": 2, "red_fox": 4}
    with RecordReader(pets.data_dir / "my-pets-train.tfrecord") as reader:
        reader.verify()
        assert reader.labels[12:].tolist() == [-1] * 6
        assert reader.pseudo_labels[12:].tolist() == [1, 1, 1, 1, 0, 0]
    result = build_custom(change(options, unlabel_balance=6, overwrite=True))
    assert (result.facts["unlabeled"], result.facts["copies"]) == (6, {"unlabeled": 1})
    with RecordReader(pets.data_dir / "my-pets-train.tfrecord") as reader:
        reader.verify()
        assert sorted(reader.pseudo_labels[12:].tolist()) == [0, 0, 0, 1, 1, 1]
        copy = reader.record(17)
        assert copy.source is not None
        assert reader.record(copy.source).name == copy.name
        assert copy.source >= 12


def test_unlabelled_sets_are_balanced_by_predictions_or_folders(pets, tmp_path) -> None:
    file = predictions(tmp_path / "p.json", ["x", "y", "y", "y", "y", "y"])
    options = change(pets, unlabel_balance=4, prediction_balance=file)
    assert build_custom(options).facts["unlabeled"] == 4
    with RecordReader(pets.data_dir / "my-pets-train.tfrecord") as reader:
        assert reader.pseudo_labels.max() == -1
    for i in range(2):
        picture(tmp_path / "unlabeled" / "more" / f"{i}.png", (i, i, i))
    result = build_custom(change(pets, unlabel_balance=8, overwrite=True))
    assert result.facts["copies"] == {"unlabeled": 2}
    predictions(tmp_path / "p.json", ["x"] * 5)
    with pytest.raises(DataError, match="have no prediction"):
        build_custom(change(options, overwrite=True))


def test_cutout_erases_in_the_parts_that_are_named_only(pets) -> None:
    def white(part: str, probability: float = 1.0) -> tuple[bool, bool, bool]:
        build_custom(change(pets, cutout=part, cutout_prob=probability, overwrite=True))
        changed = []
        for role, rows in (("train", range(12)), ("train", range(12, 18)), ("test", range(4))):
            with RecordReader(pets.data_dir / f"my-pets-{role}.tfrecord") as reader:
                images = decode_pngs([reader.image(i) for i in rows])
            changed.append(bool((np.ptp(images.reshape(len(images), -1, 3), axis=1) > 60).any()))
        return tuple(changed)

    assert white("train") == (True, False, False)
    assert white("unlabel") == (False, True, False)
    assert white("all") == (True, True, False)
    assert white("all", 0.0) == (False, False, False)
    # Pictures are compared as they were before anything was erased.
    result = build_custom(change(pets, cutout="all", cutout_prob=1.0, overwrite=True))
    assert any("test pictures are labelled training pictures" in n for n in result.facts["notes"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"train_balance": -1}, {"cutout": "test"}, {"cutout": "all", "cutout_prob": 2},
        {"min_confidence": 0.5}, {"cutout_prob": 0.5}, {"prediction_balance": Path("p.json")},
        {"unlabel_dir": None, "unlabel_balance": 5}, {"seed": -1},
    ],
)  # fmt: skip
def test_balancing_that_makes_no_sense_is_refused(pets, wrong) -> None:
    with pytest.raises(UsageError):
        build_custom(change(pets, **wrong))


def test_plans_count_what_balancing_makes(pets) -> None:
    plan = plan_custom(change(pets, train_balance=40))
    assert plan.facts["classes"] == {"arctic_fox": 20, "red_fox": 20}
    assert any(note.startswith("balanced: 20 training images of each") for note in plan.notes)
    with pytest.raises(ResourceError, match="is free"):
        plan_custom(change(pets, train_balance=2**31 - 1, size=(4096, 4096)))


def test_a_first_build_that_fails_at_its_end_leaves_nothing(pets, monkeypatch) -> None:
    def on_a_full_disk(path: Path, manifest: object) -> None:
        raise ResourceError("no space left on the disk", path)

    with monkeypatch.context() as patch:
        patch.setattr("realmix_tf.data.manifest.write_manifest", on_a_full_disk)
        with pytest.raises(ResourceError, match="no space"):
            build_custom(pets)
    assert not pets.data_dir.exists()
    (pets.train_dir / "red_fox" / "page.png").write_text("<html>")
    with pytest.raises(DataError, match="all are listed in"):
        build_custom(pets)
    # The message refers to it.
    assert files_below(pets.data_dir) == ["my-pets-report.json"]


def test_a_folder_that_cannot_be_written_is_refused_beforehand(pets, tmp_path) -> None:
    (tmp_path / "file").touch()
    for work in (plan_custom, build_custom):
        with pytest.raises(ResourceError, match="file/data"):
            work(change(pets, data_dir=tmp_path / "file" / "data"))


def test_what_rename_files_leaves_is_nothing_to_wonder_about(pets) -> None:
    rename(RenameOptions(pets.train_dir))
    (pets.train_dir / ".other").touch()
    assert plan_custom(pets).facts["left_out"] == 1
    build_custom(pets)
    report = json.loads((pets.data_dir / "my-pets-report.json").read_text())
    assert [item["path"] for item in report["left_out"]] == ["train/.other"]
