"""Normalise, activate, convolve in training mode, with gradients that keep little in memory.

A network's memory in training is what the forward pass keeps for the backward pass. Left to
itself TensorFlow keeps three tensors for each normalised and activated convolution: what
normalisation read, what it made, and what activation made of that. The middle one is never needed:
the sign of an activation's argument shows in its result. The last one is needed by the convolution
that reads it, and can be made again from the first one for the price of two cheap passes.

* ``normalize_activate`` and ``convolve_activate`` keep their argument and their result;
* ``normalize_activate_convolve`` keeps its argument only.

Values and gradients are those of the plain formulation. Gradients of gradients work, but keep
everything.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class Normalized(NamedTuple):
    """A result in training mode.

    Attributes:
      values: [N, H, W, C] in the type of the argument.
      mean: float32 [C], of the batch.
      variance: float32 [C], the unbiased estimate (divided by rows − 1).
    """

    values: tf.Tensor
    mean: tf.Tensor
    variance: tf.Tensor


def activate(x: tf.Tensor, slope: float) -> tf.Tensor:
    """LeakyReLU (Maas et al. 2013): x where x > 0, else slope·x. A slope of 0 is ReLU."""
    return tf.nn.leaky_relu(x, slope) if slope else tf.nn.relu(x)


def normalize_inference(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    epsilon: float,
) -> tf.Tensor:
    """(x − mean) / √(variance + epsilon) · gamma + beta, with given statistics, float32 [C]."""
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=False,
    )[0]


def normalize(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float, synchronized: bool
) -> Normalized:
    """Batch normalisation (Ioffe and Szegedy 2015) over N, H and W by the batch's own statistics.

    Args:
      x: [N, H, W, C], float32 or bfloat16; arithmetic is in float32.
      gamma, beta: float32 [C].
      epsilon: added to the variance.
      synchronized: statistics over the batches of all replicas.
    """

    @tf.custom_gradient
    def function(x, gamma, beta):  # type: ignore[no-untyped-def]
        batch = _batch(x, gamma, beta, epsilon, synchronized)
        return tuple(batch.result), lambda dy, *_: batch.gradient(dy)

    return Normalized(*function(x, gamma, beta))


def normalize_activate(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    slope: float,
    epsilon: float,
    synchronized: bool,
) -> Normalized:
    """``activate(normalize(x))``; keeps ``x`` and the result for the backward pass.

    Args:
      x, gamma, beta, epsilon, synchronized: see ``normalize``.
      slope: see ``activate``; at least 0.
    """

    @tf.custom_gradient
    def function(x, gamma, beta):  # type: ignore[no-untyped-def]
        batch = _batch(x, gamma, beta, epsilon, synchronized)
        y = activate(batch.result.values, slope)

        def gradient(dy, *_):  # type: ignore[no-untyped-def]
            return batch.gradient(_through_activation(dy, y, slope))

        return (y, batch.result.mean, batch.result.variance), gradient

    return Normalized(*function(x, gamma, beta))


def normalize_activate_convolve(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    kernel: tf.Tensor,
    stride: int,
    slope: float,
    epsilon: float,
    synchronized: bool,
) -> Normalized:
    """A 'SAME' convolution of ``activate(normalize(x))``; keeps ``x`` only.

    Args:
      x, gamma, beta, epsilon, synchronized: see ``normalize``.
      kernel: [size, size, C, outputs] in the type of ``x``.
      stride: step in pixels.
      slope: see ``activate``; at least 0.
    """
    strides = [1, stride, stride, 1]

    @tf.custom_gradient
    def function(x, gamma, beta, kernel):  # type: ignore[no-untyped-def]
        batch = _batch(x, gamma, beta, epsilon, synchronized)
        z = tf.nn.conv2d(activate(batch.result.values, slope), kernel, strides, "SAME")

        def gradient(dz, *_):  # type: ignore[no-untyped-def]
            # Without the dependency the executor would make y again at once, in the forward pass,
            # and keep it, because all it needs is there.
            with tf.control_dependencies([dz]):
                y = activate(batch.again(), slope)
            dy, dkernel = _through_convolution(dz, y, kernel, strides, "SAME")
            return (*batch.gradient(_through_activation(dy, y, slope)), dkernel)

        return (z, batch.result.mean, batch.result.variance), gradient

    return Normalized(*function(x, gamma, beta, kernel))


def convolve_activate(
    x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, stride: int, padding: str, slope: float
) -> tf.Tensor:
    """``activate`` of a convolution with bias; keeps ``x`` and the result.

    Args:
      x: [N, H, W, C].
      kernel: [size, size, C, outputs]; bias: [outputs]; both in the type of ``x``.
      stride: step in pixels.
      padding: ``SAME`` or ``VALID``.
      slope: see ``activate``; at least 0.
    """
    strides = [1, stride, stride, 1]

    @tf.custom_gradient
    def function(x, kernel, bias):  # type: ignore[no-untyped-def]
        y = activate(tf.nn.bias_add(tf.nn.conv2d(x, kernel, strides, padding), bias), slope)

        def gradient(dy):  # type: ignore[no-untyped-def]
            dz = _through_activation(dy, y, slope)
            dx, dkernel = _through_convolution(dz, x, kernel, strides, padding)
            # A sum over all pixels loses too much in bfloat16.
            dbias = tf.reduce_sum(tf.cast(dz, tf.float32), [0, 1, 2])
            return dx, dkernel, tf.cast(dbias, bias.dtype)

        return y, gradient

    return function(x, kernel, bias)


def _through_convolution(
    dz: tf.Tensor, x: tf.Tensor, kernel: tf.Tensor, strides: list[int], padding: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """The gradients of a convolution's argument and kernel from that of its result."""
    dkernel = tf.raw_ops.Conv2DBackpropFilter(
        input=x,
        filter_sizes=tf.shape(kernel),
        out_backprop=dz,
        strides=strides,
        padding=padding,
    )
    dx = tf.raw_ops.Conv2DBackpropInput(
        input_sizes=tf.shape(x), filter=kernel, out_backprop=dz, strides=strides, padding=padding
    )
    return dx, dkernel


