"""Networks written out plainly: every bias added, every statistic computed, in float64."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from realmix_tf.nets.layers import layer_seed

SEED = (3, 4)  # of passes that draw random numbers


class PlainNetwork:
    """A network written out over a dictionary of weights.

    ``statistics`` receives the batch mean and the unbiased variance each normalisation saw.
    """

    def __init__(self, spec, weights: Mapping[str, np.ndarray], training: bool) -> None:
        self.spec, self.training = spec, training
        self.weights = {n: tf.Variable(np.asarray(v), dtype=tf.float64) for n, v in weights.items()}
        self.statistics: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.epsilon = 1e-5 if spec.arch.startswith(("resnet18", "resnet50")) else 1e-3
        self.slope = {"resnet": 0.1, "small": 0.1, "cnn13": 0.2}.get(spec.arch, 0.0)

    def __call__(self, images) -> tf.Tensor:
        x = tf.cast(images, tf.float64)
        x = (x - np.array(self.spec.mean)) / np.array(self.spec.std)
        family = {
            "resnet": self._resnet,
            "small": self._small,
            "cnn13": self._cnn13,
            "shake": self._shake,
        }
        return self._head(family.get(self.spec.arch, self._later_resnet)(x))

    def _conv(self, name, x, stride=1, padding="SAME"):
        y = tf.nn.conv2d(x, self.weights[f"{name}/kernel"], stride, padding)
        return y + self.weights.get(f"{name}/bias", 0.0)

    def _norm(self, name, x):
        w = self.weights
        mean, variance = w[f"{name}/moving_mean"], w[f"{name}/moving_variance"]
        if self.training:
            mean = tf.reduce_mean(x, [0, 1, 2])
            variance = tf.reduce_mean((x - mean) ** 2, [0, 1, 2])
            rows = np.prod(x.shape[:3])
            self.statistics[name] = (mean.numpy(), variance.numpy() * rows / (rows - 1))
        scaled = (x - mean) / tf.sqrt(variance + self.epsilon)
        return scaled * w[f"{name}/gamma"] + w[f"{name}/beta"]

    def _leaky(self, x):
        return tf.where(x > 0, x, self.slope * x)

    def _active(self, name, x):
        return self._leaky(self._norm(name, x))

    def _head(self, x):
        features = tf.reduce_mean(x, [1, 2])
        return features @ self.weights["head/kernel"] + self.weights["head/bias"]

    def _small(self, x):
        for index, stride in enumerate((1, 1, 2, 1, 2)):
            x = self._active(f"norm{index}", self._conv(f"conv{index}", x, stride))
        return x

    def _cnn13(self, x):
        for index in range(9):
            if index in (3, 6):
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
            y = self._conv(f"conv{index}", x, padding="VALID" if index == 6 else "SAME")
            x = self._norm(f"norm{index}", self._leaky(y))
        return x

    def _units(self):
        """Name, stride, width of every residual unit of the networks in groups."""
        for scale in range(self.spec.resolved_scales):
            for unit in range(self.spec.repeat):
                stride = 2 if scale > 0 and unit == 0 else 1
                yield f"group{scale}/unit{unit}", stride, self.spec.filters * 2**scale

    def _resnet(self, x):
        x = self._conv("stem", x)
        channels = 16
        for name, stride, width in self._units():
            active = self._active(f"{name}/norm1", x)
            shortcut = active if name == "group0/unit0" else x
            y = self._conv(f"{name}/conv1", active, stride)
            y = self._conv(f"{name}/conv2", self._active(f"{name}/norm2", y))
            if width != channels:
                shortcut = self._conv(f"{name}/shortcut", shortcut, stride)
                channels = width
            x = shortcut + y
        return self._active("last_norm", x)

    def _shake(self, x):
        x = self._conv("stem", x)
        channels = 16
        for name, stride, width in self._units():
            branches = []
            for branch in (f"{name}/branch0", f"{name}/branch1"):
                y = self._conv(f"{branch}/conv1", self._leaky(x), stride)
                y = self._conv(f"{branch}/conv2", self._active(f"{branch}/norm1", y))
                branches.append(self._norm(f"{branch}/norm2", y))
            shortcut = x
            if stride == 2:
                h = self._leaky(tf.pad(x, [[0, 0], [0, 1], [0, 1], [0, 0]]))
                height, width_ = (-(-side // 2) for side in x.shape[1:3])
                halves = (h[:, ::2, ::2], h[:, 1::2, 1::2])
                halves = [half[:, :height, :width_] for half in halves]
                joined = [self._conv(f"{name}/shortcut{i}", h) for i, h in enumerate(halves)]
                shortcut = self._norm(f"{name}/shortcut_norm", tf.concat(joined, -1))
            elif width != channels:
                shortcut = self._norm(f"{name}/shortcut_norm", self._conv(f"{name}/shortcut", x))
            channels = width
            x = shortcut + self._shaken(name, *branches)
        return x

    def _shaken(self, name, first, second):
        if not self.training:
            return (first + second) / 2
        forward, backward = tf.cast(shake_coefficients(name, len(first)), tf.float64)
        value, slope = ((1 - mu) * first + mu * second for mu in (forward, backward))
        return slope + tf.stop_gradient(value - slope)

    def _later_resnet(self, x):
        large, deep = self.spec.arch == "resnet50_imagenet", self.spec.arch != "resnet18"
        x = self._active("stem_norm", self._conv("stem", x, 2 if large else 1))
        if large:
            x = tf.nn.max_pool2d(x, 3, 2, "SAME")
        for stage, count in enumerate((3, 4, 6, 3) if deep else (2, 2, 2, 2)):
            for unit in range(count):
                name, stride = f"stage{stage}/unit{unit}", 2 if stage and unit == 0 else 1
                strides = (1, stride, 1) if deep else (stride, 1)
                y = x
                for index, step in enumerate(strides, 1):
                    y = self._norm(
                        f"{name}/norm{index}", self._conv(f"{name}/conv{index}", y, step)
                    )
                    y = self._leaky(y) if index < len(strides) else y
                if f"{name}/shortcut/kernel" in self.weights:
                    x = self._conv(f"{name}/shortcut", x, stride)
                    x = self._norm(f"{name}/shortcut_norm", x)
                x = self._leaky(x + y)
        return x


def shake_coefficients(name: str, rows: int) -> np.ndarray:
    """float32 [2, rows, 1, 1, 1]: a unit's coefficients, forward and backward, under ``SEED``."""
    seed = layer_seed(tf.constant(SEED), name)
    return tf.random.stateless_uniform([2, rows, 1, 1, 1], seed).numpy()


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
