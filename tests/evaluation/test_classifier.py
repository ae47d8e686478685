"""Exported models and checkpoints, honest and hostile."""

import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_model import CLASSES, SPEC, random_weights

from realmix_tf.errors import CheckpointError, DataError, UsageError
from realmix_tf.evaluation import model_file
from realmix_tf.evaluation.classifier import Classifier, Predictor, assign_weights
from realmix_tf.evaluation.model_file import ModelDescription
from realmix_tf.nets.build import build_network
from realmix_tf.training import checkpoint


def test_predictions_equal_a_plain_forward_pass(
    classifier: Classifier, pictures: np.ndarray
) -> None:
    floats = pictures.astype(np.float32) * (2 / 255) - 1
    logits = classifier.network(floats, training=False).logits.numpy().astype(np.float64)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    expected = shifted / shifted.sum(1, keepdims=True)
    found = classifier.predict(pictures)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(np.unique(found.argmax(1))) == 4


def test_company_does_not_matter(classifier: Classifier, pictures: np.ndarray) -> None:
    together = classifier.predict(pictures)
    alone = np.concatenate([classifier.predict(pictures[i : i + 1]) for i in range(18)])
    np.testing.assert_array_equal(together[:18], alone)
    assert classifier.predict(pictures[:0]).shape == (0, 4)
    assert classifier.predictor.features(pictures[:3]).shape == (3, 16)


def test_prediction_changes_no_weights(classifier: Classifier, pictures: np.ndarray) -> None:
    before = {n: v.numpy().copy() for n, v in classifier.network.variables_by_name().items()}
    classifier.predict(pictures)
    for name, variable in classifier.network.variables_by_name().items():
        np.testing.assert_array_equal(variable.numpy(), before[name])


def test_new_weights_count_at_once(description: ModelDescription, pictures: np.ndarray) -> None:
    classifier = Classifier.create(description, random_weights(8))
    first = classifier.predict(pictures)
    assign_weights(classifier.network, random_weights(1))
    assert np.abs(classifier.predict(pictures) - first).max() > 0.01


@pytest.mark.parametrize(
    "images",
    [np.zeros((2, 8, 8, 1), np.uint8), np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8)],
)
def test_other_images_are_refused(classifier: Classifier, images: np.ndarray) -> None:
    with pytest.raises(DataError, match="reads uint8 images"):
        classifier.predict(images)


def test_batch_is_checked() -> None:
    with pytest.raises(UsageError, match="--batch"):
        Predictor(build_network(SPEC), 0)


def test_saved_and_loaded(classifier: Classifier, model_folder: Path, pictures: np.ndarray) -> None:
    for path in (model_folder, model_folder.parent, str(model_folder)):
        loaded = Classifier.load(path)
        assert loaded.description == classifier.description
        np.testing.assert_array_equal(loaded.predict(pictures), classifier.predict(pictures))
    contents = json.loads((model_folder / "model.json").read_text())
    assert contents["provenance"]["dataset"] == "pets.1@40-10"
    assert contents["provenance"]["weights"] == "ema"
    assert {"tensorflow", "keras", "numpy", "realmix-tf"} <= set(contents["versions"])
    weights = (model_folder / "weights.npz").read_bytes()
    assert contents["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    with np.load(model_folder / "weights.npz", allow_pickle=False) as archive:
        assert set(archive.files) == set(classifier.network.variables_by_name())


def test_the_same_weights_give_the_same_file(classifier: Classifier, tmp_path: Path) -> None:
    for name in "ab":
        classifier.save(tmp_path / name)
    for file in ("weights.npz", "model.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def reseal(folder: Path) -> None:
    """Makes model.json name the weights that are there, as an attacker would."""
    contents = json.loads((folder / "model.json").read_text())
    data = (folder / "weights.npz").read_bytes()
    contents["weights_sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "model.json").write_text(json.dumps(contents))


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], Any], **save: Any) -> None:
    with np.load(folder / "weights.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    change(arrays)
    np.savez(folder / "weights.npz", **arrays)
    reseal(folder)


def test_other_bytes_than_described(model_folder: Path) -> None:
    path = model_folder / "weights.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="SHA-256"):
        Classifier.load(model_folder)


@pytest.mark.parametrize("keep", [0, 10, 1000, -1])
def test_truncated_weights(model_folder: Path, keep: int) -> None:
    path = model_folder / "weights.npz"
    path.write_bytes(path.read_bytes()[:keep])
    reseal(model_folder)
    with pytest.raises(CheckpointError, match="weights"):
        Classifier.load(model_folder)


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.path,))