def _through_activation(dy: tf.Tensor, y: tf.Tensor, slope: float) -> tf.Tensor:
    """The gradient before an activation from that after it, and from its *result* y."""
    if slope:
        return tf.raw_ops.LeakyReluGrad(gradients=dy, features=y, alpha=slope)
    return tf.raw_ops.ReluGrad(gradients=dy, features=y)


class _OneBatch:
    """Normalisation by the statistics of this replica's batch, on TensorFlow's fused kernels."""

    def __init__(self, x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> None:
        self.x, self.gamma, self.beta, self.epsilon = x, gamma, beta, epsilon
        values, mean, variance, *self._reserved = _fused(x, gamma, beta, epsilon)
        self.result = Normalized(values, mean, variance)

    def again(self) -> tf.Tensor:
        """The normalised values once more, from the argument and the statistics."""
        rows = tf.cast(_rows(self.x), tf.float32)
        _, mean, variance = self.result
        biased = variance * ((rows - 1.0) / rows)
        return normalize_inference(self.x, self.gamma, self.beta, mean, biased, self.epsilon)

    def gradient(self, dz: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Gradients of the argument, gamma and beta from that of the normalised values."""
        dx, dgamma, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=dz,
            x=self.x,
            scale=self.gamma,
            reserve_space_1=self._reserved[0],
            reserve_space_2=self._reserved[1],
            reserve_space_3=self._reserved[2],
            epsilon=self.epsilon,
            is_training=True,
        )
        return dx, dgamma, dbeta


class _AllReplicas:
    """Normalisation by the statistics of all replicas' batches."""

    def __init__(self, x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> None:
        self.x, self.gamma, self.beta, self.epsilon = x, gamma, beta, epsilon
        # The kernel serves for the moments only; its values go at once.
        _, mean, variance, *_ = _fused(x, gamma, beta, epsilon)
        rows = tf.cast(_rows(x), tf.float32)
        sums = _over_replicas(tf.concat([rows * mean, [rows]], 0))
        self._total, self._mean = sums[-1], sums[:-1] / sums[-1]
        squares = (rows - 1.0) * variance + rows * (mean - self._mean) ** 2
        self._variance = _over_replicas(squares) / self._total
        unbiased = self._variance * self._total / tf.maximum(self._total - 1.0, 1.0)
        self.result = Normalized(self.again(), self._mean, unbiased)

    def again(self) -> tf.Tensor:
        """The normalised values, from the argument and the statistics."""
        return normalize_inference(
            self.x, self.gamma, self.beta, self._mean, self._variance, self.epsilon
        )

    def gradient(self, dz: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """As of ``_OneBatch``; those of gamma and beta are this replica's shares.

        With n rows in all, x̂ the values before gamma and beta, and sums over all replicas:
        dx = gamma/√(variance + epsilon) · (dz − Σdz/n − x̂·Σ(dz·x̂)/n).
        """
        dx, dgamma, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=dz,
            x=self.x,
            scale=self.gamma,
            reserve_space_1=self._mean,
            reserve_space_2=self._variance,
            reserve_space_3=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=False,
        )
        sums = _over_replicas(tf.stack([dgamma, dbeta]))
        share = sums * self.gamma * tf.math.rsqrt(self._variance + self.epsilon) / self._total
        through_statistics = normalize_inference(
            self.x, share[0], share[1], self._mean, self._variance, self.epsilon
        )
        return dx - through_statistics, dgamma, dbeta


def _batch(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float, synchronized: bool
) -> _OneBatch | _AllReplicas:
    if synchronized and tf.distribute.get_strategy().num_replicas_in_sync > 1:
        return _AllReplicas(x, gamma, beta, epsilon)
    return _OneBatch(x, gamma, beta, epsilon)


def _fused(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> tuple:
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=tf.zeros([0]),
        variance=tf.zeros([0]),
        epsilon=epsilon,
        is_training=True,
    )


def _rows(x: tf.Tensor) -> tf.Tensor:
    """How many numbers a channel's statistics are over."""
    return tf.reduce_prod(tf.shape(x)[:-1])


def _over_replicas(value: tf.Tensor) -> tf.Tensor:
    return tf.distribute.get_replica_context().all_reduce("sum", value)
