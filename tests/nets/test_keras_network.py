"""Keras models as networks: those of keras.applications, and own ones."""

from __future__ import annotations

import re
import socket
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from plain import SEED

from realmix_tf.errors import CheckpointError, ResourceError, UsageError
from realmix_tf.nets import pretrained, registry
from realmix_tf.nets.applications import APPLICATIONS
from realmix_tf.nets.build import build_network
from realmix_tf.nets.keras_model import KerasNetwork
from realmix_tf.nets.registry import register_network
from realmix_tf.nets.spec import NetworkSpec

SMALLEST = NetworkSpec("keras:MobileNetV3Small", 4, 32, 33, bn_decay=0.9)


def images_for(spec: NetworkSpec, count: int = 6, seed: int = 1) -> np.ndarray:
    shape = (count, spec.height, spec.width, spec.channels)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def snapshot(network) -> dict[str, np.ndarray]:
    return {n: v.numpy() for n, v in network.variables_by_name().items()}


def randomize(model: keras.Model) -> None:
    random = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name == "moving_variance":
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
        elif weight.name in ("moving_mean", "beta", "bias"):
            weight.assign(0.1 * random.normal(size=weight.shape))


def near(found, wanted, tolerance: float) -> None:
    wanted = np.asarray(wanted, np.float64)
    assert np.abs(np.asarray(found, np.float64) - wanted).max() < tolerance * np.abs(wanted).max()


@pytest.fixture
def own():
    """Registers builders for one test."""
    before = dict(registry._BUILDERS)

    def add(builder, name: str = "mine", **changed) -> NetworkSpec:
        register_network(name, builder)
        return NetworkSpec(name, **{"num_classes": 3, "height": 9, "width": 8, **changed})

    yield add
    registry._BUILDERS.clear()
    registry._BUILDERS.update(before)


# --- keras.applications ------------------------------------------------------------------------


def test_the_table_lists_the_models_of_keras_applications():
    assert {n for n in dir(keras.applications) if n[0].isupper()} == set(APPLICATIONS)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_keras_refuses_smaller_images_than_the_table_says(name):
    below = APPLICATIONS[name].smallest - 1
    spec = NetworkSpec(f"keras:{name}", height=below + 1, width=below + 1)
    object.__setattr__(spec, "height", below)
    with pytest.raises(UsageError, match=f"{below + 1}x{below + 1}"):
        pretrained.application_model(spec)
    with pytest.raises(UsageError, match=rf"at least {below + 1}×{below + 1} pixels.*--arch"):
        NetworkSpec(f"keras:{name}", height=below, width=below + 1)


@pytest.fixture(scope="module")
def smallest() -> KerasNetwork:
    return build_network(SMALLEST, seed=1)


def test_values_are_those_of_keras(smallest):
    original = pretrained.application_model(SMALLEST)
    randomize(original)
    smallest._take_over(original)
    images = images_for(SMALLEST)
    pixels = (images + 1) * 127.5
    assert smallest.feature_map_shape == original.output_shape[1:]
    near(smallest(images).feature_map, original(pixels, training=False), 1e-5)
    found = smallest(images, training=True).feature_map
    near(found, original(pixels, training=True), 1e-3)


def test_statistics_move_once_and_only_when_asked(smallest):
    images = images_for(SMALLEST)
    before = snapshot(smallest)
    for mode in ({"training": True}, {"training": False}, {"update_stats": True}):
        smallest(images, **mode)
        for name, value in snapshot(smallest).items():
            np.testing.assert_array_equal(value, before[name], err_msg=name)
    smallest(images, training=True, update_stats=True)
    after = snapshot(smallest)
    moved = {name for name, value in after.items() if (value != before[name]).any()}
    assert moved == {name for name in before if "/moving_" in name}
    stem = np.asarray(tf.nn.conv2d(images, before["body/conv/kernel"], 2, "SAME"), np.float64)
    for kind, batch in (("mean", stem.mean((0, 1, 2))), ("variance", stem.var((0, 1, 2), ddof=1))):
        name = f"body/conv_bn/moving_{kind}"
        np.testing.assert_allclose(after[name], 0.9 * before[name] + 0.1 * batch, rtol=1e-4)