def test_nothing_is_unpickled(model_folder: Path, tmp_path: Path) -> None:
    trap = str(tmp_path / "trap")
    path = model_folder / "weights.npz"

    def put(arrays: dict[str, Any]) -> None:
        arrays["head/bias"] = np.array([Touch(trap)], object)

    rewrite(model_folder, put)
    with pytest.raises(CheckpointError, match="not numeric"):
        Classifier.load(model_folder)
    path.write_bytes(pickle.dumps(Touch(trap)))
    reseal(model_folder)
    with pytest.raises(CheckpointError):
        Classifier.load(model_folder)
    assert not os.path.exists(trap)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda a: a.update({"head/bias": np.zeros(5, np.float32)}), "shape.*head/bias"),
        (lambda a: a.update({"head/bias": np.zeros(4)}), "float64.*head/bias"),
        (lambda a: a.update({"head/bias": np.full(4, np.nan, np.float32)}), "finite.*head/bias"),
        (lambda a: a.pop("head/bias"), "lack.*head/bias"),
        (lambda a: a.update({"extra": np.zeros(4, np.float32)}), "no such variable.*extra"),
        (lambda a: a.update({"../../x": np.zeros(4, np.float32)}), "no such variable"),
        (lambda a: a.update({"text": np.array(["a"])}), "not numeric"),
        (lambda a: a.clear(), "asks for more"),
    ],
)
def test_wrong_weights(model_folder: Path, change: Any, text: str) -> None:
    rewrite(model_folder, change)
    before = sorted(str(p) for p in model_folder.parent.parent.rglob("*"))
    with pytest.raises(CheckpointError, match=text):
        Classifier.load(model_folder)
    assert sorted(str(p) for p in model_folder.parent.parent.rglob("*")) == before


def npy_header(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (118 - 1 - len(text)) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        npy_header("(1000000000000,)"),
        npy_header("(-1,)"),
        npy_header("(4,)") + bytes(20),
        npy_header("(__import__('os').getpid(),)"),
        b"\x93NUMPY\x03\x00" + bytes(100),
        b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(100),
        b"not an array",
        b"",
    ],
)
def test_lying_array_headers(model_folder: Path, content: bytes) -> None:
    with zipfile.ZipFile(model_folder / "weights.npz", "w") as archive:
        archive.writestr("head/bias.npy", content)
    reseal(model_folder)
    with pytest.raises(CheckpointError):
        Classifier.load(model_folder)


def test_compressed_weights_are_no_way_to_fill_the_memory(model_folder: Path) -> None:
    with zipfile.ZipFile(model_folder / "weights.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        buffer = io.BytesIO()
        np.save(buffer, np.zeros(1 << 20, np.float32))
        archive.writestr("head/kernel.npy", buffer.getvalue())
    reseal(model_folder)
    with pytest.raises(CheckpointError, match="compressed"):
        Classifier.load(model_folder)


@pytest.mark.parametrize(
    "change",
    [
        {"arch": "resnet", "filters": 4096, "repeat": 64, "scales": 2},
        {"arch": "shake", "filters": 2048, "scales": 1},
        {"arch": "small", "filters": 4096},
        {"arch": "cnn13", "height": 64, "width": 64, "filters": 4096},
        {"arch": "resnet18", "filters": 1024},
        {"arch": "resnet50", "filters": 1024},
        {"arch": "resnet50_imagenet", "height": 64, "width": 64, "filters": 1024},
        {"arch": "keras:ConvNeXtXLarge", "height": 32, "width": 32, "filters": 0},
    ],
    ids=lambda change: change["arch"],
)
def test_a_small_file_cannot_ask_for_a_huge_network(
    model_folder: Path, change: dict[str, Any]
) -> None:
    path = model_folder / "model.json"
    contents = json.loads(path.read_text())
    contents["spec"] |= change
    path.write_text(json.dumps(contents))
    with pytest.raises(CheckpointError, match="asks for more"):
        Classifier.load(model_folder)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c.update(schema=2), "schema 2"),
        (lambda c: c.update(spec=[]), "description"),
        (lambda c: c["spec"].update(num_classes="4"), "num_classes"),
        (lambda c: c["spec"].update(mean=[float("nan")]), "finite"),
        (lambda c: c["spec"].update(extra=1), "expected fields"),
        (lambda c: c.update(classes=["a", "b"]), "names 2 classes"),
        (lambda c: c.update(classes=[*"abc", "a"]), "two classes"),
        (lambda c: c.update(classes=[*"abc", 4]), "usable name"),
        (lambda c: c.update(classes=[*"abc", ["d"]]), "usable name"),
        (lambda c: c.update(classes=[*"abc", "x" * 5000]), "usable name"),
        (lambda c: c.update(classes="abcd"), "no list"),
        (lambda c: c.update(preprocessing=None), "preprocessing"),
        (lambda c: c.update(preprocessing={"channels": 1}), "1 channels"),
        (lambda c: c.update(preprocessing={"resize": {"a": 1}}), "unusable"),
        (lambda c: c["preprocessing"].update(resize="crop"), "resized by 'crop'"),
        (lambda c: c["preprocessing"].update(background=[1]), "background"),
        (lambda c: c["preprocessing"].update(background=[0, 0, 999]), "background"),
        (lambda c: c["provenance"].update(weights="both"), "both"),
        (lambda c: c.pop("weights_sha256"), "weights_sha256"),
    ],
)
def test_unusable_descriptions(model_folder: Path, change: Any, text: str) -> None:
    path = model_folder / "model.json"
    contents = json.loads(path.read_text())
    change(contents)
    path.write_text(json.dumps(contents))
    with pytest.raises(CheckpointError, match=text) as caught:
        Classifier.load(model_folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "null", "[1]", "[" * 100_000, "1" * 10_000])
