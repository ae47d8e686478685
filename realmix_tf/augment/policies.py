"""The weak augmentation policies, by the names users type.

A policy is a pure function of a batch and of ``width`` uniform numbers an image.

| name | what it does |
|---|---|
| none | nothing |
| mirror | mirror |
| cifar10 | mirror, shift by up to 4 pixels with reflection |
| svhn | shift by up to 4 pixels (house numbers are never mirrored) |
| stl10 | mirror, shift by up to 12 pixels |
| digits | shift by up to 1 pixel (for the 8×8 digits) |
| color | mirror, brightness ±0.1, hue ±0.5, saturation 0.1–3, contrast 0.5–1.5, shift by up to 4 |
| cutout | with probability 0.3 a rectangle of 2–40 % of the area, aspect 0.3–1/0.3, random bytes |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from realmix_tf.augment import ops
from realmix_tf.augment.names import POLICY_NAMES
from realmix_tf.errors import UsageError


@dataclass(frozen=True)
class Policy:
    """A weak policy.

    Attributes:
      name: as in the table above.
      width: uniform numbers it needs an image.
      min_size: the smallest height and width it can be used on, in pixels.
    """

    name: str
    width: int
    min_size: int
    function: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

    def __call__(self, images: tf.Tensor, uniforms: tf.Tensor) -> tf.Tensor:
        """uint8 [N, H, W, C] and float32 [N, width] in [0, 1) → uint8 [N, H, W, C]."""
        return self.function(images, uniforms)


def get_policy(name: str) -> Policy:
    """Looks a policy up.

    Raises:
      UsageError: there is no policy of that name.
    """
    if name not in _POLICIES:
        raise UsageError(
            f"there is no augmentation policy {name!r}", "--augment", " or ".join(POLICY_NAMES)
        )
    return _POLICIES[name]


def _shift_policy(name: str, pixels: int, mirror: bool) -> Policy:
    def apply(images: tf.Tensor, uniforms: tf.Tensor) -> tf.Tensor:
        return _mirror_shift(images, uniforms, pixels, mirror)

    return Policy(name, 3, pixels + 1, apply)


def _mirror_shift(images: tf.Tensor, uniforms: tf.Tensor, pixels: int, mirror: bool) -> tf.Tensor:
    flip = (uniforms[:, 0] < 0.5) & mirror
    offsets = tf.cast(tf.floor(uniforms[:, 1:3] * (2 * pixels + 1)), tf.int32) - pixels
    return ops.mirror_shift(images, flip, offsets[:, 0], offsets[:, 1], pixels)


def _color(images: tf.Tensor, uniforms: tf.Tensor) -> tf.Tensor:
    jittered = ops.jitter_color(
        images,
        brightness=_between(uniforms[:, 3], -0.1, 0.1),
        hue=_between(uniforms[:, 4], -0.5, 0.5),
        saturation=_between(uniforms[:, 5], 0.1, 3.0),
        contrast=_between(uniforms[:, 6], 0.5, 1.5),
    )
    return _mirror_shift(jittered, uniforms, 4, True)


def _cutout(images: tf.Tensor, uniforms: tf.Tensor) -> tf.Tensor:
    return ops.random_erase(
        images,
        apply=uniforms[:, 0] < 0.3,
        area=_between(uniforms[:, 1], 0.02, 0.4),
        aspect=_between(uniforms[:, 2], 0.3, 1 / 0.3),
        top=uniforms[:, 3],
        left=uniforms[:, 4],
        noise_key=uniforms[:, 5],
    )


def _between(uniform: tf.Tensor, low: float, high: float) -> tf.Tensor:
    return low + uniform * (high - low)


_POLICIES = {
    policy.name: policy
    for policy in (
        Policy("none", 1, 1, lambda images, uniforms: images),
        _shift_policy("mirror", 0, True),
        _shift_policy("cifar10", 4, True),
        _shift_policy("svhn", 4, False),
        _shift_policy("stl10", 12, True),
        _shift_policy("digits", 1, False),
        Policy("color", 7, 5, _color),
        Policy("cutout", 6, 2, _cutout),
    )
}
