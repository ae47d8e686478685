from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from data_tools.pictures.pseudo_labels import match, occurring, read_predictions
from realmix_tf.data.images import find_images
from realmix_tf.errors import DataError, RealmixError, UsageError
from realmix_tf.evaluation.inference import Result, Row, gather
from realmix_tf.evaluation.predictions import write_predictions

CLASSES = ("cat", "=dog", "é,fox")
NAMES = (
    b"a.png", b"sub/b.png", b"sub/line\nbreak.png", b"=formula.png", b"-dash/x.png",
    b"\xff\xfe.png", b"back\\x41slash.png", b"'quote.png", "ünï çode.png".encode(), b'c,"d".png',
)  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "unlabeled"
    for name in NAMES:
        path = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"x")
    return root


def names_of(folder: Path) -> list[str]:
    return [entry.name for entry in find_images(folder)]


def predict(folder: str | Path, out: Path) -> tuple[dict[str, str], np.ndarray]:
    """Writes predictions as the command does, shuffled; returns the files and the labels."""
    items = gather([folder])
    labels = np.arange(len(items)) % 3
    labels[4] = -1
    rows = [
        Row(item.path, "unreadable", "not an image")
        if label < 0
        else Row(item.path, "ok", "", int(label), CLASSES[label], 0.5 + 0.25 * (label == 1))
        for item, label in zip(items, labels.tolist(), strict=True)
    ]
    order = np.random.RandomState(0).permutation(len(rows))
    result = Result(
        [rows[i] for i in order], np.full((len(rows) - 1, 3), 1 / 3, np.float32), CLASSES
    )
    return write_predictions(result, out, "unlabeled", [str(folder)]), labels


@pytest.mark.parametrize("kind", ["json", "csv"])
@pytest.mark.parametrize("relative", [False, True])
def test_what_predict_writes_is_read_by_name(folder, tmp_path, monkeypatch, kind, relative) -> None:
    monkeypatch.chdir(tmp_path)
    files, labels = predict("unlabeled" if relative else folder, tmp_path / "out")
    predictions = read_predictions(files[kind])
    matched = match(predictions, folder, names_of(folder), CLASSES)
    np.testing.assert_array_equal(matched.labels, labels)
    assert (matched.unreadable, matched.unsure) == (1, 0)
    sure = match(predictions, folder, names_of(folder), CLASSES, min_confidence=0.6)
    np.testing.assert_array_equal(sure.labels, np.where(labels == 1, 1, -1))
    assert sure.unsure == (labels == 0).sum() + (labels == 2).sum()
    # The classes of the data set come in their own order, and in another Unicode form.
    other = match(predictions, folder, names_of(folder), ("é,fox", "=dog", "x", "cat"))
    np.testing.assert_array_equal(other.labels, np.array([3, 1, 0, -1])[labels])


def test_paths_through_links_and_from_inside_the_folder(folder, tmp_path, monkeypatch) -> None:
    (tmp_path / "link").symlink_to(folder)
    files, labels = predict(tmp_path / "link", tmp_path / "out")
    matched = match(read_predictions(files["json"]), folder, names_of(folder), CLASSES)
    np.testing.assert_array_equal(matched.labels, labels)
    monkeypatch.chdir(folder)
    files, labels = predict(".", tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    matched = match(read_predictions(files["csv"]), folder, names_of(folder), CLASSES)
    np.testing.assert_array_equal(matched.labels, labels)


def test_nested_folders_of_the_same_name_are_not_confused(tmp_path, monkeypatch) -> None:
    for name in ("u/x.png", "u/u/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "p.json"
    path.write_text('{"u/x.png": "cat", "u/u/x.png": "dog"}')
    matched = match(read_predictions(path), "u", ["u/x.png", "x.png"])
    assert matched.labels.tolist() == [1, 0]
    (tmp_path / "u/u/u").mkdir()
    (tmp_path / "u/u/u/x.png").write_bytes(b"x")
    path.write_text('{"x.png": "cat", "u/x.png": "dog", "u/u/x.png": "dog"}')
    assert match(read_predictions(path), "u", names_of(Path("u"))).labels.tolist() == [1, 1, 0]


def test_plain_objects(tmp_path) -> None:
    path = tmp_path / "p.json"
    path.write_text('{"a": "dog", "b": "cat"}')
    predictions = read_predictions(path)
    assert predictions.classes == ("cat", "dog")
    assert match(predictions, tmp_path, ["b", "a"]).labels.tolist() == [0, 1]
    with pytest.raises(UsageError, match="no probabilities"):
        match(predictions, tmp_path, ["b", "a"], min_confidence=0.5)
    path.write_text('\ufeff{"a": {"dog": 0.25, "cat": 0.75}, "b": {"dog": 1}}')
    predictions = read_predictions(path)
    assert predictions.probabilities.tolist() == [0.75, 1.0]
    assert match(predictions, tmp_path, ["a", "b"]).labels.tolist() == [0, 1]
    with pytest.raises(UsageError, match="min_confidence"):
        match(predictions, tmp_path, ["a", "b"], min_confidence=math.nan)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no predictions|not a readable"),
        ("{", "not a readable JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not a readable JSON"),
        ('{"a": "x", "a": "y"}', "'a' occurs twice"),
        ('{"a": 3}', "neither a class name"),
        ('{"a": {}}', "neither a class name"),
        ('{"a": {"x": 1.5}}', "1.5, not between 0 and 1"),
        ('{"a": {"x": -0.1, "y": 0.9}}', "-0.1, not between"),
        ('{"a": {"x": NaN}}', "not a readable JSON"),
        ('{"a": {"x": 1e999}}', "inf, not between"),
        ('{"a": {"x": 1' + "0" * 400 + "}}", "inf, not between"),
        ('{"a": {"x": true}}', "is not a number"),
        ('{"schema": 2, "classes": [], "predictions": []}', "schema version 2"),
        ('{"schema": 1, "classes": 3, "predictions": []}', "'classes'"),
        ('{"schema": 1, "classes": [], "predictions": []}', "no predictions"),
        ('{"schema": 1, "classes": ["x"], "predictions": [{"path": 1}]}', "without a path"),
        ('{"schema": 1, "classes": ["x"], "predictions": [{"path": "a", "class_name": ["x"]}]}',
         "none of the known"),
        ('{"schema": 1, "classes": ["x"], "predictions": [{"path": "a", "class_name": "y", '
         '"probability": 1}]}', "'y' is none of the known ones .*with the classes x"),
        ('{"schema": 1, "classes": ["x"], "predictions": [{"path": "a", "path_base64": "%"}]}',
         "base64"),
        ("name,class\na,b\n", "columns path and class_name"),
        ("path,class_name\na\n", "1 cells under 2"),
        ("path,class_name\na,\n", "'a' has no class"),
        ("path,class_name\na,x\na,y\n", "'a' has two predictions"),
        ("path,class_name,probability\na,x,much\n", "'much' is not a number"),
        ("path,class_name,probability\na,x,nan\n", "not a number"),
        ("path,class_name,probability\na,x,2\n", "2, not between"),
        ('path,class_name\n"a', "not a readable CSV"),
    ],
)  # fmt: skip
def test_hostile_files_are_refused(tmp_path, content, message) -> None:
    path = tmp_path / "predictions"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_predictions(path)


