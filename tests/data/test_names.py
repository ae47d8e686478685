from __future__ import annotations

import pytest

from realmix_tf.data.names import DatasetName, check_dataset
from realmix_tf.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cifar10.3@250-5000", DatasetName("cifar10", None, 3, 250, 5000)),
        ("my-pets_v1.2_aug50.3@450-50", DatasetName("my-pets_v1.2", 50, 3, 450, 50)),
        ("a-1.0@1-0", DatasetName("a-1", None, 0, 1, 0)),
        ("red-fox-50", DatasetName("red-fox", None, None, None, 50)),
        ("cifar10.d.d.d.3@250-1", DatasetName("cifar10.d.d.d", None, 3, 250, 1)),
    ],
)
def test_names_are_parsed_and_written_back(text: str, expected: DatasetName) -> None:
    assert DatasetName.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    ["", "cifar10", "cifar10.3@250", "../x.1@2-3", "a/b-1", "-a-1", "a..b-1", "a\n-1", "a.01@2-3",
     "a.1@0-3", "a_aug0.1@2-3", "x_aug5-1", "a.1@2-3\n", "é-1", "a" * 120 + "-1", "a.1@-2-3"],
)  # fmt: skip
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        DatasetName.parse(text)


def test_the_expected_form_is_shown() -> None:
    with pytest.raises(UsageError, match=r"cifar10\.1@250-5000"):
        DatasetName.parse("cifar10.x@3")


def test_copies_change_only_the_unlabelled_file(tmp_path) -> None:
    name = DatasetName.parse("pets_aug50.3@450-50")
    assert name.label_file(tmp_path) == tmp_path / "SSL" / "pets.3@450-label.tfrecord"
    assert name.unlabel_file(tmp_path) == tmp_path / "SSL" / "pets_aug50.3@450-unlabel.tfrecord"
    assert name.map_file(tmp_path) == tmp_path / "SSL" / "pets.3@450-map.json"
    assert name.test_file(tmp_path) == tmp_path / "pets-test.tfrecord"
    assert name.without_copies() == DatasetName.parse("pets.3@450-50")


def test_files_of_the_original_tools_are_accepted(tmp_path) -> None:
    name = DatasetName.parse("pets_aug50.3@450-50")
    (tmp_path / "SSL").mkdir()
    (tmp_path / "SSL" / "pets_aug50.3@450-label.tfrecord").touch()
    (tmp_path / "pets_aug50-test.tfrecord").touch()
    assert name.label_file(tmp_path).name == "pets_aug50.3@450-label.tfrecord"
    assert name.test_file(tmp_path).name == "pets_aug50-test.tfrecord"


def test_a_split_may_be_named_without_validation() -> None:
    assert DatasetName.parse_split("a-b.1@20").labels == 20
    with pytest.raises(UsageError):
        DatasetName.parse_split("a-b-20")


def test_dataset_names_that_would_be_taken_for_copies_are_refused() -> None:
    with pytest.raises(UsageError, match="_aug"):
        check_dataset("pets_aug5")