def test_json_that_is_no_description(model_folder: Path, text: str) -> None:
    (model_folder / "model.json").write_text(text)
    with pytest.raises(CheckpointError):
        Classifier.load(model_folder)


def test_huge_json_is_not_read(model_folder: Path) -> None:
    with open(model_folder / "model.json", "wb") as file:
        file.truncate(model_file._MAX_JSON_BYTES + 1)
    with pytest.raises(CheckpointError, match="larger than"):
        Classifier.load(model_folder)


def test_pipes_are_not_opened(model_folder: Path) -> None:
    (model_folder / "weights.npz").unlink()
    os.mkfifo(model_folder / "weights.npz")
    with pytest.raises(CheckpointError, match="missing"):
        Classifier.load(model_folder)


@pytest.fixture
def run_folder(tmp_path: Path, description: ModelDescription) -> Path:
    """A run with two checkpoints and no exported model."""
    run = tmp_path / "RealMix_seed1"
    network = build_network(SPEC)
    for images in (640, 1280):
        raw, average = random_weights(images), random_weights(images + 1)
        variables = {f"net/{name}": value for name, value in raw.items()}
        variables |= {f"ema/{name}": average[name] for name in network.trainable_by_name()}
        variables |= {"optimizer/rate": np.float32(1), "engine/skipped": np.int64(0)}
        checkpoint.save(run / "tf", images, variables, {})
    (run / "args").mkdir()
    (run / "args" / "args.json").write_text(json.dumps({"model": description.to_json()}))
    return run


def test_checkpoints(run_folder: Path, pictures: np.ndarray) -> None:
    prefix = run_folder / "tf" / "model.ckpt-00000640"
    raw, average = random_weights(640), random_weights(641)
    loaded = Classifier.load(prefix, "raw")
    for name, variable in loaded.network.variables_by_name().items():
        np.testing.assert_array_equal(variable.numpy(), raw[name])
    ema = Classifier.load(str(prefix) + ".index")
    trainable = ema.network.trainable_by_name()
    for name, variable in ema.network.variables_by_name().items():
        expected = average if name in trainable else raw
        np.testing.assert_array_equal(variable.numpy(), expected[name])
    assert ema.provenance == {"dataset": "pets.1@40-10", "images": 640, "weights": "ema"}
    assert ema.classes == CLASSES
    assert ema.predict(pictures).shape == (40, 4)


def test_raw_weights_of_an_exported_model(
    run_folder: Path, classifier: Classifier, description: ModelDescription
) -> None:
    classifier.save(run_folder / "model")
    for path in (run_folder, run_folder / "model"):
        with pytest.raises(UsageError, match=r"averaged.*tf/model.ckpt-00001280"):
            Classifier.load(path, "raw")
    bare = run_folder.parent / "pets"
    classifier.save(bare)
    with pytest.raises(UsageError, match=r"averaged.*…/tf/model.ckpt-<images>"):
        Classifier.load(bare, "raw")
    raw = ModelDescription(SPEC, CLASSES, {}, {**description.provenance, "weights": "raw"})
    Classifier.create(raw, random_weights(8)).save(bare)
    for weights in ("raw", "ema"):
        assert Classifier.load(bare, weights).provenance["weights"] == "raw"


def test_unusable_checkpoints(run_folder: Path) -> None:
    tf_folder = run_folder / "tf"
    with pytest.raises(CheckpointError, match=r"not exported a model yet.*ckpt-00001280"):
        Classifier.load(run_folder)
    with pytest.raises(CheckpointError, match=r"no such complete checkpoint.*ckpt-00000640"):
        Classifier.load(tf_folder / "model.ckpt-00000064")
    data = tf_folder / "model.ckpt-00000640.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="damaged"):
        Classifier.load(tf_folder / "model.ckpt-00000640")
    (run_folder / "args" / "args.json").write_text("{}")
    with pytest.raises(CheckpointError, match="do not describe a model"):
        Classifier.load(tf_folder / "model.ckpt-00001280")


def test_a_checkpoint_of_another_network(run_folder: Path) -> None:
    path = run_folder / "args" / "args.json"
    contents = json.loads(path.read_text())
    contents["model"]["spec"]["filters"] = 2
    path.write_text(json.dumps(contents))
    with pytest.raises(CheckpointError, match=r"shape .* the network .*conv0/"):
        Classifier.load(run_folder / "tf" / "model.ckpt-00000640")


@pytest.mark.parametrize("name", ["", "nothing", "tf", "file.h5"])
def test_what_is_no_model(tmp_path: Path, name: str) -> None:
    (tmp_path / "tf").mkdir()
    (tmp_path / "file.h5").write_bytes(b"\x89HDF")
    with pytest.raises(CheckpointError):
        Classifier.load(tmp_path / name)
