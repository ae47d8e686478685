"""How pictures were brought to a dataset's size is what models do to the pictures they classify."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_model import CLASSES, SPEC, random_weights

from data_tools.records.splits import SplitOptions, create_split
from data_tools.sources.folders import CustomOptions, build_custom
from realmix_tf import run
from realmix_tf.data.manifest import provenance, read_manifest, write_manifest
from realmix_tf.data.names import DatasetName
from realmix_tf.data.training_data import DataSettings, load_training_data
from realmix_tf.errors import DataError, UsageError
from realmix_tf.evaluation import inference
from realmix_tf.evaluation.classifier import Classifier
from realmix_tf.training.settings import TrainSettings


def build(folder: Path, name: str = "pets", **more) -> CustomOptions:
    random = np.random.RandomState(0)
    for part, count in (("train", 5), ("test", 2)):
        for class_name in CLASSES:
            (folder / part / class_name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                noise = random.randint(0, 256, (20, 60, 3)).astype(np.uint8)
                Image.fromarray(noise).save(folder / part / class_name / f"{i}.png")
    options = CustomOptions(
        name, folder / "data", folder / "train", folder / "test", size=(8, 8), workers=1, **more
    )
    build_custom(options)
    return options


def divide(folder: Path, *names: str) -> None:
    inputs = tuple(folder / "data" / f"{name}-train.tfrecord" for name in names)
    create_split(SplitOptions(folder / "data" / "SSL" / "pets", inputs, 8, seed=1))


@pytest.mark.process
@pytest.mark.parametrize("crop", ["center", "none"])
def test_a_model_sees_the_pixels_of_its_dataset(tmp_path, crop) -> None:
    options = build(tmp_path, crop=crop)
    manifest = read_manifest(options.data_dir / "pets-train.tfrecord")
    assert ("--crop=center" in manifest.provenance["command"]) == (crop == "center")
    divide(tmp_path, "pets")
    settings = DataSettings(DatasetName.parse("pets.1@8-4"), options.data_dir)
    data = load_training_data(settings)
    request = run.RunRequest("FixMatch", settings, TrainSettings())
    description = run._description(data, SPEC, request)
    assert description.preprocessing["resize"] == {"center": "center", "none": "stretch"}[crop]
    Classifier.create(description, random_weights(8), batch=16).save(tmp_path / "model")
    classifier = Classifier.load(tmp_path / "model")
    result = inference.classify([tmp_path / "test"], classifier)
    expected = classifier.predict(data.test.images())
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-6)
    other = description.preprocessing | {"resize": {"center": "stretch"}.get(data.resize, "center")}
    changed = dataclasses.replace(description, preprocessing=other)
    result = inference.classify(
        [tmp_path / "test"], Classifier.create(changed, random_weights(8), batch=16)
    )
    assert np.abs(result.probabilities - expected).max() > 1e-3


@pytest.mark.process
def test_sets_that_were_resized_differently_are_not_mixed(tmp_path) -> None:
    options = build(tmp_path, crop="center")
    build(tmp_path, "others")
    files = [options.data_dir / f"{name}-train.tfrecord" for name in ("pets", "others")]
    with pytest.raises(DataError, match=r"'stretch', of another by 'center'.*--crop"):
        provenance("x", parents=files)
    with pytest.raises(DataError, match="same --crop"):
        divide(tmp_path, "pets", "others")
    assert not list((options.data_dir / "SSL").glob("*.tfrecord"))
    test = options.data_dir / "pets-test.tfrecord"
    described = read_manifest(test)
    less = {k: v for k, v in described.provenance.items() if k != "resize"}
    write_manifest(test, dataclasses.replace(described, provenance=less))
    with pytest.raises(DataError, match=r"test set were resized by 'stretch'.*--crop"):
        load_training_data(
            DataSettings(DatasetName.parse("pets-4"), options.data_dir, need_unlabeled=False)
        )
    more = {**less, "resize": ["center"]}
    write_manifest(test, dataclasses.replace(described, provenance=more))
    with pytest.raises(DataError, match="resize is none of"):
        read_manifest(test)
    with pytest.raises(UsageError, match="center"):
        build_custom(dataclasses.replace(options, crop="top", overwrite=True))
