"""Normalisation, activation and convolution in one step, against the plain formulation."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from realmix_tf.nets import fused

EPSILON = 1e-3
SHAPE = (5, 7, 6, 4)
OUTPUTS = 3


def ours(kind: str, slope: float, stride: int = 1, x=None, gamma=None, beta=None, kernel=None):
    if kind == "normalize":
        return fused.normalize(x, gamma, beta, EPSILON, False)
    if kind == "activate":
        return fused.normalize_activate(x, gamma, beta, slope, EPSILON, False)
    return fused.normalize_activate_convolve(x, gamma, beta, kernel, stride, slope, EPSILON, False)


def plain(kind: str, slope: float, stride: int = 1, x=None, gamma=None, beta=None, kernel=None):
    """The same, one operation after the other, in the type of the arguments."""
    mean = tf.reduce_mean(x, [0, 1, 2])
    variance = tf.reduce_mean((x - mean) ** 2, [0, 1, 2])
    y = (x - mean) / tf.sqrt(variance + EPSILON) * gamma + beta
    if kind != "normalize":
        y = tf.where(y > 0, y, slope * y)
    if kind == "convolve":
        y = tf.nn.conv2d(y, kernel, stride, "SAME")
    rows = np.prod(x.shape[:3])
    return fused.Normalized(y, mean, variance * rows / (rows - 1))


def arguments(kind: str, dtype=np.float32) -> dict[str, tf.Tensor]:
    random = np.random.default_rng(3)
    values = {
        "x": 3 + 2 * random.normal(size=SHAPE),
        "gamma": random.uniform(-1, 2, SHAPE[-1:]),
        "beta": random.normal(size=SHAPE[-1:]),
    }
    if kind == "convolve":
        values["kernel"] = random.normal(size=(3, 3, SHAPE[-1], OUTPUTS))
    # The plain version reads exactly the numbers that ours reads.
    return {n: tf.constant(np.float32(v).astype(dtype)) for n, v in values.items()}


def gradients(function, *settings, **values):
    """The result and the gradients of a weighted sum of it, by argument."""
    with tf.GradientTape() as tape:
        tape.watch(values)
        result = function(*settings, **values)
        weights = np.random.default_rng(4).normal(size=result.values.shape)
        loss = tf.reduce_sum(result.values * tf.cast(weights, result.values.dtype))
    return result, tape.gradient(loss, values)


KINDS = [
    ("normalize", 0.0, 1),
    ("activate", 0.1, 1),
    ("activate", 0.0, 1),
    ("convolve", 0.1, 1),
    ("convolve", 0.0, 2),
]
each_kind = pytest.mark.parametrize(("kind", "slope", "stride"), KINDS, ids=str)


@each_kind
@pytest.mark.parametrize("compiled", [False, True])
def test_values_statistics_and_gradients_are_those_of_the_plain_formulation(
    kind, slope, stride, compiled
):
    def both(**values):
        return gradients(ours, kind, slope, stride, **values)

    found, moved = (tf.function(both) if compiled else both)(**arguments(kind))
    exact, wanted = gradients(plain, kind, slope, stride, **arguments(kind, np.float64))
    for one, other in zip(found, exact, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert moved.keys() == wanted.keys()
    for name, gradient in wanted.items():
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(moved[name], gradient, atol=1e-5 * scale, err_msg=name)


@each_kind
def test_gradients_equal_tensorflow_s_own_where_nothing_is_fused(kind, slope, stride):
    def unfused(kind, slope, stride, x, gamma, beta, kernel=None):
        y, mean, variance = tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, epsilon=EPSILON)
        if kind != "normalize":
            y = tf.nn.leaky_relu(y, slope) if slope else tf.nn.relu(y)
        y = y if kernel is None else tf.nn.conv2d(y, kernel, stride, "SAME")
        return fused.Normalized(y, mean, variance)

    found, moved = gradients(ours, kind, slope, stride, **arguments(kind))
    same, wanted = gradients(unfused, kind, slope, stride, **arguments(kind))
    np.testing.assert_array_equal(found.values, same.values)
    for name, gradient in wanted.items():
        np.testing.assert_allclose(moved[name], gradient, rtol=1e-5, atol=1e-5, err_msg=name)


@each_kind
def test_bfloat16_keeps_statistics_and_their_gradients_in_float32(kind, slope, stride):
    values = arguments(kind)
    short = {n: tf.cast(v, tf.bfloat16) if n in ("x", "kernel") else v for n, v in values.items()}
    found, moved = gradients(ours, kind, slope, stride, **short)
    rounded = {n: tf.cast(v, tf.float64) for n, v in short.items()}
    exact, wanted = gradients(plain, kind, slope, stride, **rounded)
    assert found.values.dtype == moved["x"].dtype == tf.bfloat16
    assert found.mean.dtype == moved["gamma"].dtype == moved["beta"].dtype == tf.float32
    np.testing.assert_allclose(found.mean, exact.mean, rtol=1e-5)
    np.testing.assert_allclose(found.variance, exact.variance, rtol=1e-4)
    for name, gradient in wanted.items():
        error = np.abs(np.asarray(moved[name], np.float64) - gradient).max()
        assert error < 0.03 * np.abs(gradient).max(), name


@pytest.mark.parametrize("kind", ["activate", "convolve"])
def test_a_gradient_for_the_argument_may_be_taken_inside_a_tape_for_the_weights(kind):
    """As virtual adversarial training does: the inner gradient makes the outer pass's argument."""

    def adversarial(function, x, **weights):
        with tf.GradientTape() as outer:
            outer.watch(weights)
            with tf.GradientTape() as inner:
                inner.watch(x)
                first = function(kind, 0.1, x=x, **weights).values
                search = tf.reduce_sum(first**2 * tf.cast(first > 1, first.dtype))
            direction = tf.stop_gradient(inner.gradient(search, x))
            moved = function(kind, 0.1, x=x + 0.1 * direction, **weights).values
            loss = tf.reduce_sum(moved**3)
        return outer.gradient(loss, weights)

    found = tf.function(adversarial)(ours, **arguments(kind))
    exact = adversarial(plain, **arguments(kind, np.float64))
    for name, gradient in exact.items():
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(found[name], gradient, atol=1e-4 * scale, err_msg=name)


