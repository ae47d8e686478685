"""MixUp and interleaving (pure functions)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realmix_tf.lazy import tf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Before the dot what the labelled rows are mixed with, behind it the unlabelled ones (x labelled,
# y unlabelled); nothing there leaves them as they are.
MIXMODES = ("xxy.yxy", "xx.yy", "xx.yxy", "xx.yx", "xx.", ".yy", "xxy.", ".yxy", ".")


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
    return _mixed_pair((images, labels), (images, labels), ratio, partner)


def _mixed_pair(
    rows: tuple[tf.Tensor, tf.Tensor],
    others: tuple[tf.Tensor, tf.Tensor],
    ratio: tf.Tensor,
    partner: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    share, wide = ratio[:, None], ratio[:, None, None, None]
    images = rows[0] * wide + tf.gather(others[0], partner) * (1.0 - wide)
    return images, rows[1] * share + tf.gather(others[1], partner) * (1.0 - share)


def mix_reversed(
    images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, beta: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """MixUp of each row with its mirror in the reversed batch, λ' = max(λ, 1 − λ) a row.

    Zhang et al. 2018, arXiv:1710.09412.

    Args:
      images: float32 [N, H, W, C].
      labels: float32 [N, classes].
      seed: int32 [2].
      beta: λ ~ Beta(beta, beta).
    """
    rows = tf.shape(images)[0]
    return mixup(images, labels, mix_ratio(seed, beta, rows), tf.range(rows - 1, -1, -1))


def mix_ratio(seed: tf.Tensor, beta: float, count: tf.Tensor) -> tf.Tensor:
    """λ' = max(λ, 1 − λ) with λ ~ Beta(beta, beta), one a row: float32 [count] in [½, 1].

    MixMatch, equations 8 and 9.
    """
    from realmix_tf.randomness import beta_symmetric

    ratio = beta_symmetric(seed, beta, count)
    return tf.maximum(ratio, 1.0 - ratio)


def shuffled(seed: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """A random permutation of 0 … count − 1, int32."""
    return tf.random.experimental.stateless_shuffle(tf.range(count), seed)


def mix_blocks(
    images: Sequence[tf.Tensor],
    labels: Sequence[tf.Tensor],
    mode: str,
    beta: float,
    seed: Callable[[str], tf.Tensor],
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """MixUp between a labelled block and K unlabelled ones, λ' = max(λ, 1 − λ) a row.

    Args:
      images: K + 1 tensors float32 [B, H, W, C], the labelled block first.
      labels: as many tensors float32 [B, classes].
      mode: one of ``MIXMODES``; ``xxy.yxy`` is MixMatch, ``xx.yy`` mixes each kind with itself.
      beta: λ ~ Beta(beta, beta).
      seed: purpose → int32 [2].

    Returns:
      The blocks mixed, in the order they came.
    """

    def mixed(
        purpose: str, rows: tuple[tf.Tensor, tf.Tensor], others: tuple[tf.Tensor, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Each row with a random one of ``others``, which has as many."""
        count = tf.shape(rows[0])[0]
        ratio = mix_ratio(seed(f"{purpose}/ratio"), beta, count)
        partner = shuffled(seed(f"{purpose}/partner"), count)
        return _mixed_pair(rows, others, ratio, partner)

    def together(purpose: str, first: int) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """The blocks from ``first`` on, mixed with each other."""
        rows = tf.concat(images[first:], 0), tf.concat(labels[first:], 0)
        parts = len(images) - first
        some_images, some_labels = mixed(purpose, rows, rows)
        return tf.split(some_images, parts), tf.split(some_labels, parts)

    with_x, _, with_y = mode.partition(".")
    mixed_images, mixed_labels = list(images), list(labels)
    if "xxy" in with_x or "yxy" in with_y:
        all_images, all_labels = together("mixup", 0)
        first = 0 if with_x == "xxy" else 1
        last = len(images) if with_y == "yxy" else 1
        mixed_images[first:last] = all_images[first:last]
        mixed_labels[first:last] = all_labels[first:last]
    if with_x == "xx":
        labeled = images[0], labels[0]
        mixed_images[0], mixed_labels[0] = mixed("mixup/labeled", labeled, labeled)
    if with_y == "yy":
        mixed_images[1:], mixed_labels[1:] = together("mixup/unlabeled", 1)
    if with_y == "yx":
        for index in range(1, len(images)):
            mixed_images[index], mixed_labels[index] = mixed(
                f"mixup/unlabeled{index}",
                (images[index], labels[index]),
                (images[0], labels[0]),
            )
    return mixed_images, mixed_labels


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
