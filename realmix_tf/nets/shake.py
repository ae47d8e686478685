"""Shake-Shake (Gastaldi 2017), in the form of the MixMatch code base."""

from __future__ import annotations

import tensorflow as tf

from realmix_tf.nets.layers import Biased, Network, halved, layer_seed
from realmix_tf.nets.spec import NetworkSpec


def shake(
    first: tf.Tensor, second: tf.Tensor, forward: tf.Tensor, backward: tf.Tensor
) -> tf.Tensor:
    """first + mu·(second − first), with another mu in the backward pass.

    Args:
      first, second: [N, H, W, C].
      forward, backward: [N, 1, 1, 1] in the same type: mu of each row in either pass. They are
        independent in the paper; a published implementation uses one for both by mistake.
    """

    @tf.custom_gradient
    def function(first, second):  # type: ignore[no-untyped-def]
        def gradient(dy):  # type: ignore[no-untyped-def]
            return dy * (1.0 - backward), dy * backward

        return first + forward * (second - first), gradient

    return function(first, second)


class ShakeShake(Network):
    """Stem of 16 channels, then ``scales`` groups of ``repeat`` units, f·2^s channels wide.

    A unit adds to its input a mixture of two branches, each ReLU, 3×3, BN, ReLU, 3×3, BN. Training
    mixes by a random number a row, drawn anew for the backward pass; inference takes the mean. No
    convolution has a bias. Where the resolution halves, the shortcut joins two 1×1 convolutions,
    on the pixels of even and of odd row and column, and normalises.
    """

    def __init__(self, spec: NetworkSpec, precision: str, seed: int, synchronized: bool) -> None:
        super().__init__(spec, precision, seed, synchronized)
        self.stochastic = True
        self.stem = self.conv("stem", spec.channels, 16, 3, bias=False)
        self.units: list[tuple] = []
        inputs = 16
        for scale in range(spec.resolved_scales):
            outputs = spec.filters << scale
            for index in range(spec.repeat):
                stride = 2 if scale and index == 0 else 1
                name = f"group{scale}/unit{index}"
                self.units.append((name, *self._unit(name, inputs, outputs, stride)))
                inputs = outputs
        halvings = spec.resolved_scales - 1
        self.finish(halved(spec.height, halvings), halved(spec.width, halvings), inputs)

    def _unit(self, name: str, inputs: int, outputs: int, stride: int) -> tuple:
        branches = [
            (
                self.conv(f"{branch}/conv1", inputs, outputs, 3, stride, bias=False),
                self.norm(f"{branch}/norm1", outputs),
                self.conv(f"{branch}/conv2", outputs, outputs, 3, bias=False),
                self.norm(f"{branch}/norm2", outputs),
            )
            for branch in (f"{name}/branch0", f"{name}/branch1")
        ]
        shortcut: list = []
        if stride == 2:
            halves = (outputs // 2, outputs - outputs // 2)
            for index, width in enumerate(halves):
                path = f"{name}/shortcut{index}"
                shortcut.append(self.conv(path, inputs, width, 1, bias=False))
        elif inputs != outputs:
            shortcut.append(self.conv(f"{name}/shortcut", inputs, outputs, 1, bias=False))
        norm = self.norm(f"{name}/shortcut_norm", outputs) if shortcut else None
        return branches, shortcut, norm

    def embed(
        self, images: tf.Tensor, training: bool, update_stats: bool, seed: tf.Tensor | None
    ) -> tf.Tensor:
        mode = {"training": training, "update_stats": update_stats}
        x = self.stem(self.first(images)).values
        for name, branches, shortcut, shortcut_norm in self.units:
            active = Biased(tf.nn.relu(x), None)
            first, second = (
                norm2(norm1.convolved(conv1(active), 0.0, conv2, **mode), **mode)
                for conv1, norm1, conv2, norm2 in branches
            )
            straight = x
            if len(shortcut) == 2:
                corners = zip(shortcut, _corners(active.values), strict=True)
                joined = [conv(Biased(corner, None)).values for conv, corner in corners]
                straight = shortcut_norm(Biased(tf.concat(joined, -1), None), **mode)
            elif shortcut:
                straight = shortcut_norm(shortcut[0](Biased(x, None)), **mode)
            x = straight + self._mixed(first, second, name, training, seed)
        return x

    def _mixed(
        self,
        first: tf.Tensor,
        second: tf.Tensor,
        name: str,
        training: bool,
        seed: tf.Tensor | None,
    ) -> tf.Tensor:
        if not training:
            return 0.5 * (first + second)
        shape = [2, tf.shape(first)[0], 1, 1, 1]
        mu = tf.cast(tf.random.stateless_uniform(shape, layer_seed(seed, name)), first.dtype)
        return shake(first, second, mu[0], mu[1])


def _corners(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The pixels of even row and column, and those of odd ones: [N, ⌈H/2⌉, ⌈W/2⌉, C] each."""
    odd_sides = [[0, 0], [0, x.shape[1] % 2], [0, x.shape[2] % 2], [0, 0]]
    return x[:, ::2, ::2], tf.pad(x, odd_sides)[:, 1::2, 1::2]
