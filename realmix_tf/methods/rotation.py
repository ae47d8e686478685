"""Quarter turns of images as a task: which one was made? (pure functions)"""

from __future__ import annotations

from realmix_tf.errors import UsageError
from realmix_tf.lazy import tf
from realmix_tf.methods.base import Task

TURNS = 4


def check(task: Task, off: str, rows: int = TURNS) -> None:
    """Looks whether images can be turned and a batch be cut into four equal blocks.

    Args:
      off: the flag that does without, such as ``--w_rot=0``.
      rows: images to be cut into blocks, where that is what happens.

    Raises:
      UsageError: they cannot.
    """
    height, width = task.image_size
    if height != width:
        raise UsageError(
            f"images of {height}×{width} pixels cannot be turned by a quarter",
            "--method",
            f"square images, or {off}",
        )
    if rows % TURNS:
        raise UsageError(
            f"{rows} images do not divide into {TURNS} blocks to be turned",
            "--batch",
            f"a multiple of {TURNS} a device, or {off}",
        )


def turn(images: tf.Tensor, quarters: int) -> tf.Tensor:
    """Turns images counter-clockwise: float32 [N, H, W, C], H = W for odd quarters.

    Args:
      quarters: 0 to 3, in quarter turns.
    """
    if quarters == 1:
        return tf.transpose(images, [0, 2, 1, 3])[:, ::-1]
    if quarters == 2:
        return images[:, ::-1, ::-1]
    if quarters == 3:
        return tf.transpose(images, [0, 2, 1, 3])[:, :, ::-1]
    return images


# ReMixMatch's labels: unturned, upside down, a quarter counter-clockwise, a quarter clockwise.
QUARTERS_OF_LABEL = (0, 2, 1, 3)


def turned_blocks(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts a batch into four equal blocks and turns block j as label j says (ReMixMatch, 3.3).

    Args:
      images: float32 [N, S, S, C], N a multiple of 4.

    Returns:
      The turned images; labels int64 [N].
    """
    blocks = tf.split(images, TURNS)
    turned = [turn(b, quarters) for b, quarters in zip(blocks, QUARTERS_OF_LABEL, strict=True)]
    return tf.concat(turned, 0), _labels(int(images.shape[0]) // TURNS)


def all_turns(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Every image in all four positions.

    Args:
      images: float32 [N, S, S, C].

    Returns:
      float32 [4·N, S, S, C], block j turned as label j says; labels int64 [4·N].
    """
    turned = [turn(images, quarters) for quarters in QUARTERS_OF_LABEL]
    return tf.concat(turned, 0), _labels(int(images.shape[0]))


def _labels(rows: int) -> tf.Tensor:
    return tf.repeat(tf.range(TURNS, dtype=tf.int64), rows)