def test_the_gradient_of_a_gradient_is_right_too():
    def penalty(function, x, gamma, beta):
        with tf.GradientTape() as outer:
            outer.watch(gamma)
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = tf.reduce_sum(function("activate", 0.1, x=x, gamma=gamma, beta=beta)[0] ** 2)
            penalty = tf.reduce_sum(inner.gradient(loss, x) ** 2)
        return outer.gradient(penalty, gamma)

    found = penalty(ours, **arguments("activate"))
    exact = penalty(plain, **arguments("activate", np.float64))
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-3 * np.abs(exact).max())


def test_a_large_argument_s_activation_is_made_again_only_when_its_gradient_has_come():
    """The backward pass's normalisation waits for the gradient; else memory would not be saved."""

    @tf.function
    def step(x, gamma, beta, kernel):
        return gradients(ours, "convolve", 0.1, 1, x=x, gamma=gamma, beta=beta, kernel=kernel)[1]

    values = arguments("convolve")
    operations = step.get_concrete_function(**values).graph.get_operations()
    normalised = [op for op in operations if op.type == "FusedBatchNormV3"]
    assert [op.get_attr("is_training") for op in normalised] == [True, False]
    waited_for = {op.type: op for op in operations}["Conv2DBackpropFilter"].inputs[2].op

    def before(op) -> set[str]:
        found, ahead = set(), [op]
        while ahead:
            op = ahead.pop()
            if op.name not in found:
                found.add(op.name)
                ahead += [*op.control_inputs, *(tensor.op for tensor in op.inputs)]
        return found

    assert waited_for.name not in before(normalised[0])
    assert waited_for.name in before(normalised[1])


def test_one_number_a_channel_normalises_to_beta_and_has_no_gradient_but_beta_s():
    values = {"x": tf.ones([1, 1, 1, 2]), "gamma": tf.ones([2]), "beta": tf.constant([1.0, 2.0])}
    found, moved = gradients(ours, "activate", 0.1, **values)
    np.testing.assert_allclose(found.values[0, 0, 0], [1, 2])
    np.testing.assert_allclose(found.variance, [0, 0])
    np.testing.assert_allclose(moved["x"], np.zeros([1, 1, 1, 2]), atol=1e-6)
