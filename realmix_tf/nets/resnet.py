"""ResNet (He et al. 2016): 18 layers of basic units, 50 layers of bottlenecks."""

from __future__ import annotations

import tensorflow as tf

from realmix_tf.nets import fused
from realmix_tf.nets.layers import Biased, Network, halved
from realmix_tf.nets.spec import NetworkSpec

_STAGES = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3), "resnet50_imagenet": (3, 4, 6, 3)}
_EXPANSION = 4  # of a bottleneck


class ResNet(Network):
    """Stem, then four stages of residual units, f, 2f, 4f and 8f channels wide, then the mean.

    A basic unit is 3×3, BN, ReLU, 3×3, BN; a bottleneck is 1×1, BN, ReLU, 3×3, BN, ReLU, 1×1 to
    four times the channels, BN. It is added to its input (through 1×1 and BN where the shape
    changes), and the sum is activated. From the second stage on, a stage's first 3×3 halves the
    resolution. The stem is a 3×3, BN, ReLU, as usual for small images; that of
    ``resnet50_imagenet`` is a 7×7 of stride 2 and a 3×3 maximum of stride 2. No convolution has a
    bias; batch normalisation adds 10⁻⁵ to the variance.
    """

    EPSILON = 1e-5

    def __init__(self, spec: NetworkSpec, precision: str, seed: int, synchronized: bool) -> None:
        super().__init__(spec, precision, seed, synchronized)
        self.large = spec.arch == "resnet50_imagenet"
        bottleneck = spec.arch != "resnet18"
        size, stride = (7, 2) if self.large else (3, 1)
        self.stem = self.conv("stem", spec.channels, spec.filters, size, stride, bias=False)
        self.stem_norm = self.norm("stem_norm", spec.filters)
        self.units: list[tuple] = []
        inputs = spec.filters
        for stage, count in enumerate(_STAGES[spec.arch]):
            width = spec.filters << stage
            outputs = width * _EXPANSION if bottleneck else width
            for index in range(count):
                name, stride = f"stage{stage}/unit{index}", 2 if stage and index == 0 else 1
                layers = [(inputs, width, 3, stride), (width, width, 3, 1)]
                if bottleneck:
                    layers = [(inputs, width, 1, 1), (width, width, 3, stride)]
                    layers.append((width, outputs, 1, 1))
                self.units.append(self._unit(name, layers, stride))
                inputs = outputs
        halvings = 5 if self.large else 3
        self.finish(halved(spec.height, halvings), halved(spec.width, halvings), inputs)

    def _unit(self, name: str, layers: list[tuple[int, int, int, int]], stride: int) -> tuple:
        pairs = [
            (
                self.conv(f"{name}/conv{i}", inputs, outputs, size, step, bias=False),
                self.norm(f"{name}/norm{i}", outputs),
            )
            for i, (inputs, outputs, size, step) in enumerate(layers, 1)
        ]
        inputs, outputs = layers[0][0], layers[-1][1]
        shortcut = None
        if stride != 1 or inputs != outputs:
            shortcut = (
                self.conv(f"{name}/shortcut", inputs, outputs, 1, stride, bias=False),
                self.norm(f"{name}/shortcut_norm", outputs),
            )
        return pairs, shortcut

    def embed(
        self, images: tf.Tensor, training: bool, update_stats: bool, seed: tf.Tensor | None
    ) -> tf.Tensor:
        mode = {"training": training, "update_stats": update_stats}
        x = self.stem_norm.activated(self.stem(self.first(images)), 0.0, **mode)
        if self.large:
            x = tf.nn.max_pool2d(x, 3, 2, "SAME")
        for pairs, shortcut in self.units:
            (first, norm), *rest = pairs
            y = first(Biased(x, None))
            for conv, following in rest:
                y = norm.convolved(y, 0.0, conv, **mode)
                norm = following
            straight = x
            if shortcut is not None:
                conv, shortcut_norm = shortcut
                straight = shortcut_norm(conv(Biased(x, None)), **mode)
            x = fused.activate(straight + norm(y, **mode), 0.0)
        return x
