"""The description of a network: what it accepts, and that it distrusts what it reads."""

from __future__ import annotations

import json

import pytest

from realmix_tf.errors import CheckpointError, UsageError
from realmix_tf.nets.spec import NetworkSpec


def test_a_description_survives_json():
    spec = NetworkSpec("small", 3, 8, 9, 3, 16, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    assert NetworkSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_description_of_an_earlier_version_is_read_and_written_as_it_was():
    earlier = {
        "arch": "resnet",
        "num_classes": 10,
        "height": 32,
        "width": 32,
        "channels": 3,
        "filters": 32,
        "repeat": 4,
        "scales": 0,
        "bn_decay": 0.999,
        "mean": [0.0],
        "std": [1.0],
    }
    assert NetworkSpec.from_json(earlier) == NetworkSpec()
    assert json.loads(json.dumps(NetworkSpec().to_json())) == earlier
    changed = NetworkSpec(dropout=0.5)
    assert changed.to_json()["dropout"] == 0.5
    assert NetworkSpec.from_json(changed.to_json()) == changed


@pytest.mark.parametrize(
    "change",
    [
        {"arch": "vit"},
        {"num_classes": 1},
        {"height": 3},
        {"channels": 0},
        {"filters": 0},
        {"filters": 1.5},
        {"repeat": 65},
        {"scales": -1},
        {"scales": 7},
        {"bn_decay": 1.0},
        {"bn_decay": float("nan")},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"mean": (0.0, 0.0)},
        {"mean": (float("nan"),)},
        {"std": (0.0,)},
        {"std": (float("inf"),)},
    ],
    ids=str,
)
def test_what_cannot_be_built_is_a_usage_error(change):
    with pytest.raises(UsageError):
        NetworkSpec(**change)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "resnet",
        {},
        {**NetworkSpec().to_json(), "more": 1},
        {k: v for k, v in NetworkSpec().to_json().items() if k != "std"},
    ],
    ids=str,
)
def test_json_of_another_form_is_refused(value):
    with pytest.raises(CheckpointError):
        NetworkSpec.from_json(value)


@pytest.mark.parametrize(
    "change",
    [
        {"arch": ["resnet"]},
        {"arch": None},
        {"num_classes": "10"},
        {"num_classes": 10.0},
        {"num_classes": True},
        {"repeat": True},
        {"height": 10**9},
        {"filters": 10**30},
        {"bn_decay": "0.9"},
        {"bn_decay": None},
        {"dropout": "0.5"},
        {"dropout": None},
        {"mean": None},
        {"mean": 0.0},
        {"mean": []},
        {"mean": ["x"]},
        {"mean": [[0.0]]},
        {"mean": [10**400]},
        {"std": [-1.0]},
        {"std": [float("nan")]},
        {"std": {"a": 1}},
    ],
    ids=lambda change: f"{next(iter(change))}={str(next(iter(change.values())))[:12]}",
)
def test_hostile_values_are_refused(change):
    with pytest.raises(CheckpointError):
        NetworkSpec.from_json({**NetworkSpec().to_json(), **change})