def test_the_weights_are_those_of_the_seed_whatever_was_built_before(smallest):
    first = build_network(SMALLEST, "mixed_bfloat16", seed=5)
    other = build_network(SMALLEST, seed=6)
    keras.layers.Conv2D(3, 3)(tf.zeros([1, 4, 4, 2]))
    again = build_network(SMALLEST, seed=5)
    assert list(snapshot(first)) == list(snapshot(again)) == list(snapshot(smallest))
    kernels = 0
    for name, value in snapshot(first).items():
        np.testing.assert_array_equal(again.variables_by_name()[name], value, err_msg=name)
        if name.endswith("/kernel"):
            kernels += 1
            assert (other.variables_by_name()[name].numpy() != value).any()
    assert kernels == 53
    assert all(v.dtype == "float32" for v in first.variables_by_name().values())


def test_named_variables_are_all_variables_once_and_no_name_counts_the_process(smallest):
    named = smallest.variables_by_name()
    assert {id(v) for v in named.values()} == {id(v) for v in smallest.variables}
    assert len(named) == len(smallest.variables)
    assert [n for n in named if n not in smallest.trainable_by_name()] == [
        n for n in named if "/moving_" in n
    ]
    assert sum(int(np.prod(v.shape)) for v in named.values()) >= SMALLEST.fewest_weights()


def test_bfloat16_is_close_to_float32(smallest):
    short = build_network(SMALLEST, "mixed_bfloat16", seed=1)
    for name, variable in short.variables_by_name().items():
        variable.assign(smallest.variables_by_name()[name])
    images = images_for(SMALLEST)
    wanted, found = smallest(images), short(images)
    assert found.feature_map.dtype == tf.bfloat16
    assert found.logits.dtype == found.features.dtype == tf.float32
    assert np.abs(wanted.logits - found.logits).max() < 0.2 * np.std(wanted.logits)


def test_statistics_can_be_shared(smallest):
    teacher = build_network(SMALLEST, seed=9)
    teacher.share_statistics(smallest)
    together = [*smallest.variables, *teacher.variables]
    assert len({id(v) for v in together}) == len(together)
    assert list(teacher.variables_by_name()) == list(smallest.variables_by_name())
    assert set(teacher.trainable_by_name()) == set(smallest.trainable_by_name())
    before = teacher(images_for(SMALLEST)).logits
    smallest(images_for(SMALLEST, seed=3), training=True, update_stats=True)
    assert (before.numpy() != teacher(images_for(SMALLEST)).logits.numpy()).any()


