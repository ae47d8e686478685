"""Folders of pictures to rows, numbers and files."""

import base64
import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_model import CLASSES

from realmix_tf.data.examples import encode_example
from realmix_tf.data.images import encode_png
from realmix_tf.data.record_writer import RecordWriter
from realmix_tf.data.records import RecordReader
from realmix_tf.data.stores import ImageStore
from realmix_tf.errors import DataError, ResourceError, UsageError
from realmix_tf.evaluation import inference, predictions
from realmix_tf.evaluation.classifier import Classifier
from realmix_tf.evaluation.metrics import classification_metrics


def fill(folder: Path, pictures: np.ndarray, names: list[str] | None = None) -> list[Path]:
    paths = []
    for i, picture in enumerate(pictures):
        path = folder / (names[i] if names else f"{i:03d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(picture))
        paths.append(path)
    return paths


def test_same_pixels_same_numbers_as_evaluation(
    classifier: Classifier, pictures: np.ndarray, tmp_path: Path
) -> None:
    record = tmp_path / "pets-test.tfrecord"
    with RecordWriter(
        record,
        dataset="pets",
        role="test",
        classes=CLASSES,
        shape=(8, 8, 3),
        provenance={},
    ) as writer:
        for i, picture in enumerate(pictures):
            writer.write(encode_example(encode_png(picture), i % 4))
    with RecordReader(record) as reader:
        store = ImageStore(reader, np.arange(len(pictures)), (8, 8, 3))
        evaluated = classifier.predict(store.images())
    fill(tmp_path / "in", pictures)
    result = inference.classify([tmp_path / "in"], classifier)
    np.testing.assert_allclose(result.probabilities, evaluated, rtol=0, atol=1e-5)


def test_rows(classifier: Classifier, pictures: np.ndarray, tmp_path: Path) -> None:
    paths = fill(tmp_path / "in", pictures)
    expected = classifier.predict(pictures)
    done: list[tuple[int, int]] = []
    result = inference.classify(
        [tmp_path / "in"], classifier, top_k=3, progress=lambda *step: done.append(step)
    )
    assert [row.path for row in result.rows] == [str(path) for path in paths]
    np.testing.assert_array_equal(result.probabilities, expected)
    for row, probabilities in zip(result.rows, expected, strict=True):
        assert (row.status, row.reason) == ("ok", "")
        assert row.class_id == int(probabilities.argmax())
        assert row.class_name == CLASSES[row.class_id]
        assert row.probability == pytest.approx(float(probabilities.max()))
        assert [p for _, p in row.top_k] == sorted(map(float, probabilities), reverse=True)[:3]
        assert row.top_k[0] == (row.class_name, row.probability)
    assert done == [(16, 40), (32, 40), (40, 40)]
    assert result.evaluation is None
    assert result.notes == ()


def test_more_classes_than_there_are(
    classifier: Classifier, pictures: np.ndarray, tmp_path: Path
) -> None:
    paths = fill(tmp_path, pictures[:1])
    assert len(inference.classify(paths, classifier, top_k=99).rows[0].top_k) == 4
    with pytest.raises(UsageError, match="top_k"):
        inference.classify(paths, classifier, top_k=0)


def test_unreadable_pictures_have_rows(
    classifier: Classifier, pictures: np.ndarray, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    fill(folder, pictures[:3], ["a.png", "c.png", "z.png"])
    whole = encode_png(pictures[0])
    (folder / "b.png").write_bytes(whole[: len(whole) // 2])
    (folder / "d.jpg").write_text("<html>")
    (folder / "e.png").write_bytes(b"")
    os.mkfifo(folder / "f.png")
    (folder / "g.png").symlink_to("nowhere")
    (folder / ".DS_Store").write_bytes(b"x")
    result = inference.classify([folder], classifier)
    status = {Path(row.path).name: row.status for row in result.rows}
    bad = dict.fromkeys(("b.png", "d.jpg", "e.png", "f.png", "g.png"), "unreadable")
    assert status == {"a.png": "ok", "c.png": "ok", "z.png": "ok", **bad}
    assert list(status) == sorted(status)
    assert all(row.reason for row in result.unreadable)
    assert result.probabilities.shape == (3, 4)
    np.testing.assert_array_equal(result.probabilities[2], classifier.predict(pictures[2:3])[0])
    assert "5 of 8 pictures could not be read" in result.notes


def test_only_the_first_frame_is_said(
    classifier: Classifier, pictures: np.ndarray, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    fill(folder, pictures[:1], ["a.png"])
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    for name in ("b.gif", "c.webp"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])
    whole = (folder / "b.gif").read_bytes()
    (folder / "d.gif").write_bytes(whole[:30])
    result = inference.classify([folder], classifier)
    said = "animated, only the first frame is used"
    assert [row.note for row in result.rows] == ["", said, said, ""]
    assert [row.status for row in result.rows] == ["ok", "ok", "ok", "unreadable"]
    assert f"2 of 4 pictures: {said}" in result.notes
    rows = list(csv.DictReader(io.StringIO(predictions.predictions_csv(result))))
    assert [row["note"] for row in rows] == ["", said, said, ""]
    contents = predictions.predictions_json(result)["predictions"]
    assert [row["note"] for row in contents] == ["", said, said, ""]


def test_nothing_readable_at_all(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no")
    result = inference.classify([tmp_path], classifier)
    assert result.probabilities.shape == (0, 4)
    assert result.probabilities.dtype == np.float32


def test_accuracy_where_folders_are_classes(
    classifier: Classifier, pictures: np.ndarray, tmp_path: Path
) -> None:
    labels = np.arange(30) % 3
    names = [f"{CLASSES[label]}/deep/{i:03d}.png" for i, label in enumerate(labels)]
    fill(tmp_path, pictures[:30], names)
    fill(tmp_path / "unicorn", pictures[30:33])
    fill(tmp_path, pictures[33:35], ["x.png", "y.png"])
    (tmp_path / "ant" / "broken.png").write_bytes(b"")
    result = inference.classify([tmp_path], classifier)
    assert result.evaluation is not None
    expected = classification_metrics(classifier.predict(pictures[:30]), labels)
    assert result.evaluation["count"] == 30
    for name in ("accuracy", "macro_f1", "nll"):
        assert result.evaluation[name] == pytest.approx(expected[name])
    assert result.unknown_folders == ("unicorn",)
    assert result.missing_classes == ("dog",)
    assert len(result.rows) == 36
    assert {row.true_class for row in result.rows if "unicorn" in row.path} == {None}


def test_folders_that_are_no_classes_are_just_folders(
    classifier: Classifier, pictures: np.ndarray, tmp_path: Path
) -> None:
    fill(tmp_path / "holiday", pictures[:2])
    result = inference.classify([tmp_path], classifier)
    assert result.evaluation is None
    assert result.unknown_folders == ()


def test_accents_match_however_they_are_composed() -> None:
    items = [inference.Item("x/cafe\u0301/1.png", "cafe\u0301")]
    assert inference._Truth(items, ("caf\u00e9", "tea")).of(items[0]) == "caf\u00e9"


def test_lists(classifier: Classifier, pictures: np.ndarray, tmp_path: Path) -> None:
    paths = fill(tmp_path / "in", pictures[:2])
    listing = tmp_path / "list.txt"
    listing.write_bytes(f"in/001.png\r\n\n{paths[0]}\nmissing.png\n".encode() + b"in/\xff.png")
    rows = inference.classify(inference.read_list(listing), classifier).rows
    assert [Path(row.path).name for row in rows[:3]] == ["001.png", "000.png", "missing.png"]
    assert [row.status for row in rows] == ["ok", "ok", "unreadable", "unreadable"]
    assert [i.path for i in inference.gather([listing])] == [row.path for row in rows]
    listing.write_text("\n\n")
    with pytest.raises(DataError, match="names no pictures"):
        inference.read_list(listing)
    with pytest.raises(DataError, match="no such list"):
        inference.read_list(tmp_path / "no.txt")


def test_nothing_to_classify(classifier: Classifier, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        inference.classify([tmp_path / "no"], classifier)
    with pytest.raises(DataError, match="no pictures"):
        inference.classify([tmp_path], classifier)
    with pytest.raises(DataError, match="nothing to classify"):
        inference.classify([], classifier)


def odd_result() -> inference.Result:
    rows = [
        inference.Row("in/=1+1.png", "ok", "", 0, "=cmd()", 0.75, (("=cmd()", 0.75), ("b", 0.25))),
        inference.Row("-x\n,\"'.png", "ok", "", 1, "b", 0.5, (("b", 0.5), ("=cmd()", 0.5)), "b"),
        inference.Row(os.fsdecode(b"in/\xff\x1b.png"), "unreadable", "not an image"),
    ]
    probabilities = np.array([[0.75, 0.25], [0.5, 0.5]], np.float32)
    return inference.Result(rows, probabilities, ("=cmd()", "b"))


def test_csv_is_safe_and_one_line_an_input() -> None:
    text = predictions.predictions_csv(odd_result())
    assert len(text.splitlines()) == 4
    assert "\x1b" not in text
    text.encode("utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["path"] for row in rows] == ["in/=1+1.png", "'-x\\n,\"'.png", "in/\\xff\\x1b.png"]
    assert rows[0]["class_name"] == "'=cmd()"
    assert rows[0]["top2_class"] == "b"
    assert float(rows[0]["probability"]) == 0.75
    assert rows[1]["true_class"] == "b"
    assert rows[2] == {
        **dict.fromkeys(rows[2], ""),
        "path": "in/\\xff\\x1b.png",
        "status": "unreadable",
        "reason": "not an image",
    }


def test_json_keeps_the_true_names() -> None:
    contents = predictions.predictions_json(odd_result())
    text = json.dumps(contents, ensure_ascii=False)
    assert json.loads(text.encode("utf-8")) == contents
    rows = contents["predictions"]
    assert rows[1]["path"] == "-x\n,\"'.png"
    assert "path_base64" not in rows[1]
    assert base64.b64decode(rows[2]["path_base64"]) == b"in/\xff\x1b.png"
    assert rows[0]["top_k"][1] == {"class_name": "b", "probability": 0.25}
    assert contents["counts"] == {"inputs": 3, "classified": 2, "unreadable": 1}
    assert contents["accuracy"] is None


def test_files(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    files = predictions.write_predictions(odd_result(), out, "../my=set")
    assert sorted(os.listdir(out)) == [
        "_my_set_pred.npy",
        "inputs.json",
        "predictions.csv",
        "predictions.json",
    ]
    array = np.load(files["npy"], allow_pickle=False)
    np.testing.assert_array_equal(array, odd_result().probabilities)
    contents = json.loads(Path(files["json"]).read_text())
    assert contents["array"] == "_my_set_pred.npy"
    assert contents["schema"] == 1


def test_a_full_disk_leaves_no_document_beside_other_rows(tmp_path: Path, monkeypatch) -> None:
    predictions.write_predictions(odd_result(), tmp_path)

    def full(path: object, text: str) -> None:
        raise ResourceError("no space left on the disk", path)

    monkeypatch.setattr(predictions, "write_text", full)
    with pytest.raises(ResourceError):
        predictions.write_predictions(odd_result(), tmp_path)
    assert not (tmp_path / "predictions.json").exists()


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("my photos", "my_photos"),
        ("a.png", "a.png"),
        ("..", "images"),
        ("", "images"),
        ("a/../\\b\n", "a_..__b_"),
        (os.fsdecode(b"\xff"), "_xff"),
        ("写" * 200, "写" * 33),
    ],
)
def test_names_are_safe(name: str, safe: str) -> None:
    assert predictions.safe_name(name) == safe


def test_a_folder_for_each_input(tmp_path: Path) -> None:
    root, (a, b) = tmp_path / "out", [str(tmp_path / side / "photos") for side in "ab"]

    def place(*inputs: str) -> str:
        folder = predictions.folder_for(root, inputs)
        predictions.write_predictions(odd_result(), folder, "x", inputs)
        return folder.name

    assert [place(a), place(b), place(a, b)] == ["photos", "photos-2", "photos_and_1_more"]
    (tmp_path / "link").symlink_to(tmp_path / "a")
    again = [place(a), place(f"{a}/"), place(b), place(str(tmp_path / "link" / "photos"))]
    assert again == ["photos", "photos", "photos-2", "photos"]
    (root / "photos-2" / "inputs.json").write_text("{")
    assert [place(b), place(b)] == ["photos-3", "photos-3"]
    (root / "c.png").write_text("a file")
    (root / "d").mkdir()
    assert [place("c.png"), place("d"), place("/")] == ["c.png-2", "d", "images"]


def test_output_stays_out_of_the_input(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for out in ("in", "in/out", "link/out", "x/../in/out"):
        with pytest.raises(UsageError, match="inside the input"):
            predictions.require_outside(tmp_path / out, [str(tmp_path / "in")])
    predictions.require_outside(tmp_path / "input", [str(tmp_path / "in")])


def test_a_file_where_the_output_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ResourceError):
        predictions.write_predictions(odd_result(), tmp_path / "out")


def test_other_sizes_and_modes_are_brought_to_the_networks(
    classifier: Classifier, tmp_path: Path
) -> None:
    Image.new("L", (30, 17), 90).save(tmp_path / "grey.bmp")
    Image.new("RGBA", (5, 5), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    white = classifier.predict(np.full((1, 8, 8, 3), 255, np.uint8))
    result = inference.classify([tmp_path], classifier)
    assert [row.status for row in result.rows] == ["ok", "ok"]
    np.testing.assert_allclose(result.probabilities[0], white[0], atol=1e-5)
