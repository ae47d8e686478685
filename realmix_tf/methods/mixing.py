"""MixUp and interleaving (pure functions)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realmix_tf.lazy import tf

if TYPE_CHECKING:
    from collections.abc import Sequence


def mixup(
    images: tf.Tensor, labels: tf.Tensor, ratio: tf.Tensor, partner: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """MixUp, one ratio a row (MixMatch, equations 8 to 11).

    Args:
      images: float32 [N, H, W, C].
      labels: float32 [N, classes], rows that sum to 1.
      ratio: float32 [N] in [½, 1], the share of the row itself.
      partner: int32 [N], the row it is mixed with.

    Returns:
      The mixed images and labels, shaped as they came.
    """
    weight = ratio[:, None]
    mixed_labels = labels * weight + tf.gather(labels, partner) * (1.0 - weight)
    weight = ratio[:, None, None, None]
    return images * weight + tf.gather(images, partner) * (1.0 - weight), mixed_labels


def mix_ratio(seed: tf.Tensor, beta: float, count: tf.Tensor) -> tf.Tensor:
    """λ' = max(λ, 1 − λ) with λ ~ Beta(beta, beta), one a row: float32 [count] in [½, 1]."""
    from realmix_tf.randomness import beta_symmetric

    ratio = beta_symmetric(seed, beta, count)
    return tf.maximum(ratio, 1.0 - ratio)


def shuffled(seed: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """A random permutation of 0 … count − 1, int32."""
    return tf.random.experimental.stateless_shuffle(tf.range(count), seed)


def group_sizes(size: int, groups: int) -> list[int]:
    """``size`` rows in ``groups`` parts; what is left over goes one each to the last."""
    small, left = divmod(size, groups)
    return [small + (index >= groups - left) for index in range(groups)]


def interleave(blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Swaps part i of block 0 with part i of block i, so that block 0 samples all blocks.

    The published code does this so that batch normalisation's moving averages, which follow block
    0 only, see labelled and unlabelled rows. Applied twice it is the identity.

    Args:
      blocks: k tensors [B, …] of one static shape.
    """
    sizes = group_sizes(int(blocks[0].shape[0]), len(blocks))
    parts = [tf.split(block, sizes) for block in blocks]
    for index in range(1, len(blocks)):
        parts[0][index], parts[index][index] = parts[index][index], parts[0][index]
    return [tf.concat(part, 0) for part in parts]
