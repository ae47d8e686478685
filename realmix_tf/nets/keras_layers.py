"""Stand-ins for those Keras layers that do not keep the contract of a network.

Keras's batch normalisation moves its averages in every training pass, and its dropouts count up a
state that no checkpoint holds. Their stand-ins read what the current pass asks for from ``passing``
and are otherwise the same layers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from realmix_tf.nets.layers import BatchNorm, Biased, drop, layer_seed

# A thread each, because the replicas of a strategy trace the same layers in threads of their own.
_PASS = threading.local()


@contextmanager
def passing(update_stats: bool, seed: tf.Tensor | None) -> Iterator[None]:
    """What the stand-ins called inside do: see ``Network.call``."""
    before = getattr(_PASS, "now", (False, None))
    _PASS.now = (update_stats, seed)
    try:
        yield
    finally:
        _PASS.now = before


def _now() -> tuple[bool, tf.Tensor | None]:
    return getattr(_PASS, "now", (False, None))


class Normalization(keras.layers.Layer):
    """Batch normalisation over all axes but the last.

    Args:
      original: the Keras layer it stands for. Frozen (``trainable=False``) it normalises by its
        averages in training, too, as in Keras.
      config: its configuration; epsilon, center, scale and initialisers are kept.
      path: prefix of the weights' names.
      decay, synchronized, dtype: see ``BatchNorm``.
    """

    def __init__(
        self,
        original: keras.layers.BatchNormalization,
        config: dict[str, Any],
        name: str,
        path: str,
        decay: float,
        synchronized: bool,
        dtype: str,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.original, self.place = config, path
        self.decay, self.synchronized = decay, synchronized or original.synchronized
        self.frozen = not original.trainable
        self.norm: BatchNorm

    def build(self, input_shape: tuple[Any, ...]) -> None:
        channels, config = input_shape[-1], self.original
        if config["axis"] not in (-1, len(input_shape) - 1):
            raise ValueError(f"{self.place} normalises axis {config['axis']}, not the last axis")
        self.norm = BatchNorm(
            self.place,
            channels,
            self.decay,
            self.synchronized,
            self.dtype_policy.name,
            config["epsilon"],
            scale=config["scale"],
            center=config["center"],
        )
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            weight = getattr(self.norm, name)
            if weight is not None:
                initial = keras.initializers.get(config[f"{name}_initializer"])
                weight.assign(initial((channels,)))
        self.norm.trainable = not self.frozen

    def call(self, inputs: tf.Tensor, training: bool = False, mask: Any = None) -> tf.Tensor:
        if mask is not None:
            raise ValueError(f"{self.place}: normalisation under a mask is not supported")
        x, shape = inputs, tf.shape(inputs)
        flat = x if len(x.shape) == 4 else tf.reshape(x, [-1, 1, 1, x.shape[-1]])
        update_stats, _ = _now()
        y = self.norm(
            Biased(flat, None), training=training and not self.frozen, update_stats=update_stats
        )
        return y if len(x.shape) == 4 else tf.reshape(y, shape)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape


class Noise(keras.layers.Layer):
    """A layer that draws random numbers in training mode, from the pass's seed and its own path.

    Args:
      kind: ``dropout``, ``gaussian_dropout`` or ``gaussian_noise``.
      amount: the rate, or the standard deviation of ``gaussian_noise``.
      shared: axes along which all numbers of a row share one draw (dropout); None is all axes.
      rows: whether rows draw on their own (dropout).
    """

    def __init__(
        self,
        name: str,
        path: str,
        dtype: str,
        kind: str,
        amount: float,
        shared: tuple[int, ...] | None = (),
        rows: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.place, self.kind, self.amount = path, kind, amount
        self.shared, self.rows = shared, rows
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        x = inputs
        if not training or not self.amount:
            return x
        _, seed = _now()
        if seed is None:
            raise ValueError(f"{self.place} draws random numbers in training mode: pass a seed")
        seed = layer_seed(seed, self.place)
        if self.kind == "dropout":
            rank = len(x.shape)
            axes = range(1, rank) if self.shared is None else self.shared
            sides = [1 if axis in axes else tf.shape(x)[axis] for axis in range(rank)]
            return drop(x, self.amount, seed, sides if self.rows else [1, *sides[1:]])
        numbers = tf.cast(tf.random.stateless_normal(tf.shape(x), seed), x.dtype)
        if self.kind == "gaussian_noise":
            return x + self.amount * numbers
        return x * (1.0 + (self.amount / (1.0 - self.amount)) ** 0.5 * numbers)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape


class FixedScale(keras.layers.Layer):
    """(x − mean) / √variance in float32, with statistics that came with the weights.

    Args:
      original: the Keras ``Normalization`` it stands for.
      after: further factors a channel, applied to the result.
    """

    def __init__(
        self,
        original: keras.layers.Normalization,
        name: str,
        after: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__(name=name, dtype="float32")
        shape = tuple(original.adapt_mean.shape)
        self.mean = self.add_weight(name="mean", shape=shape, trainable=False)
        self.variance = self.add_weight(name="variance", shape=shape, trainable=False)
        self.mean.assign(np.asarray(original.adapt_mean))
        self.variance.assign(np.asarray(original.adapt_variance))
        self.after = after

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        variance = tf.convert_to_tensor(self.variance)
        y = (inputs - self.mean) / tf.maximum(tf.sqrt(variance), keras.config.epsilon())
        return y if self.after is None else y * tf.constant(self.after)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape


_SPATIAL = (
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)


def stand_in(
    layer: keras.layers.Layer,
    config: dict[str, Any],
    name: str,
    path: str,
    decay: float,
    synchronized: bool,
    dtype: str,
) -> keras.layers.Layer | None:
    """The layer to use instead of a Keras layer, or None where Keras's own keeps the contract."""
    if isinstance(layer, keras.layers.BatchNormalization):
        return Normalization(layer, config, name, path, decay, synchronized, dtype)
    if isinstance(layer, _SPATIAL):  # first: they are dropouts, too
        shared = tuple(range(1, layer.input_spec.ndim - 1))
        return Noise(name, path, dtype, "dropout", layer.rate, shared)
    if isinstance(layer, keras.layers.Dropout):
        sides = layer.noise_shape or ()
        shared = tuple(axis for axis, side in enumerate(sides) if axis and side == 1)
        return Noise(name, path, dtype, "dropout", layer.rate, shared, sides[:1] != (1,))
    if isinstance(layer, keras.layers.GaussianDropout):
        return Noise(name, path, dtype, "gaussian_dropout", layer.rate)
    if isinstance(layer, keras.layers.GaussianNoise):
        return Noise(name, path, dtype, "gaussian_noise", layer.stddev)
    rate = _path_dropout(layer)
    if rate is not None:
        return Noise(name, path, dtype, "dropout", rate, None)
    return None


def _path_dropout(layer: Any) -> float | None:
    """The rate of a layer that drops a residual branch of a whole row, as several packages have."""
    if type(layer).__name__ not in ("StochasticDepth", "DropPath"):
        return None
    for name in ("drop_path_rate", "rate", "drop_prob", "drop_rate"):
        if isinstance(getattr(layer, name, None), (int, float)):
            return float(getattr(layer, name))
    return None
