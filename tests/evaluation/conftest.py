"""A small model with fixed weights and pictures for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_model import CLASSES, SPEC, random_weights

from realmix_tf.evaluation.classifier import Classifier
from realmix_tf.evaluation.model_file import ModelDescription


@pytest.fixture(scope="session")
def description() -> ModelDescription:
    return ModelDescription(
        SPEC,
        CLASSES,
        {"resize": "stretch", "background": [255, 255, 255], "channels": 3},
        {"dataset": "pets.1@40-10", "images": 640, "weights": "ema"},
    )


@pytest.fixture(scope="session")
def classifier(description: ModelDescription) -> Classifier:
    return Classifier.create(description, random_weights(8), batch=16)


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    draw = np.random.default_rng(5)
    colors = draw.integers(0, 200, (40, 1, 1, 3))
    return (colors + draw.integers(0, 56, (40, 8, 8, 3))).astype(np.uint8)


@pytest.fixture
def model_folder(classifier: Classifier, tmp_path: Path) -> Path:
    classifier.save(tmp_path / "run" / "model")
    return tmp_path / "run" / "model"
