"""Layers the networks share.

Two things set them apart from Keras's own:

* ``BatchNorm`` runs on TensorFlow's fused kernel and can normalise with a batch's own statistics
  *without* touching the moving averages, which guess and teacher passes need.
* A convolution's bias is not added to the activations. Batch normalisation removes any constant a
  channel carries, so in training a bias before it has no effect and no gradient; adding it would
  only read and write every activation once more. The bias therefore rides beside the activations
  as ``Biased.offset`` (one number a channel) and enters where it does matter: in the moving mean
  and in inference. The result equals the plain formulation.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf

from realmix_tf.randomness import key


class Biased(NamedTuple):
    """Activations that stand for ``values + offset``.

    Attributes:
      values: [N, H, W, C] in the compute type.
      offset: float32 [C], or None for zero.
    """

    values: tf.Tensor
    offset: tf.Tensor | None


class Output(NamedTuple):
    """What a network returns: logits float32 [N, num_classes], features float32 [N, D]."""

    logits: tf.Tensor
    features: tf.Tensor


def initial_normal(seed: int, name: str, shape: tuple[int, ...], stddev: float) -> tf.Tensor:
    """Normal numbers that depend on (seed, name) only, not on the order of construction."""
    words = key(seed, f"initial/{name}")
    pair = tf.constant([words & 0x7FFFFFFF, (words >> 32) & 0x7FFFFFFF], tf.int32)
    return tf.random.stateless_normal(shape, pair) * stddev


class _Weights(keras.layers.Layer):
    """A layer whose weights exist from construction on, each under its own name."""

    def __init__(self, name: str, dtype: str | None = None) -> None:
        super().__init__(name=name.replace("/", "_"), dtype=dtype, autocast=False)
        self.weight_prefix = name
        self.named: dict[str, keras.Variable] = {}

    def new_weight(
        self, name: str, value: tf.Tensor, trainable: bool = True, aggregation: str | None = None
    ) -> keras.Variable:
        weight = self.add_weight(
            name=name,
            shape=tuple(value.shape),
            initializer=lambda shape, dtype: tf.cast(value, dtype),
            dtype="float32",
            trainable=trainable,
            autocast=False,
            aggregation=aggregation,
        )
        self.named[f"{self.weight_prefix}/{name}"] = weight
        return weight


class Conv2D(_Weights):
    """A 'SAME' convolution with bias; kernel N(0, √(2/(k·k·outputs))), bias 0.

    Args:
      name: unique within the network; prefix of the weights' names.
      inputs, outputs: channels.
      size: side of the kernel in pixels.
      stride: step in pixels.
      seed: of the initial kernel.
      dtype: Keras precision policy name.
    """

    def __init__(
        self, name: str, inputs: int, outputs: int, size: int, stride: int, seed: int, dtype: str
    ) -> None:
        super().__init__(name, dtype)
        shape = (size, size, inputs, outputs)
        deviation = (2.0 / (size * size * outputs)) ** 0.5
        self.kernel = self.new_weight("kernel", initial_normal(seed, name, shape, deviation))
        self.bias = self.new_weight("bias", tf.zeros([outputs]))
        self.size, self.stride = size, stride

    def call(self, x: Biased) -> Biased:
        """[N, H, W, inputs] → [N, ⌈H/stride⌉, ⌈W/stride⌉, outputs]."""
        kernel = tf.convert_to_tensor(self.kernel)
        values = tf.nn.conv2d(x.values, tf.cast(kernel, x.values.dtype), self.stride, "SAME")
        offset = tf.convert_to_tensor(self.bias)
        if x.offset is not None:
            if self.size != 1:
                # At the border a constant does not pass through zero padding as a constant.
                raise ValueError(f"{self.weight_prefix}: only 1×1 convolutions take an offset")
            offset += tf.linalg.matvec(kernel[0, 0], x.offset, transpose_a=True)
        return Biased(values, offset)


class BatchNorm(_Weights):
    """Batch normalisation (Ioffe and Szegedy 2015) over N, H, W.

    Moving averages start at mean 0 and variance 1 and take the unbiased batch variance, as
    TensorFlow's fused kernel always did. Under several replicas each normalises its own part of
    the batch, and the moving averages take the mean over the replicas; with ``synchronized`` the
    statistics are those of the whole batch.
    """

    EPSILON = 1e-3

    def __init__(
        self, name: str, channels: int, decay: float, synchronized: bool, dtype: str
    ) -> None:
        super().__init__(name, dtype)
        self.gamma = self.new_weight("gamma", tf.ones([channels]))
        self.beta = self.new_weight("beta", tf.zeros([channels]))
        self.moving_mean = self.new_weight("moving_mean", tf.zeros([channels]), False, "mean")
        self.moving_variance = self.new_weight(
            "moving_variance", tf.ones([channels]), False, "mean"
        )
        self.decay, self.synchronized = decay, synchronized

    def call(self, x: Biased, training: bool = False, update_stats: bool = False) -> tf.Tensor:
        """Normalises; the result carries no offset.

        Args:
          x: values [N, H, W, C] and their offset.
          training: use the batch's own statistics (Python bool).
          update_stats: also move the moving averages (Python bool).
        """
        gamma, beta = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        if not training:
            return self._normalize(x, gamma, beta)
        if self.synchronized and tf.distribute.get_strategy().num_replicas_in_sync > 1:
            normalized, mean, variance = self._synchronized(x.values, gamma, beta)
        else:
            normalized, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
                x=x.values,
                scale=gamma,
                offset=beta,
                mean=tf.zeros([0]),
                variance=tf.zeros([0]),
                epsilon=self.EPSILON,
                is_training=True,
            )
        if update_stats:
            mean = mean if x.offset is None else mean + x.offset
            self._move(self.moving_mean, mean)
            self._move(self.moving_variance, variance)
        return normalized

    def _normalize(self, x: Biased, gamma: tf.Tensor, beta: tf.Tensor) -> tf.Tensor:
        scale = gamma * tf.math.rsqrt(self.moving_variance + self.EPSILON)
        mean = tf.convert_to_tensor(self.moving_mean)
        shift = beta + ((0.0 if x.offset is None else x.offset) - mean) * scale
        return tf.cast(tf.cast(x.values, tf.float32) * scale + shift, x.values.dtype)

    def _synchronized(
        self, values: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        x = tf.cast(values, tf.float32)
        count = tf.cast(tf.size(x) // tf.shape(x)[-1], tf.float32)
        context = tf.distribute.get_replica_context()
        count = context.all_reduce("sum", count)
        mean = context.all_reduce("sum", tf.reduce_sum(x, [0, 1, 2])) / count
        centred = x - mean
        variance = context.all_reduce("sum", tf.reduce_sum(centred * centred, [0, 1, 2])) / count
        normalized = centred * (gamma * tf.math.rsqrt(variance + self.EPSILON)) + beta
        return tf.cast(normalized, values.dtype), mean, variance * count / (count - 1.0)

    def _move(self, average: keras.Variable, batch: tf.Tensor) -> None:
        # A batch with non-finite activations is skipped by the engine; the averages must be too.
        moved = average * self.decay + tf.stop_gradient(batch) * (1.0 - self.decay)
        average.assign(tf.where(tf.math.is_finite(moved), moved, average))


class Dense(_Weights):
    """A linear layer in float32; kernel glorot normal, bias 0: [N, inputs] → [N, outputs]."""

    def __init__(self, name: str, inputs: int, outputs: int, seed: int) -> None:
        super().__init__(name, "float32")
        deviation = (2.0 / (inputs + outputs)) ** 0.5
        kernel = initial_normal(seed, name, (inputs, outputs), deviation)
        self.kernel = self.new_weight("kernel", kernel)
        self.bias = self.new_weight("bias", tf.zeros([outputs]))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.matmul(x, tf.convert_to_tensor(self.kernel)) + self.bias


class Network(keras.Model):
    """Base of all networks: the normalisation of the input, the named variables, the head.

    A subclass makes its layers with ``conv`` and ``norm``, sets ``feature_size``, calls
    ``finish`` and implements ``embed``.
    """

    def __init__(self, spec, precision: str, seed: int, synchronized: bool) -> None:  # type: ignore[no-untyped-def]
        super().__init__(name=spec.arch)
        self.spec, self.precision, self.seed, self.synchronized = (
            spec,
            precision,
            seed,
            synchronized,
        )
        self.compute = "bfloat16" if precision == "mixed_bfloat16" else "float32"
        self._parts: list[_Weights] = []

    def conv(self, name: str, inputs: int, outputs: int, size: int, stride: int = 1) -> Conv2D:
        layer = Conv2D(name, inputs, outputs, size, stride, self.seed, self.precision)
        self._parts.append(layer)
        return layer

    def norm(self, name: str, channels: int) -> BatchNorm:
        layer = BatchNorm(name, channels, self.spec.bn_decay, self.synchronized, self.precision)
        self._parts.append(layer)
        return layer

    def finish(self, feature_size: int) -> None:
        """Adds the classifier's dense layer on ``feature_size`` pooled features."""
        self.head = Dense("head", feature_size, self.spec.num_classes, self.seed)
        self._parts.append(self.head)
        self.built = True

    def embed(self, images: tf.Tensor, training: bool, update_stats: bool) -> tf.Tensor:
        """Normalised images in the compute type → pooled features float32 [N, D]."""
        raise NotImplementedError

    def call(self, images: tf.Tensor, training: bool = False, update_stats: bool = False) -> Output:
        """Runs the network.

        Args:
          images: float32 [N, height, width, channels] in [−1, 1].
          training: batch normalisation uses the batch's own statistics.
          update_stats: the moving averages follow this batch.
        """
        spec = self.spec
        if spec.mean != (0.0,) or spec.std != (1.0,):
            images = (images - tf.constant(spec.mean)) / tf.constant(spec.std)
        features = self.embed(tf.cast(images, self.compute), training, update_stats)
        return Output(self.head(features), features)

    def variables_by_name(self) -> dict[str, keras.Variable]:
        """Every variable by its plain name, such as ``group0/unit0/conv1/kernel``."""
        return {name: weight for part in self._parts for name, weight in part.named.items()}

    def trainable_by_name(self) -> dict[str, keras.Variable]:
        """The variables that gradients move; batch normalisation's averages are not among them."""
        return {n: v for n, v in self.variables_by_name().items() if v.trainable}


def pool(x: tf.Tensor) -> tf.Tensor:
    """Global mean over height and width, accumulated in float32: [N, H, W, C] → [N, C]."""
    return tf.reduce_mean(tf.cast(x, tf.float32), [1, 2])