def test_a_model_s_own_dropouts_follow_the_seed_and_keep_no_state():
    spec = NetworkSpec("keras:EfficientNetB0", 4, 32, 32, 1)
    network = build_network(spec)
    assert network.stochastic
    images = images_for(spec)
    with pytest.raises(ValueError, match="pass a seed"):
        network(images, training=True)
    one, same, other = (
        network(images, training=True, seed=tf.constant(seed)).features.numpy()
        for seed in ((1, 2), (1, 2), (1, 3))
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    network._require_contract()


# --- Weights of ImageNet -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ResNet50", "DenseNet121", "MobileNetV2", "EfficientNetB0"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_reach_a_pretrained_model_as_it_was_trained(name, channels):
    spec = NetworkSpec(f"keras:{name}", channels=channels, pretrained=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, channels)).astype(np.float32)
    module = __import__(getattr(keras.applications, name).__module__, fromlist=["x"])
    wanted = module.preprocess_input(np.repeat(pixels, 3 // channels, -1))
    found = pretrained.preparation(spec)(tf.constant(pixels / 127.5 - 1))
    np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("name", ["EfficientNetB0", "MobileNetV3Small"])
def test_a_pretrained_network_computes_what_keras_computes_with_these_weights(name, monkeypatch):
    spec = NetworkSpec(f"keras:{name}", 3, 32, 32, 1, pretrained=True)
    models = []

    def remembered(*arguments, build=pretrained.application_model):
        models.append(build(*arguments))
        if len(models) == 2:  # as if its random weights were those in the file
            randomize(models[1])
            for weight in models[1].weights:
                if weight.path in ("normalization/mean", "normalization_1/mean"):
                    weight.assign([0.4, 0.5, 0.6])
        return models[-1]

    monkeypatch.setattr(pretrained, "application_model", remembered)
    monkeypatch.setattr(pretrained, "_reachable", lambda origin: True)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *a, **k: "weights")
    monkeypatch.setattr(keras.Model, "load_weights", lambda *a, **k: None)
    network = build_network(spec, seed=1)
    assert len(models) == 2
    images = images_for(spec)
    for layer in models[1].layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    pixels = np.repeat((images + 1) * 127.5, 3, -1)
    near(network(images).feature_map, models[1](pixels, training=False), 1e-4)

    # A model file needs no weights of ImageNet: all of them are in it.
    loaded = build_network(spec, seed=2, load_pretrained=False)
    assert len(models) == 3
    for variable_name, value in snapshot(network).items():
        loaded.variables_by_name()[variable_name].assign(value)
    np.testing.assert_array_equal(loaded(images).logits, network(images).logits)


@pytest.mark.parametrize("how", ["refused", "hanging"])
def test_no_network_is_told_at_once_with_the_file_and_its_place(how, monkeypatch, tmp_path):
    def connect(*arguments, **options):
        if how == "hanging":
            time.sleep(20)
        raise OSError("no route to host")

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(pretrained, "_PROBE_SECONDS", 0.3)
    monkeypatch.setattr(pretrained, "_cached", lambda name, folder: tmp_path / folder / name)
    spec = NetworkSpec("keras:MobileNetV3Small", pretrained=True)
    with pytest.raises(ResourceError) as caught:
        pretrained.imagenet_model(spec)
    assert caught.value.exit_code == 4
    text = str(caught.value)
    assert f"{tmp_path}/models/weights_mobilenet_v3_small" in text
    assert re.search(r"try: put https://storage\.\S+\.h5 there, or leave out --pretrained", text)


def test_a_download_that_fails_is_told_the_same_way(monkeypatch, tmp_path):
    def fail(*arguments, **options):
        raise Exception("URL fetch failure on …: 404 -- Not Found")

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", fail)
    monkeypatch.setattr(pretrained, "_reachable", lambda origin: True)
    with pytest.raises(ResourceError, match=r"404.*put https"):
        pretrained.imagenet_model(NetworkSpec("keras:MobileNetV3Small", pretrained=True))


# --- Own networks ------------------------------------------------------------------------------


class StochasticDepth(keras.layers.Layer):
    """As several packages have it, with a stateful generator."""

    def __init__(self, drop_path_rate, **options):
        super().__init__(**options)
        self.drop_path_rate = drop_path_rate
        self.generator = keras.random.SeedGenerator()

    def call(self, x, training=False):
        return keras.random.dropout(x, self.drop_path_rate, seed=self.generator) if training else x

    def get_config(self):
        return {**super().get_config(), "drop_path_rate": self.drop_path_rate}


class Nested(keras.layers.Layer):
    """Layers inside a layer, one of them without a seed of its own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.inner = keras.layers.Dense(4)
        self.scale = None

    def build(self, shape):
        self.inner.build(shape)
        self.scale = self.add_weight(shape=(4,), initializer="ones")

    def call(self, x):
        return self.inner(x) * self.scale

    def compute_output_shape(self, shape):
        return (*shape[:-1], 4)


def mixed(spec: NetworkSpec) -> keras.Model:
    """A bit of everything."""
    layers = keras.layers
    inputs = keras.Input((spec.height, spec.width, spec.channels))
    x = layers.Conv2D(spec.filters, 3, padding="same", use_bias=False)(inputs)
    x = layers.BatchNormalization(scale=False, epsilon=1e-2)(x)
    x = layers.SpatialDropout2D(0.3)(x)
    inner = keras.Sequential([layers.Conv2D(4, 1), layers.BatchNormalization(), layers.ReLU()])
    x = inner(x)
    x = x + StochasticDepth(0.5)(layers.SeparableConv2D(4, 3, padding="same")(x))
    x = layers.LayerNormalization()(x)
    x = layers.GaussianNoise(0.1)(layers.GaussianDropout(0.2)(x))
    x = Nested()(x)
    frozen = layers.BatchNormalization(trainable=False)
    return keras.Model(inputs, layers.Dropout(0.25)(frozen(x)))


def test_an_own_network_keeps_the_contract(own):
    spec = own(mixed, filters=5, bn_decay=0.5)
    network = build_network(spec, seed=1)
    assert network.feature_map_shape == (9, 8, 4)
    assert network.stochastic
    assert list(network.variables_by_name()) == [
        "body/conv2d/kernel",
        "body/batch_normalization/beta",
        "body/batch_normalization/moving_mean",
        "body/batch_normalization/moving_variance",
        "body/sequential/conv2d/kernel",
        "body/sequential/conv2d/bias",
        "body/sequential/batch_normalization/gamma",
        "body/sequential/batch_normalization/beta",
        "body/sequential/batch_normalization/moving_mean",
        "body/sequential/batch_normalization/moving_variance",
        "body/separable_conv2d/depthwise/kernel",
        "body/separable_conv2d/pointwise/kernel",
        "body/separable_conv2d/bias",
        "body/layer_normalization/gamma",
        "body/layer_normalization/beta",
        "body/nested/dense/kernel",
        "body/nested/dense/bias",
        "body/nested/scale",
        "body/batch_normalization_1/gamma",
        "body/batch_normalization_1/beta",
        "body/batch_normalization_1/moving_mean",
        "body/batch_normalization_1/moving_variance",
        "head/kernel",
        "head/bias",
    ]
    first = snapshot(network)
    again, other = build_network(spec, seed=1), build_network(spec, seed=2)
    for name, value in first.items():
        np.testing.assert_array_equal(again.variables_by_name()[name], value, err_msg=name)
        if name.endswith("/kernel"):
            assert (other.variables_by_name()[name].numpy() != value).all()

    images = images_for(spec, 50)
    one, same, another = (
        network(images, training=True, seed=tf.constant(seed)).feature_map.numpy()
        for seed in (SEED, SEED, (0, 0))
    )
    np.testing.assert_array_equal(one, same)
    assert (one != another).any()
    assert snapshot(network).keys() == first.keys()
    network(images, training=True, update_stats=True, seed=SEED)
    moved = {n for n, value in snapshot(network).items() if (value != first[n]).any()}
    # The frozen normalisation stays as it is.
    assert moved == {n for n in first if "/moving_" in n and "normalization_1" not in n}


def test_sharing_statistics_shares_what_is_frozen(own):
    def build(spec):
        inputs = keras.Input((spec.height, spec.width, spec.channels))
        x = keras.layers.Conv2D(4, 3, trainable=False)(inputs)
        return keras.Model(inputs, keras.layers.BatchNormalization(trainable=False)(x))

    spec = own(build)
    student, teacher = build_network(spec, seed=1), build_network(spec, seed=2)
    teacher.share_statistics(student)
    shared = {n for n in student.variables_by_name() if n not in student.trainable_by_name()}
    assert {"body/conv2d/kernel", "body/batch_normalization/gamma"} < shared
    for name in student.variables_by_name():
        one, other = student.variables_by_name()[name], teacher.variables_by_name()[name]
        assert (one is other) == (name in shared), name
    student.variables_by_name()["body/conv2d/kernel"].assign(tf.ones([3, 3, 3, 4]))
    images = images_for(spec)
    np.testing.assert_array_equal(teacher(images).features, student(images).features)


def test_noise_layers_do_what_keras_says(own):
    layers = keras.layers

    def noisy(*chosen):
        def build(spec):
            inputs = keras.Input((spec.height, spec.width, spec.channels))
            x = inputs
            for layer in chosen:
                x = layer(x)
            return keras.Model(inputs, x)

        return build

    def passed(*chosen) -> tuple[np.ndarray, np.ndarray]:
        spec = own(noisy(*chosen))
        images = 1.0 + images_for(spec, 400) ** 2
        network = build_network(spec)
        values = network(images, training=True, seed=SEED).feature_map.numpy()
        np.testing.assert_allclose(network(images).feature_map, images)
        return values / images, values - images

    share, _ = passed(layers.Dropout(0.25))
    assert set(np.unique(share.round(4))) == {0, np.float32(1 / 0.75).round(4)}
    assert abs((share == 0).mean() - 0.25) < 0.01
    share, _ = passed(layers.SpatialDropout2D(0.25))
    assert (np.ptp(share, axis=(1, 2)) < 1e-5).all()
    assert abs((share[:, 0, 0] == 0).mean() - 0.25) < 0.05
    share, _ = passed(StochasticDepth(0.25))
    assert (np.ptp(share, axis=(1, 2, 3)) < 1e-5).all()
    assert abs((share[:, 0, 0, 0] == 0).mean() - 0.25) < 0.08
    share, _ = passed(layers.Dropout(0.25, noise_shape=(1, None, None, None)))
    assert (np.ptp(share, axis=0) < 1e-5).all()
    share, _ = passed(layers.GaussianDropout(0.2))
    assert abs(share.std() - 0.5) < 0.01
    assert abs(share.mean() - 1) < 0.01
    _, difference = passed(layers.GaussianNoise(0.3))
    assert abs(difference.std() - 0.3) < 0.01


def test_features_without_a_map_and_a_sequential_model_will_do(own):
    def build(spec):
        return keras.Sequential(
            [
                keras.Input((spec.height, spec.width, spec.channels)),
                keras.layers.Flatten(),
                keras.layers.Dense(7),
                keras.layers.BatchNormalization(),
            ]
        )

    network = build_network(own(build), "mixed_bfloat16")
    output = network(images_for(network.spec), training=True, update_stats=True)
    assert network.feature_map_shape == (1, 1, 7)
    assert output.feature_map.shape == (6, 1, 1, 7)
    assert output.features.shape == (6, 7)
    mean, deviation = np.mean(output.features, 0), np.std(output.features, 0)
    np.testing.assert_allclose(mean, np.zeros(7), atol=0.02)
    np.testing.assert_allclose(deviation, np.ones(7), atol=0.05)


class Subclassed(keras.Model):
    def call(self, x):
        return x


class HidesNormalization(Nested):
    def __init__(self, **options):
        super().__init__(**options)
        self.inner = keras.layers.BatchNormalization()

    def call(self, x, training=False):
        return self.inner(x, training=training)

    def compute_output_shape(self, shape):
        return shape


class KeepsAList(keras.layers.Layer):
    def build(self, shape):
        self.weights_ = [self.add_weight(name=name, shape=(3,)) for name in "ab"]

    def call(self, x):
        return x * self.weights_[0] + self.weights_[1]


class Counts(keras.layers.Layer):
    def build(self, shape):
        self.count = self.add_weight(name="count", shape=(), dtype="int32", trainable=False)

    def call(self, x):
        return x


def _refused_models():
    layers = keras.layers

    def after(*chosen, size=(9, 8, 3)):
        return lambda spec: keras.Sequential([keras.Input(size), *chosen])

    return {
        "no model": (lambda spec: 3, "no Functional or Sequential"),
        "a subclass": (lambda spec: Subclassed(), "no Functional or Sequential"),
        "other images": (after(layers.ReLU(), size=(8, 8, 3)), "input shape"),
        "no input": (lambda spec: keras.Sequential([layers.ReLU()]), "input shape is none yet"),
        "a sequence": (after(layers.Reshape((72, 3))), "its output is"),
        "hidden normalisation": (after(HidesNormalization()), "changes a variable"),
        "augmentation": (after(layers.RandomFlip()), "changes a variable|no seed decides"),
        "a list of weights": (after(KeepsAList()), "keeps_a_list/a is in a list"),
        "a counter": (after(Counts()), "counts/count is int32"),
        "other axis": (after(layers.BatchNormalization(axis=1)), "last axis"),
    }


@pytest.mark.parametrize("name", _refused_models())
def test_a_model_that_cannot_keep_the_contract_is_refused_with_the_reason(own, name):
    builder, reason = _refused_models()[name]
    spec = own(builder)
    with pytest.raises(UsageError, match=rf"'mine' cannot be used: .*({reason})"):
        build_network(spec)


@pytest.mark.parametrize("name", ["resnet", "keras:mine", "Mine", "", "a b", "../x", None])
def test_an_own_network_needs_a_name_of_its_own(name):
    with pytest.raises(UsageError, match="cannot be called"):
        register_network(name, mixed)


def test_a_description_of_an_own_network_needs_the_same_registration(own):
    described = own(mixed, "elsewhere").to_json()
    registry._BUILDERS.clear()
    with pytest.raises(CheckpointError, match=r"'elsewhere'.*register_network\('elsewhere'"):
        NetworkSpec.from_json(described)
    with pytest.raises(UsageError, match="no architecture 'elsewhere'"):
        NetworkSpec("elsewhere")
