"""Five 3×3 convolutions: enough for handwritten digits, fast on any machine."""

from __future__ import annotations

import tensorflow as tf

from realmix_tf.nets.layers import Biased, Network, halved
from realmix_tf.nets.spec import NetworkSpec

_SLOPE = 0.1


class SmallNet(Network):
    """Convolutions of f, f, 2f, 2f, 4f channels, each with BN and LeakyReLU, then the global mean.

    The third and the fifth halve the resolution.
    """

    def __init__(self, spec: NetworkSpec, precision: str, seed: int, synchronized: bool) -> None:
        super().__init__(spec, precision, seed, synchronized)
        f, inputs = spec.filters, spec.channels
        self.pairs = []
        for index, (outputs, stride) in enumerate(
            ((f, 1), (f, 1), (2 * f, 2), (2 * f, 1), (4 * f, 2))
        ):
            conv = self.conv(f"conv{index}", inputs, outputs, 3, stride)
            self.pairs.append((conv, self.norm(f"norm{index}", outputs)))
            inputs = outputs
        self.finish(halved(spec.height, 2), halved(spec.width, 2), inputs)

    def embed(
        self, images: tf.Tensor, training: bool, update_stats: bool, seed: tf.Tensor | None
    ) -> tf.Tensor:
        x = self.first(images)
        for conv, norm in self.pairs:
            x = Biased(norm.activated(conv(x), _SLOPE, training, update_stats), None)
        return x.values
