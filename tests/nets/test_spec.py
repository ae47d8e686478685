"""The description of a network: what it accepts, and that it distrusts what it reads."""

from __future__ import annotations

import json

import pytest

from realmix_tf.errors import CheckpointError, UsageError
from realmix_tf.nets import spec as spec_module
from realmix_tf.nets.registry import ARCHITECTURES
from realmix_tf.nets.spec import NetworkOptions, NetworkSpec


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
        {"filters": -1},
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
    ("arch", "filters"),
    [
        ("resnet", 32),
        ("small", 32),
        ("cnn13", 32),
        ("shake", 32),
        ("resnet18", 64),
        ("resnet50", 64),
        ("keras:VGG16", 0),
    ],
)
def test_an_architecture_has_a_width_of_its_own(arch, filters):
    assert NetworkSpec(arch).filters == filters
    assert NetworkSpec(arch).to_json()["filters"] == filters
    assert NetworkOptions(arch=arch).changed() == ({} if arch == "resnet" else {"arch": arch})


def test_options_that_are_at_an_architecture_s_defaults_do_not_count_as_changed():
    assert NetworkOptions(filters=32).changed() == {}
    assert NetworkOptions(filters=64).changed() == {"filters": 64}
    assert NetworkOptions(arch="resnet18", filters=64).changed() == {"arch": "resnet18"}
    options = NetworkOptions(arch="resnet18", filters=32, dropout=0.5)
    assert options.changed() == {"arch": "resnet18", "filters": 32, "dropout": 0.5}


@pytest.mark.parametrize(
    ("arch", "nearest"),
    [
        ("resnet19", "--arch=resnet18"),
        ("ResNet", "--arch=resnet"),
        ("shakeshake", "--arch=shake"),
        ("keras:mobilnetv2", "--arch=keras:MobileNetV2"),
        ("MobileNetV2", "--arch=keras:MobileNetV2"),
        ("keras:EfficientNet-B3", "--arch=keras:EfficientNetB3"),
        ("vit", "resnet, small, cnn13, shake, resnet18, resnet50, resnet50_imagenet, keras:NAME"),
    ],
)
def test_a_misspelt_architecture_names_the_nearest(arch, nearest):
    for kind in (NetworkOptions, NetworkSpec):
        with pytest.raises(UsageError, match=f"--arch.*; try: {nearest}$"):
            kind(arch=arch)


def test_models_of_keras_are_found_in_any_case_and_described_in_one():
    for typed in ("keras:mobilenetv2", "keras:MOBILENETV2", "keras:MobileNetV2"):
        assert NetworkOptions(arch=typed).arch == NetworkSpec(typed).arch == "keras:MobileNetV2"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"arch": "cnn13", "scales": 3}, r"cnn13 has no choice of scales \(--scales\)"),
        ({"arch": "resnet18", "repeat": 2}, r"\(--repeat\)"),
        ({"arch": "keras:VGG16", "filters": 64}, r"VGG16 has no choice of filters \(--filters\)"),
        (
            {"arch": "resnet", "pretrained": True},
            r"ImageNet weights for resnet \(--pretrained\)",
        ),
        ({"arch": "keras:VGG16", "pretrained": True, "mean": (0.5,)}, r"\(--whiten\)"),
        ({"arch": "keras:VGG16", "pretrained": 1}, "truth value"),
        ({"arch": "cnn13", "width": 11}, r"cnn13 needs images of at least 12×12 pixels.*32×11"),
        ({"arch": "resnet50_imagenet"}, r"at least 64×64.*--arch=resnet50,"),
        ({"arch": "keras:Xception"}, "at least 71×71 pixels, these have 32×32"),
        ({"arch": "shake", "scales": 7}, r"7 scales do not fit.*--scales"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_an_architecture_would_ignore_or_cannot_do_names_the_flag(change, text):
    with pytest.raises(UsageError, match=text):
        NetworkSpec(**change)


@pytest.mark.parametrize("change", [{"bn_decay": 1.5}, {"scales": 11}, {"dropout": 1.0}])
def test_options_out_of_range_are_refused_before_there_are_images(change):
    with pytest.raises(UsageError, match=f"--{next(iter(change))}"):
        NetworkOptions(**change)


def test_a_description_of_an_unknown_network_says_what_is_missing():
    for arch, text in (
        ("mine", r"'mine', which is not known here.*register_network\('mine', builder\)"),
        ("keras:New", "version of this package"),
    ):
        with pytest.raises(CheckpointError, match=text):
            NetworkSpec.from_json({**NetworkSpec().to_json(), "arch": arch})


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
        {"pretrained": 1},
        {"pretrained": "yes"},
        {"arch": "keras:" + "V" * 5000},
        {"arch": "keras:VGG16", "filters": 32},
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


def test_every_built_in_architecture_is_described():
    assert tuple(spec_module._BUILT_IN) == ARCHITECTURES
