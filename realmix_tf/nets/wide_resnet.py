"""Wide ResNet (Zagoruyko and Komodakis 2016), in the edition MixMatch and its successors use."""

from __future__ import annotations

import tensorflow as tf

from realmix_tf.nets.layers import Biased, Network, halved
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
        halvings = spec.resolved_scales - 1
        self.finish(halved(spec.height, halvings), halved(spec.width, halvings), inputs)

    def _unit(self, name: str, inputs: int, outputs: int, stride: int) -> tuple:
        norm1 = self.norm(f"{name}/norm1", inputs)
        conv1 = self.conv(f"{name}/conv1", inputs, outputs, 3, stride)
        norm2 = self.norm(f"{name}/norm2", outputs)
        conv2 = self.conv(f"{name}/conv2", outputs, outputs, 3)
        shortcut = None
        if inputs != outputs:
            shortcut = self.conv(f"{name}/shortcut", inputs, outputs, 1, stride)
        return norm1, conv1, norm2, conv2, shortcut

    def embed(
        self, images: tf.Tensor, training: bool, update_stats: bool, seed: tf.Tensor | None
    ) -> tf.Tensor:
        mode = {"training": training, "update_stats": update_stats}
        x = self.stem(self.first(images))
        for index, (norm1, conv1, norm2, conv2, shortcut) in enumerate(self.units):
            if index == 0:
                h = norm1.activated(x, _SLOPE, **mode)
                straight = Biased(h, None)
                y = conv1(straight)
            else:
                straight = x
                y = norm1.convolved(x, _SLOPE, conv1, **mode)
            y = norm2.convolved(y, _SLOPE, conv2, **mode)
            if shortcut is not None:
                straight = shortcut(straight)
            x = Biased(straight.values + y.values, _sum(straight.offset, y.offset))
        return self.last_norm.activated(x, _SLOPE, **mode)


def _sum(first: tf.Tensor | None, second: tf.Tensor) -> tf.Tensor:
    return second if first is None else first + second
