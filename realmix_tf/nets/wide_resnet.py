"""Wide ResNet (Zagoruyko and Komodakis 2016), in the edition MixMatch and its successors use."""

from __future__ import annotations

import tensorflow as tf

from realmix_tf.nets.layers import Biased, Network, pool
from realmix_tf.nets.spec import NetworkSpec

_SLOPE = 0.1


class WideResNet(Network):
    """Stem of 16 channels, then ``scales`` groups of ``repeat`` units, f·2^s channels wide.

    A unit is BN, LeakyReLU, 3×3, BN, LeakyReLU, 3×3, added to its input (through a 1×1 where the
    channels change). Only the first unit of all activates before the shortcut, too.
    """

    def __init__(self, spec: NetworkSpec, precision: str, seed: int, synchronized: bool) -> None:
        super().__init__(spec, precision, seed, synchronized)
        self.stem = self.conv("stem", spec.channels, 16, 3)
        self.units = []
        inputs = 16
        for scale in range(spec.resolved_scales):
            outputs = spec.filters << scale
            for index in range(spec.repeat):
                stride = 2 if scale and index == 0 else 1
                self.units.append(self._unit(f"group{scale}/unit{index}", inputs, outputs, stride))
                inputs = outputs
        self.last_norm = self.norm("last_norm", inputs)
        self.finish(inputs)

    def _unit(self, name: str, inputs: int, outputs: int, stride: int) -> tuple:
        norm1 = self.norm(f"{name}/norm1", inputs)
        conv1 = self.conv(f"{name}/conv1", inputs, outputs, 3, stride)
        norm2 = self.norm(f"{name}/norm2", outputs)
        conv2 = self.conv(f"{name}/conv2", outputs, outputs, 3)
        shortcut = None
        if inputs != outputs:
            shortcut = self.conv(f"{name}/shortcut", inputs, outputs, 1, stride)
        return norm1, conv1, norm2, conv2, shortcut

    def embed(self, images: tf.Tensor, training: bool, update_stats: bool) -> tf.Tensor:
        mode = {"training": training, "update_stats": update_stats}
        x = self.stem(Biased(images, None))
        for index, (norm1, conv1, norm2, conv2, shortcut) in enumerate(self.units):
            h = Biased(tf.nn.leaky_relu(norm1(x, **mode), _SLOPE), None)
            y = Biased(tf.nn.leaky_relu(norm2(conv1(h), **mode), _SLOPE), None)
            y = conv2(y)
            straight = h if index == 0 else x
            if shortcut is not None:
                straight = shortcut(straight)
            offset = y.offset if straight.offset is None else straight.offset + y.offset
            x = Biased(straight.values + y.values, offset)
        return pool(tf.nn.leaky_relu(self.last_norm(x, **mode), _SLOPE))
