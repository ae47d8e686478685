"""The 13-layer network of Laine and Aila (2017) and Tarvainen and Valpola (2017).

In the edition of the MixMatch code base: an activation comes before its normalisation, and the
dropouts are left out.
"""

from __future__ import annotations

import tensorflow as tf

from realmix_tf.nets.layers import Biased, Network
from realmix_tf.nets.spec import NetworkSpec

_SLOPE = 0.2
# Channels over f, side, padding of each convolution; None halves the resolution.
_LAYERS = (
    (1, 3, "SAME"),
    (1, 3, "SAME"),
    (1, 3, "SAME"),
    None,
    (2, 3, "SAME"),
    (2, 3, "SAME"),
    (2, 3, "SAME"),
    None,
    (4, 3, "VALID"),
    (2, 1, "SAME"),
    (1, 1, "SAME"),
)


class Cnn13(Network):
    """Nine convolutions of f, f, f, 2f, 2f, 2f, 4f, 2f, f channels, then the global mean.

    Each is followed by LeakyReLU and then by batch normalisation; two maximum poolings halve the
    resolution. Kernels are drawn uniformly (Glorot and Bengio 2010). 128 filters make the
    published size.
    """

    def __init__(self, spec: NetworkSpec, precision: str, seed: int, synchronized: bool) -> None:
        super().__init__(spec, precision, seed, synchronized)
        self.pairs: list[tuple | None] = []
        inputs, height, width = spec.channels, spec.height, spec.width
        for layer in _LAYERS:
            if layer is None:
                self.pairs.append(None)
                height, width = height // 2, width // 2
                continue
            times, size, padding = layer
            outputs, index = times * spec.filters, sum(pair is not None for pair in self.pairs)
            conv = self.conv(f"conv{index}", inputs, outputs, size, padding=padding, glorot=True)
            self.pairs.append((conv, self.norm(f"norm{index}", outputs)))
            inputs = outputs
            if padding == "VALID":
                height, width = height - size + 1, width - size + 1
        self.finish(height, width, inputs)

    def embed(
        self, images: tf.Tensor, training: bool, update_stats: bool, seed: tf.Tensor | None
    ) -> tf.Tensor:
        x = self.first(images).values
        for pair in self.pairs:
            if pair is None:
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
            else:
                conv, norm = pair
                active = Biased(conv.activated(x, _SLOPE, training), None)
                x = norm(active, training=training, update_stats=update_stats)
        return x