def test_arrays_are_refused_because_a_position_is_no_name(tmp_path) -> None:
    path = tmp_path / "x_pred.npy"
    np.save(path, np.zeros((3, 2)))
    with pytest.raises(UsageError, match=r"names no pictures.*predictions\.json or") as error:
        read_predictions(path)
    assert error.value.exit_code == 2
    (tmp_path / "predictions.csv").write_text("path,class_name\n")
    with pytest.raises(UsageError, match=str(tmp_path / "predictions.csv")):
        read_predictions(path)
    os.rename(path, tmp_path / "renamed.json")
    with pytest.raises(UsageError, match="names no pictures"):
        read_predictions(tmp_path / "renamed.json")


def test_what_is_no_file_is_refused(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "nothing"):
        with pytest.raises(RealmixError):
            read_predictions(path)


def test_large_files_are_refused_before_they_are_read(tmp_path) -> None:
    path = tmp_path / "p.json"
    path.write_text("{")
    os.truncate(path, 600 << 20)
    with pytest.raises(DataError, match=r"600\.0 MiB, more than 512\.0 MiB"):
        read_predictions(path)


def test_gaps_and_leftovers_are_counted(folder, tmp_path) -> None:
    files, _ = predict(folder, tmp_path / "out")
    (folder / "new.png").write_bytes(b"x")
    (folder / "a.png").unlink()
    message = r"1 pictures have no prediction, such as 'new\.png'; 1 predictions belong .*a\.png"
    with pytest.raises(DataError, match=message):
        match(read_predictions(files["json"]), folder, names_of(folder), CLASSES)


def test_unknown_classes_are_named(folder, tmp_path) -> None:
    files, _ = predict(folder, tmp_path / "out")
    for kind in ("json", "csv"):
        with pytest.raises(
            DataError, match=r"dog['\"] is none of the known ones .*classes cat, é,fox"
        ):
            match(read_predictions(files[kind]), folder, names_of(folder), ("cat", "é,fox"))


def test_names_that_a_table_cannot_tell_apart_are_refused(tmp_path) -> None:
    odd = os.fsdecode(b"a\xff")
    path = tmp_path / "p.csv"
    path.write_text("path,class_name\na\\udcff,x\na\\xff,y\n")
    names = [odd, "a\\xff"]
    with pytest.raises(DataError, match=r"no prediction.*; 1 predictions fit more than one"):
        match(read_predictions(path), tmp_path, names)
    path.write_text(json.dumps({odd: "x", "a\\xff": "y"}))
    assert match(read_predictions(path), tmp_path, names).labels.tolist() == [0, 1]


def test_classes_to_balance_by_are_those_that_occur() -> None:
    labels, classes = occurring(np.array([4, -1, 2, 4]), ("a", "b", "c", "d", "e"))
    assert labels.tolist() == [1, -1, 0, 1]
    assert classes == ("c", "e")
    with pytest.raises(DataError, match="balance by"):
        occurring(np.array([-1, -1]), ("a",))
