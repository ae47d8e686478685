"""Networks against the published counts and against the plainly written ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from plain import SEED, PlainNetwork, randomize, shake_coefficients

from realmix_tf.errors import UsageError
from realmix_tf.nets import layers
from realmix_tf.nets.build import build_network
from realmix_tf.nets.layers import BatchNorm, Biased, Conv2D
from realmix_tf.nets.shake import shake
from realmix_tf.nets.spec import NetworkSpec

SPECS = {
    "resnet": NetworkSpec(num_classes=4, height=12, width=12, filters=6, repeat=2, scales=3),
    # 16 filters in the first group: its first unit has no 1×1 in the shortcut.
    "resnet without shortcut": NetworkSpec(
        num_classes=3, height=9, width=11, filters=16, repeat=1, scales=2
    ),
    "small": NetworkSpec("small", num_classes=5, height=8, width=8, channels=1, filters=6),
    "whitened": NetworkSpec(
        "small", 3, 8, 8, filters=4, mean=(0.1, -0.2, 0.3), std=(0.5, 0.6, 0.7)
    ),
    "cnn13": NetworkSpec("cnn13", 4, 13, 14, 1, 4),
    "shake": NetworkSpec("shake", 4, 9, 10, 3, 6, repeat=2, scales=2),
    "shake without shortcut": NetworkSpec("shake", 3, 8, 8, 1, 16, repeat=1, scales=1),
    "resnet18": NetworkSpec("resnet18", 4, 9, 8, 1, 3),
    "resnet50": NetworkSpec("resnet50", 4, 8, 9, 3, 2),
    "resnet50_imagenet": NetworkSpec("resnet50_imagenet", 4, 64, 65, 3, 2),
}
every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
# Without what only adds another stem or another shortcut.
TYPICAL = {
    n: s for n, s in SPECS.items() if n not in ("resnet50_imagenet", "shake without shortcut")
}
each_spec = pytest.mark.parametrize("spec", TYPICAL.values(), ids=TYPICAL.keys())


def images_for(spec: NetworkSpec, count: int = 10, seed: int = 1) -> np.ndarray:
    shape = (count, spec.height, spec.width, spec.channels)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def snapshot(network) -> dict[str, np.ndarray]:
    return {n: v.numpy() for n, v in network.variables_by_name().items()}


def averages(values) -> dict[str, np.ndarray]:
    return {n: v for n, v in values.items() if "/moving_" in n}


# --- Counts -----------------------------------------------------------------------------------


def _count(spec: NetworkSpec) -> int:
    return sum(int(np.prod(v.shape)) for v in build_network(spec).trainable_by_name().values())


def test_the_published_wide_resnet_has_the_published_counts():
    weights = build_network(NetworkSpec()).trainable_by_name()
    by_kind: dict[str, list[int]] = {}
    for name, variable in weights.items():
        by_kind.setdefault(name.rpartition("/")[2], []).append(int(np.prod(variable.shape)))
    assert sum(sum(sizes) for sizes in by_kind.values()) == 1_469_642
    assert len(by_kind["kernel"]) == 29
    assert sum(by_kind["kernel"]) == 1_463_984
    assert sum(by_kind["gamma"]) + sum(by_kind["beta"]) == 3_616
    assert sum(by_kind["bias"]) == 2_042
    shapes = [tuple(v.shape) for n, v in weights.items() if n.endswith("/kernel")]
    assert sum(s[:2] == (3, 3) for s in shapes) == 25
    assert sum(s[:2] == (1, 1) for s in shapes) == 3


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        (NetworkSpec(num_classes=100), 1_481_252),
        (NetworkSpec(filters=128, num_classes=100), 23_409_092),
        (NetworkSpec(filters=135), 25_985_290),
        (NetworkSpec(height=96, width=96, scales=4), 5_933_770),
        (NetworkSpec("cnn13"), 197_290),
        (NetworkSpec("cnn13", filters=128), 3_123_850),
        (NetworkSpec("shake"), 2_923_130),
        (NetworkSpec("resnet18"), 11_173_962),
        (NetworkSpec("resnet50"), 23_520_842),
        (NetworkSpec("resnet50_imagenet", 1000, 224, 224), 25_557_032),
    ],
    ids=lambda value: f"{value.arch}" if isinstance(value, NetworkSpec) else f"{value}",
)
def test_the_larger_published_networks_have_their_counts(spec, count):
    assert _count(spec) == count


@every_spec
def test_the_fewest_weights_of_a_description_are_a_good_part_of_all(spec):
    # With few filters the stem's 16 channels and the head weigh more than in published sizes.
    assert 0.1 < spec.fewest_weights() / _count(spec) <= 1
    wide = replace(spec, filters=4 * spec.filters)
    assert 0.2 < wide.fewest_weights() / _count(wide) <= 1


@pytest.mark.parametrize("arch", ["resnet", "small", "cnn13", "shake", "resnet18", "resnet50"])
@pytest.mark.parametrize(
    ("height", "width", "channels"),
    [(8, 8, 1), (20, 20, 3), (31, 33, 3), (32, 32, 1), (96, 96, 3), (224, 224, 3)],
)
def test_images_of_many_sizes_fit(arch, height, width, channels):
    if arch == "cnn13" and height == 8:
        with pytest.raises(UsageError, match="at least 12×12 pixels"):
            NetworkSpec(arch, 3, height, width, channels)
        return
    scales = min(3, height // 8) if arch in ("resnet", "shake") else 0
    spec = NetworkSpec(arch, 3, height, width, channels, 2, scales=scales)
    network = build_network(spec)
    shape = (1, height, width, channels)
    output = tf.function(network).get_concrete_function(tf.TensorSpec(shape)).structured_outputs
    assert output.logits.shape == (1, 3)
    assert output.feature_map.shape == (1, *network.feature_map_shape)


@pytest.mark.parametrize(("width", "scales"), [(4, 1), (8, 1), (16, 2), (32, 3), (64, 4), (96, 5)])
def test_the_image_width_chooses_the_scales(width, scales):
    assert NetworkSpec(height=width, width=width).resolved_scales == scales


# --- Values -----------------------------------------------------------------------------------


@every_spec
@pytest.mark.parametrize("training", [False, True])
def test_logits_equal_those_of_the_plain_network(spec, training):
    network = build_network(spec, seed=3)
    plain = PlainNetwork(spec, randomize(network), training)
    images = images_for(spec)
    logits, features, _ = network(images, training=training, seed=SEED)
    assert logits.dtype == features.dtype == tf.float32
    np.testing.assert_allclose(logits, plain(images), rtol=1e-4, atol=1e-4)


@every_spec
@pytest.mark.parametrize("mode", ["inference", "training", "training, large activations"])
def test_gradients_of_all_weights_equal_those_of_the_plain_network(spec, mode, monkeypatch):
    training = mode != "inference"
    if mode == "training, large activations":
        monkeypatch.setattr(layers, "_LARGE", 1)
    network = build_network(spec, seed=3)
    plain = PlainNetwork(spec, randomize(network), training)
    images = images_for(spec)
    labels = np.arange(len(images)) % spec.num_classes

    def loss(logits):
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))

    weights = network.trainable_by_name()
    with tf.GradientTape() as tape:
        ours = loss(network(images, training=training, seed=SEED).logits)
    values = [v.value for v in weights.values()]
    ours = tape.gradient(ours, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    with tf.GradientTape() as tape:
        theirs = loss(plain(images))
    theirs = tape.gradient(theirs, [plain.weights[n] for n in weights])
    largest = max(np.abs(g).max() for g in theirs)
    near = (1e-4 if "50" in spec.arch else 1e-5) * largest  # fifty layers round more
    for name, mine, other in zip(weights, ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-3, atol=near, err_msg=name)
        removed = spec.arch in ("resnet", "small") and not name.startswith("head")
        if training and removed and name.endswith("/bias"):
            assert np.abs(other).max() < 1e-9 * largest  # normalisation removes a bias before it
        else:
            assert np.abs(other).max() > 1e-6 * largest, name


@each_spec
def test_moving_averages_take_a_thousandth_of_the_batchs_mean_and_unbiased_variance(spec):
    network = build_network(spec, seed=3)
    before = randomize(network)
    plain = PlainNetwork(spec, before, True)
    images = images_for(spec)
    plain(images)
    network(images, training=True, update_stats=True, seed=SEED)
    after = snapshot(network)
    assert plain.statistics
    for name, (mean, variance) in plain.statistics.items():
        for kind, batch in (("mean", mean), ("variance", variance)):
            old = before[f"{name}/moving_{kind}"].astype(np.float64)
            expected = 0.999 * old + 0.001 * batch
            moved = after[f"{name}/moving_{kind}"]
            np.testing.assert_allclose(moved, expected, rtol=2e-6, atol=2e-6, err_msg=name)
    for name in network.trainable_by_name():
        np.testing.assert_array_equal(after[name], before[name])


@each_spec
@pytest.mark.parametrize(
    "mode",
    [{"training": True}, {"training": False}, {"training": False, "update_stats": True}],
    ids=["guess", "inference", "inference that asks for updates"],
)
def test_other_passes_leave_every_variable_bit_identical(spec, mode):
    network = build_network(spec)
    before = randomize(network)
    network(images_for(spec), seed=SEED, **mode)
    for name, value in snapshot(network).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_the_decay_of_the_moving_averages_is_the_spec_s():
    spec = NetworkSpec("small", 3, 8, 8, 1, 4, bn_decay=0.0)
    network = build_network(spec)
    plain = PlainNetwork(spec, randomize(network), True)
    images = images_for(spec)
    plain(images)
    network(images, training=True, update_stats=True, seed=SEED)
    for name, (mean, variance) in plain.statistics.items():
        values = snapshot(network)
        np.testing.assert_allclose(values[f"{name}/moving_mean"], mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(values[f"{name}/moving_variance"], variance, rtol=1e-5)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_batch_that_is_not_finite_leaves_the_moving_averages_bit_identical(poison):
    spec = SPECS["resnet"]
    network = build_network(spec)
    before = averages(randomize(network))
    images = images_for(spec)
    images[0] = poison
    network(images, training=True, update_stats=True, seed=SEED)
    for name, value in averages(snapshot(network)).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_the_first_unit_s_shortcut_sees_the_activated_input_and_the_others_the_raw_one():
    # With zero second convolutions a unit is its shortcut: the network is then a chain of them.
    spec = NetworkSpec(num_classes=2, height=8, width=8, filters=16, repeat=2, scales=1)
    network = build_network(spec)
    for name, variable in network.variables_by_name().items():
        if name.endswith("conv2/kernel"):
            variable.assign(tf.zeros(variable.shape))
    images = images_for(spec)
    stem = tf.nn.conv2d(images, network.stem.kernel, 1, "SAME")
    once = tf.nn.leaky_relu(stem / np.sqrt(1.001), 0.1)
    last = tf.nn.leaky_relu(once / np.sqrt(1.001), 0.1)
    features = network(images).features
    np.testing.assert_allclose(features, tf.reduce_mean(last, [1, 2]), rtol=1e-5, atol=1e-6)


def test_a_convolution_that_pads_refuses_an_offset():
    conv = Conv2D("conv", 2, 3, 3, 1, 0, "float32")
    with pytest.raises(ValueError, match="1×1"):
        conv(Biased(tf.zeros([1, 4, 4, 2]), tf.ones([2])))


def test_one_row_of_one_pixel_normalises_to_its_beta():
    norm = BatchNorm("norm", 3, 0.5, False, "float32")
    norm.beta.assign([1.0, 2.0, 3.0])
    result = norm(Biased(tf.ones([1, 1, 1, 3]), None), training=True, update_stats=True)
    np.testing.assert_allclose(result[0, 0, 0], [1, 2, 3])
    assert np.isfinite(norm.moving_variance).all()


@each_spec
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_features_are_what_the_head_reads_and_the_mean_of_the_feature_map(spec, precision):
    network = build_network(spec, precision)
    randomize(network)
    logits, features, feature_map = network(images_for(spec), training=True, seed=SEED)
    head = network.variables_by_name()
    expected = features @ head["head/kernel"] + head["head/bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert feature_map.dtype == ("float32" if precision == "float32" else "bfloat16")
    mean = np.asarray(feature_map, np.float64).mean((1, 2))
    np.testing.assert_allclose(features, mean, rtol=1e-4, atol=1e-5)


@every_spec
def test_the_shapes_of_features_are_known_without_a_pass(spec):
    network = build_network(spec)
    output = network(images_for(spec, 2))
    assert output.feature_map.shape == (2, *network.feature_map_shape)
    assert output.features.shape == (2, network.feature_size)


# --- Shake-shake ------------------------------------------------------------------------------


def test_shake_mixes_each_row_by_one_number_forward_and_by_another_backward():
    random = np.random.default_rng(0)
    first, second = (tf.constant(random.normal(size=(6, 2, 3, 4)), tf.float32) for _ in "ab")
    forward, backward = tf.constant(random.uniform(size=(2, 6, 1, 1, 1)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([first, second])
        mixed = shake(first, second, forward, backward)
        loss = tf.reduce_sum(mixed)
    np.testing.assert_allclose(mixed, first + forward * (second - first), rtol=1e-5, atol=1e-6)
    of_first, of_second = tape.gradient(loss, [first, second])
    np.testing.assert_allclose(of_first, np.broadcast_to(1 - backward, of_first.shape), rtol=1e-6)
    np.testing.assert_allclose(of_second, np.broadcast_to(backward, of_second.shape), rtol=1e-6)


def test_shake_s_coefficients_are_uniform_independent_and_decided_by_the_seed(monkeypatch):
    drawn = []

    def recorded(first, second, forward, backward):
        drawn.append((forward.numpy().ravel(), backward.numpy().ravel()))
        return shake(first, second, forward, backward)

    monkeypatch.setattr("realmix_tf.nets.shake.shake", recorded)
    spec = SPECS["shake"]
    network = build_network(spec)
    images = images_for(spec, 1000)
    for seed in ((1, 2), (1, 2), (1, 3)):
        network(images, training=True, seed=tf.constant(seed))
    units = spec.repeat * 2
    assert len(drawn) == 3 * units
    first, again, other = (np.array(drawn[i * units : (i + 1) * units]) for i in range(3))
    np.testing.assert_array_equal(first, again)
    related = np.corrcoef(np.concatenate([first, other]).reshape(-1, 1000)) - np.eye(4 * units)
    assert np.abs(related).max() < 0.15  # forward, backward, other units, other seeds
    assert 0 <= first.min() < 0.01
    assert 0.99 < first.max() < 1
    assert np.abs(first.mean(2) - 0.5).max() < 0.05
    network(images)
    assert len(drawn) == 3 * units


def test_shake_takes_the_mean_of_both_branches_in_evaluation():
    spec = SPECS["shake without shortcut"]
    network = build_network(spec)
    weights = network.variables_by_name()
    # With zero gammas the branches are the constants in their last normalisations' betas.
    for branch, beta in (("branch0", 1.0), ("branch1", 3.0)):
        norm = f"group0/unit0/{branch}/norm2"
        weights[f"{norm}/gamma"].assign(tf.zeros([16]))
        weights[f"{norm}/beta"].assign(tf.fill([16], beta))
    images = images_for(spec, 5)
    stem = tf.nn.conv2d(images, weights["stem/kernel"], 1, "SAME")
    np.testing.assert_allclose(network(images).feature_map, stem + 2.0, rtol=1e-5, atol=1e-5)
    mixed = network(images, training=True, seed=SEED).feature_map - stem
    forward = shake_coefficients("group0/unit0", 5)[0]
    np.testing.assert_allclose(mixed, np.broadcast_to(1 + 2 * forward, mixed.shape), rtol=1e-4)


# --- Dropout ----------------------------------------------------------------------------------


DROPPING = NetworkSpec("small", 4, 8, 8, 1, 16, dropout=0.4)


def test_dropout_hides_its_share_of_the_features_from_the_head_and_scales_the_rest():
    network = build_network(DROPPING)
    for name, value in (("kernel", np.eye(64, 4)), ("bias", np.zeros(4))):
        network.variables_by_name()[f"head/{name}"].assign(value)
    images = images_for(DROPPING, 400)
    logits, features, _ = network(images, training=True, seed=tf.constant([1, 2]))
    read, kept = features.numpy()[:, :4], logits.numpy() != 0
    np.testing.assert_allclose(logits.numpy()[kept], (read / 0.6)[kept], rtol=1e-5)
    assert abs(kept[read != 0].mean() - 0.6) < 0.05
    np.testing.assert_allclose(network(images).logits, network(images).features[:, :4], rtol=1e-6)


def test_dropout_depends_on_the_seed_alone():
    network = build_network(DROPPING)
    images = images_for(DROPPING)
    seeds = tf.constant([1, 2]), tf.constant([1, 2]), tf.constant([2, 2])
    one, same, other = (network(images, training=True, seed=seed).logits for seed in seeds)
    np.testing.assert_array_equal(one, same)
    assert (one.numpy() != other.numpy()).any()


def test_a_network_that_needs_a_seed_says_so():
    network = build_network(DROPPING)
    assert network.stochastic
    assert not build_network(SPECS["small"]).stochastic
    with pytest.raises(ValueError, match="pass a seed"):
        network(images_for(DROPPING), training=True)
    network(images_for(DROPPING))


# --- Sharing statistics -----------------------------------------------------------------------


@each_spec
def test_a_network_that_shares_statistics_reads_the_other_s_live_ones(spec):
    student, teacher = build_network(spec, seed=1), build_network(spec, seed=2)
    randomize(student)
    own = len(teacher.variables)
    teacher.share_statistics(student)
    averages_of = averages(student.variables_by_name())
    assert averages(teacher.variables_by_name()) == averages_of
    assert all(v is averages_of[n] for n, v in averages(teacher.variables_by_name()).items())
    assert list(teacher.variables_by_name()) == list(student.variables_by_name())
    together = [*student.variables, *teacher.variables]
    assert len({id(v) for v in together}) == len(together)
    assert len(teacher.variables) == own - len(averages_of) == len(teacher.trainable_by_name())

    student(images_for(spec), training=True, update_stats=True, seed=SEED)
    alone = build_network(spec, seed=2)
    for name, variable in alone.variables_by_name().items():
        variable.assign(teacher.variables_by_name()[name])
    images = images_for(spec, seed=5)
    np.testing.assert_array_equal(teacher(images).logits, alone(images).logits)
    np.testing.assert_array_equal(
        teacher(images, training=True, seed=SEED).logits,
        alone(images, training=True, seed=SEED).logits,
    )


def test_networks_of_two_descriptions_do_not_share_statistics():
    with pytest.raises(ValueError, match="one description"):
        build_network(SPECS["small"]).share_statistics(build_network(SPECS["resnet"]))


# --- Precision, seeds, names ------------------------------------------------------------------


SHALLOW = {name: SPECS[name] for name in ("resnet", "small", "cnn13", "shake")}


@pytest.mark.parametrize("spec", SHALLOW.values(), ids=SHALLOW.keys())
@pytest.mark.parametrize("training", [False, True])
def test_bfloat16_is_close_to_float32_and_keeps_weights_and_outputs_in_float32(spec, training):
    exact, short = build_network(spec, seed=1), build_network(spec, "mixed_bfloat16", seed=1)
    randomize(exact, scale=0.3)
    randomize(short, scale=0.3)
    images = images_for(spec)
    wanted = exact(images, training=training, update_stats=training, seed=SEED)
    found = short(images, training=training, update_stats=training, seed=SEED)
    assert found.logits.dtype == found.features.dtype == tf.float32
    assert all(v.dtype == "float32" for v in short.variables_by_name().values())
    spread = np.std(wanted.logits)
    assert np.abs(wanted.logits - found.logits).max() < 0.15 * spread
    assert not np.array_equal(wanted.logits, found.logits)
    for name, value in averages(snapshot(short)).items():
        np.testing.assert_allclose(value, snapshot(exact)[name], rtol=1e-3, atol=1e-3)


@each_spec
def test_the_same_seed_gives_the_same_weights_whatever_was_built_before(spec):
    first = snapshot(build_network(spec, seed=7))
    build_network(SPECS["small"], seed=1)
    tf.random.uniform([3])
    again = snapshot(build_network(spec, "mixed_bfloat16", seed=7))
    other = snapshot(build_network(spec, seed=8))
    for name, value in first.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
        if name.endswith("/kernel"):
            assert (other[name] != value).all()


def test_a_kernel_does_not_depend_on_the_other_layers():
    narrow = snapshot(build_network(NetworkSpec(filters=16, repeat=1, scales=1), seed=7))
    wide = snapshot(build_network(NetworkSpec(filters=16, repeat=3, scales=2), seed=7))
    for name in ("stem/kernel", "group0/unit0/conv1/kernel", "group0/unit0/conv2/kernel"):
        np.testing.assert_array_equal(narrow[name], wide[name])


@pytest.mark.parametrize("arch", ["resnet", "cnn13", "shake", "resnet18"])
def test_initial_weights_have_the_published_spread(arch):
    weights = snapshot(build_network(NetworkSpec(arch), seed=0))
    for name, value in weights.items():
        kind = name.rpartition("/")[2]
        if kind == "kernel":
            if name == "head/kernel":
                deviation = np.sqrt(2 / sum(value.shape))
            elif arch == "cnn13":
                deviation = np.sqrt(2 / (value.shape[0] ** 2 * sum(value.shape[2:])))
                assert np.abs(value).max() <= np.sqrt(3) * deviation
            else:
                deviation = np.sqrt(2 / (value.shape[0] ** 2 * value.shape[3]))
            assert abs(value.std() / deviation - 1) < 5 / np.sqrt(2 * value.size), name
            assert abs(value.mean()) < 5 * deviation / np.sqrt(value.size), name
        else:
            expected = 1 if kind in ("gamma", "moving_variance") else 0
            assert (value == expected).all(), name


@each_spec
def test_named_variables_are_all_variables_once(spec):
    network = build_network(spec)
    named = network.variables_by_name()
    assert {id(v) for v in named.values()} == {id(v) for v in network.variables}
    assert len(named) == len(network.variables)
    assert [n for n in named if n not in network.trainable_by_name()] == [
        n for n in named if "/moving_" in n
    ]
