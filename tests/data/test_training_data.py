"""What training reads from a dataset's name, and that nothing leaks between the sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import squares

from realmix_tf.data.names import DatasetName
from realmix_tf.data.records import RecordReader
from realmix_tf.data.training_data import DataSettings, load_training_data
from realmix_tf.errors import DataError, UsageError


def load(folder: Path, name: str, **more):
    return load_training_data(DataSettings(DatasetName.parse(name), folder, **more))


def hashes(store) -> set[bytes]:
    return {image.tobytes() for image in store.images()}


@pytest.fixture
def split(tmp_path: Path) -> Path:
    return squares.write_split(tmp_path)


def test_sets_of_a_split_share_no_image_and_lose_none(split: Path) -> None:
    data = load(split, "squares.1@12-10")
    assert data.counts() == {"labeled": 12, "unlabeled": 98, "valid": 10, "test": 60}
    sets = [hashes(s) for s in (data.labeled, data.unlabeled, data.valid, data.test)]
    assert sum(map(len, sets)) == 180
    assert len(set.union(*sets)) == 180


def test_validation_is_the_first_truly_labeled_of_the_unlabeled_file(split: Path) -> None:
    data = load(split, "squares.1@12-10")
    images, truth = squares.pictures(120, 1)
    order = [i for i in range(12, 120) if (i - 12) % 3 != 0][:10]
    np.testing.assert_array_equal(data.valid.images(), images[order])
    np.testing.assert_array_equal(data.valid.labels, truth[order])


def test_copies_of_validation_images_are_never_trained_on(split: Path) -> None:
    with RecordReader(split / "SSL/squares.1@12-unlabel.tfrecord") as reader:
        count = len(reader)
    images, _ = squares.pictures(120, 1)
    ids = np.repeat(np.arange(12, 12 + count), 3)
    copies = images[ids] // 2
    squares.write(
        split / "SSL/squares_aug3.1@12-unlabel.tfrecord",
        copies,
        np.full(len(ids), -1),
        "unlabel",
        sources=ids,
    )
    data = load(split, "squares_aug3.1@12-10")
    held_out = {(image // 2).tobytes() for image in data.valid.images()}
    assert data.counts()["unlabeled"] == 3 * (count - 10)
    assert not held_out & hashes(data.unlabeled)
    np.testing.assert_array_equal(
        data.valid.images(), load(split, "squares.1@12-10").valid.images()
    )


def test_copies_that_do_not_name_their_source_are_refused_with_validation(split: Path) -> None:
    images, _ = squares.pictures(9, 5)
    squares.write(
        split / "SSL/squares_aug1.1@12-unlabel.tfrecord", images, np.full(9, -1), "unlabel"
    )
    assert load(split, "squares_aug1.1@12-0").counts()["unlabeled"] == 9
    with pytest.raises(DataError, match="do not say which image"):
        load(split, "squares_aug1.1@12-10")


def test_the_baseline_name_divides_the_train_file(split: Path) -> None:
    data = load(split, "squares-30", need_unlabeled=False)
    images, _ = squares.pictures(120, 1)
    np.testing.assert_array_equal(data.valid.images(), images[:30])
    np.testing.assert_array_equal(data.labeled.images(), images[30:])
    with pytest.raises(UsageError, match="reads unlabelled images"):
        load(split, "squares-30")


def test_records_without_a_true_label_never_count_as_labeled(tmp_path: Path) -> None:
    images, truth = squares.pictures(30, 1)
    truth[10:] = -1
    squares.write(tmp_path / "squares-train.tfrecord", images, truth, "train")
    squares.write(tmp_path / "squares-test.tfrecord", *squares.pictures(9, 2), "test")
    data = load(tmp_path, "squares-4", need_unlabeled=False)
    assert data.counts() == {"labeled": 6, "unlabeled": 0, "valid": 4, "test": 9}
    with pytest.raises(UsageError, match="only 10 have a true label"):
        load(tmp_path, "squares-11", need_unlabeled=False)


def test_images_read_from_the_file_equal_those_in_memory(split: Path) -> None:
    held, read = (load(split, "squares.1@12-10", in_memory=flag) for flag in (True, False))
    assert held.unlabeled.in_memory
    assert not read.unlabeled.in_memory
    np.testing.assert_array_equal(held.unlabeled.images(), read.unlabeled.images())
    np.testing.assert_array_equal(held.unlabeled.images(5, 9), read.unlabeled.images(5, 9))
    import tensorflow as tf

    chosen = tf.constant([7, 0, 97, 7], tf.int64)
    for data in (held, read):
        dataset = tf.data.Dataset.from_tensors(chosen).map(data.unlabeled.gather)
        np.testing.assert_array_equal(
            next(iter(dataset)).numpy(), held.unlabeled.images()[chosen.numpy()]
        )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"num_classes": 5}, "--nclass is 5 but the data have 3 classes"),
        ({"image_size": 32}, "--img_size is 32 but the images are 8×8"),
    ],
)
def test_expectations_that_do_not_fit_the_data_are_refused(split: Path, more, words) -> None:
    with pytest.raises(UsageError, match=words):
        load(split, "squares.1@12-10", **more)


def test_a_missing_file_is_named_with_the_command_that_makes_it(split: Path) -> None:
    (split / "SSL/squares.1@12-unlabel.tfrecord").unlink()
    with pytest.raises(DataError, match=r"squares\.1@12-unlabel\.tfrecord.*create_split"):
        load(split, "squares.1@12-10")
    assert load(split, "squares.1@12-0", need_unlabeled=False).counts()["labeled"] == 12


def test_sets_of_different_classes_do_not_mix(split: Path) -> None:
    squares.write(
        split / "squares-test.tfrecord", *squares.pictures(9, 2), "test", classes=("a", "b", "c")
    )
    with pytest.raises(DataError, match="disagree on image size or classes"):
        load(split, "squares.1@12-10")


def test_unlabeled_images_may_come_from_a_set_of_other_classes(split: Path) -> None:
    images, _ = squares.pictures(30, 7)
    squares.write(
        split / "SSL/squares.1@12-unlabel.tfrecord",
        images,
        np.full(30, -1),
        "unlabel",
        classes=("cyan", "magenta"),
    )
    data = load(split, "squares.1@12-0")
    assert data.classes == squares.CLASSES
    assert len(data.unlabeled) == 30


def test_files_without_manifests_are_read_and_that_is_said(split: Path) -> None:
    for manifest in split.rglob("*.tfrecord.json"):
        manifest.unlink()
    data = load(split, "squares.1@12-10")
    assert data.classes == ("0", "1", "2")
    assert data.shape == (8, 8, 3)
    assert any("has no manifest" in note for note in data.notes)
    assert load(split, "squares.1@12-10", num_classes=4).classes == ("0", "1", "2", "3")


def test_a_class_mapping_renames_and_must_be_complete(split: Path, tmp_path: Path) -> None:
    mapping = tmp_path / "names.json"
    mapping.write_text(json.dumps({"0": "rot", "1": "grün", "2": "blau"}))
    assert load(split, "squares.1@12-10", class_mapping=str(mapping)).classes[1] == "grün"
    mapping.write_text(json.dumps({"0": "rot", "3": "blau"}))
    with pytest.raises(DataError, match="does not name the ids 0 to 2"):
        load(split, "squares.1@12-10", class_mapping=str(mapping))


def test_a_record_that_is_no_png_of_the_right_size_is_named(split: Path) -> None:
    images, truth = squares.pictures(12, 1)
    wide = np.zeros((8, 9, 3), np.uint8)
    from realmix_tf.data.examples import encode_example
    from realmix_tf.data.record_writer import RecordWriter

    with RecordWriter(
        split / "SSL/squares.1@12-label.tfrecord",
        dataset="squares",
        role="label",
        classes=squares.CLASSES,
        shape=(8, 8, 3),
        provenance={},
        overwrite=True,
    ) as writer:
        for image, label in zip(images, truth, strict=True):
            writer.write(encode_example(squares.png(image if label else wide), int(label)))
    with pytest.raises(DataError, match=r"record 0.*label\.tfrecord|label\.tfrecord.*record 0"):
        load(split, "squares.1@12-10")


# Copies and equal pictures.


def write_pool(folder: Path, images, labels, sources=None) -> None:
    squares.write(
        folder / "SSL/squares.1@12-unlabel.tfrecord", images, labels, "unlabel", sources=sources
    )
    ids = {"label": list(range(12)), "unlabel": list(range(12, 12 + len(images)))}
    (folder / "SSL/squares.1@12-map.json").write_text(json.dumps(ids))


def test_copies_inside_a_plain_split_are_no_validation_images_and_follow_theirs(split) -> None:
    images, truth = squares.pictures(120, 1)
    originals, labels = images[12:52], truth[12:52]
    # The copy of record 12 + k comes before it: a copy must not be taken for validation.
    mixed = np.stack([originals // 2, originals], 1).reshape(-1, 8, 8, 3)
    sources = np.stack([np.arange(40) * 2 + 13, np.full(40, -1)], 1).reshape(-1)
    write_pool(split, mixed, np.repeat(labels, 2), sources)
    data = load(split, "squares.1@12-10")
    np.testing.assert_array_equal(data.valid.images(), originals[:10])
    assert data.counts()["unlabeled"] == 60
    assert not {(image // 2).tobytes() for image in originals[:10]} & hashes(data.unlabeled)
    assert load(split, "squares.1@12-0").counts()["unlabeled"] == 80

    # Augmented copies of the copies name the original, or the copy they were made from.
    for named in (np.where(sources < 0, np.arange(80) + 12, sources), np.arange(80) + 12):
        squares.write(
            split / "SSL/squares_aug1.1@12-unlabel.tfrecord",
            mixed // 3,
            np.full(80, -1),
            "unlabel",
            sources=named,
        )
        data = load(split, "squares_aug1.1@12-10")
        assert hashes(data.unlabeled) == {image.tobytes() for image in mixed[20:] // 3}

    (split / "SSL/squares.1@12-map.json").unlink()
    with pytest.raises(DataError, match="the split's map is missing"):
        load(split, "squares.1@12-10")


def test_labeled_copies_of_validation_images_ask_for_a_new_split(split) -> None:
    images, truth = squares.pictures(120, 1)
    sources = np.full(12, -1)
    sources[5] = 13  # an unlabelled picture that is used for validation
    squares.write(split / "SSL/squares.1@12-label.tfrecord", images[:12] // 2, truth[:12],
                  "label", sources=sources)  # fmt: skip
    with pytest.raises(DataError, match=r"copies of validation images.*record 5.*create_split"):
        load(split, "squares.1@12-10")
    assert load(split, "squares.1@12-0").counts()["labeled"] == 12


def test_copies_in_a_whole_dataset_follow_their_originals(tmp_path) -> None:
    images, truth = squares.pictures(30, 1)
    both = np.concatenate([images // 2, images])
    sources = np.concatenate([np.arange(30) + 30, np.full(30, -1)])
    squares.write(tmp_path / "squares-train.tfrecord", both, np.tile(truth, 2), "train", sources)
    data = load(tmp_path, "squares-8", need_unlabeled=False)
    np.testing.assert_array_equal(data.valid.images(), images[:8])
    assert data.counts()["labeled"] == 44
    assert not {(image // 2).tobytes() for image in images[:8]} & hashes(data.labeled)


def test_labeled_images_in_the_test_set_are_refused_unless_allowed(split) -> None:
    images, _ = squares.pictures(120, 1)
    test, labels = squares.pictures(60, 2)
    test[[7, 9]] = images[[3, 4]]
    squares.write(split / "squares-test.tfrecord", test, labels, "test")
    with pytest.raises(
        DataError, match=r"2 labelled images are in the test set.*record 3.*--allow_overlap"
    ):
        load(split, "squares.1@12-10")
    data = load(split, "squares.1@12-10", allow_overlap=True)
    assert any(note.startswith("2 labelled images are in the test set") for note in data.notes)
    assert data.counts() == {"labeled": 12, "unlabeled": 98, "valid": 10, "test": 60}


def test_other_images_in_the_test_set_are_stated(split) -> None:
    images, _ = squares.pictures(120, 1)
    test, labels = squares.pictures(60, 2)
    test[:3] = images[[13, 60, 61]]  # a validation image and two unlabelled ones
    squares.write(split / "squares-test.tfrecord", test, labels, "test")
    data = load(split, "squares.1@12-10")
    assert "1 validation images are in the test set too, pixel by pixel" in data.notes
    assert "2 unlabelled images are in the test set too, pixel by pixel" in data.notes
    assert data.counts()["unlabeled"] == 98


def test_equal_images_never_straddle_validation_and_training(split) -> None:
    images, truth = squares.pictures(120, 1)
    pool, labels = images[12:].copy(), truth[12:].copy()
    pool[2] = images[5]  # labelled, and would be a validation image
    pool[[50, 51]] = pool[4]  # two more of a validation image
    write_pool(split, pool, labels)
    data = load(split, "squares.1@12-10")
    np.testing.assert_array_equal(data.valid.images(), pool[[0, 1, *range(3, 11)]])
    assert data.counts() == {"labeled": 12, "unlabeled": 96, "valid": 10, "test": 60}
    assert not hashes(data.valid) & (hashes(data.unlabeled) | hashes(data.labeled))
    assert sum("next ones took their place" in note for note in data.notes) == 1
    assert any(note.startswith("2 images that are validation") for note in data.notes)
    # Without validation nothing is left out, and nothing needs saying.
    assert load(split, "squares.1@12-0").counts()["unlabeled"] == 108
    assert load(split, "squares.1@12-10", need_unlabeled=False).counts()["unlabeled"] == 0


def test_equal_images_of_a_whole_dataset(tmp_path) -> None:
    images, truth = squares.pictures(30, 1)
    images[20] = images[3]
    squares.write(tmp_path / "squares-train.tfrecord", images, truth, "train")
    data = load(tmp_path, "squares-8", need_unlabeled=False)
    assert data.counts()["labeled"] == 21
    assert not hashes(data.valid) & hashes(data.labeled)


def test_pseudo_labels_train_but_never_validate(tmp_path) -> None:
    from realmix_tf.data.examples import encode_example
    from realmix_tf.data.record_writer import RecordWriter

    images, truth = squares.pictures(30, 1)
    with RecordWriter(
        tmp_path / "squares-train.tfrecord",
        dataset="squares",
        role="train",
        classes=squares.CLASSES,
        shape=(8, 8, 3),
        provenance={},
    ) as writer:
        for k, (image, label) in enumerate(zip(images, truth.tolist(), strict=True)):
            if k % 3 == 0:
                example = encode_example(squares.png(image), -1, labeled=False, pseudo=label)
            else:
                example = encode_example(squares.png(image), label)
            writer.write(example)
    plain = load(tmp_path, "squares-6", need_unlabeled=False)
    assert plain.counts()["labeled"] == 14
    data = load(tmp_path, "squares-6", need_unlabeled=False, use_pseudo_labels=True)
    assert data.counts()["labeled"] == 24
    valid = [k for k in range(30) if k % 3][:6]
    np.testing.assert_array_equal(data.valid.images(), images[valid])
    np.testing.assert_array_equal(data.labeled.labels, np.delete(truth, valid))
    squares.write_split(tmp_path / "split")
    with pytest.raises(UsageError, match=r"pseudo labels are used with a whole dataset"):
        load(tmp_path / "split", "squares.1@12-10", use_pseudo_labels=True)
