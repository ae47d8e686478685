"""Networks written out plainly: every bias added, every statistic computed, in float64."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

EPSILON = 1e-3


class PlainNetwork:
    """The published Wide ResNet, or the five convolutions, over a dictionary of weights.

    ``statistics`` receives the batch mean and the unbiased variance each normalisation saw.
    """

    def __init__(self, spec, weights: Mapping[str, np.ndarray], training: bool) -> None:
        self.spec, self.training = spec, training
        self.weights = {n: tf.Variable(np.asarray(v), dtype=tf.float64) for n, v in weights.items()}
        self.statistics: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, images) -> tf.Tensor:
        x = tf.cast(images, tf.float64)
        x = (x - np.array(self.spec.mean)) / np.array(self.spec.std)
        return (self._resnet if self.spec.arch == "resnet" else self._small)(x)

    def _conv(self, name, x, stride=1):
        w = self.weights
        return tf.nn.conv2d(x, w[f"{name}/kernel"], stride, "SAME") + w[f"{name}/bias"]

    def _norm(self, name, x):
        w = self.weights
        mean, variance = w[f"{name}/moving_mean"], w[f"{name}/moving_variance"]
        if self.training:
            mean = tf.reduce_mean(x, [0, 1, 2])
            variance = tf.reduce_mean((x - mean) ** 2, [0, 1, 2])
            rows = np.prod(x.shape[:3])
            self.statistics[name] = (mean.numpy(), variance.numpy() * rows / (rows - 1))
        return (x - mean) / tf.sqrt(variance + EPSILON) * w[f"{name}/gamma"] + w[f"{name}/beta"]

    def _active(self, name, x):
        x = self._norm(name, x)
        return tf.where(x > 0, x, 0.1 * x)

    def _head(self, x):
        features = tf.reduce_mean(x, [1, 2])
        return features @ self.weights["head/kernel"] + self.weights["head/bias"]

    def _small(self, x):
        for index, stride in enumerate((1, 1, 2, 1, 2)):
            x = self._active(f"norm{index}", self._conv(f"conv{index}", x, stride))
        return self._head(x)

    def _resnet(self, x):
        x = self._conv("stem", x)
        channels = 16
        for scale in range(self.spec.resolved_scales):
            for unit in range(self.spec.repeat):
                name = f"group{scale}/unit{unit}"
                stride = 2 if scale > 0 and unit == 0 else 1
                active = self._active(f"{name}/norm1", x)
                shortcut = active if (scale, unit) == (0, 0) else x
                y = self._conv(f"{name}/conv1", active, stride)
                y = self._conv(f"{name}/conv2", self._active(f"{name}/norm2", y))
                width = self.spec.filters * 2**scale
                if width != channels:
                    shortcut = self._conv(f"{name}/shortcut", shortcut, stride)
                    channels = width
                x = shortcut + y
        return self._head(self._active("last_norm", x))


def randomize(network, seed: int = 0, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Gives a network random non-zero biases, gammas, betas and moving averages; returns all."""
    random = np.random.default_rng(seed)
    for name, variable in network.variables_by_name().items():
        kind = name.rpartition("/")[2]
        if kind in ("bias", "beta", "moving_mean"):
            variable.assign(scale * random.normal(size=variable.shape))
        elif kind in ("gamma", "moving_variance"):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return {n: v.numpy() for n, v in network.variables_by_name().items()}
