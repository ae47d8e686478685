"""Random numbers that are pure functions of (seed, purpose, position).

A counter-based generator (Philox 4×32-10) is addressed directly: the key comes from seed and
purpose, the counter from the position. Any run of positions can be drawn on its own, in any
batching, on any number of threads or replicas, and gives the same numbers.
"""

from __future__ import annotations

import tensorflow as tf

from realmix_tf.keys import key

_PHILOX = 1
_WORDS_PER_BLOCK = 4  # one Philox block is four 32-bit words


def uniforms(seed: int, purpose: str, start: tf.Tensor | int, count: int, width: int) -> tf.Tensor:
    """Uniform numbers for the positions ``start … start + count − 1``.

    Args:
      seed: the run's seed.
      purpose: what the numbers are for, such as ``"unlabeled/weak0"``.
      start: scalar int64 ≥ 0, the first position.
      count: how many positions; may be a tensor.
      width: numbers a position; at least 1.

    Returns:
      float32 [count, width] in [0, 1), multiples of 2⁻²⁴. Row i depends on ``start + i`` only.
    """
    blocks = -(-width // _WORDS_PER_BLOCK)
    counter = tf.cast(start, tf.uint64) * tf.constant(blocks, tf.uint64)
    words = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=tf.stack([count, blocks * _WORDS_PER_BLOCK]),
        key=tf.constant([key(seed, purpose)], tf.uint64),
        counter=tf.stack([counter, tf.zeros([], tf.uint64)]),
        alg=_PHILOX,
        dtype=tf.uint32,
    )
    top_bits = tf.bitwise.right_shift(words[:, :width], tf.constant(8, tf.uint32))
    return tf.cast(top_bits, tf.float32) * 2.0**-24


def beta_symmetric(seed: tf.Tensor, concentration: float, count: int) -> tf.Tensor:
    """Draws from Beta(a, a), stable also for a far below 0.2.

    A Gamma(a) variable is Gamma(a + 1)·U^(1/a); working with logarithms avoids the underflow to
    0/0 that plain ratios of gammas meet when a is small.

    Args:
      seed: int32 [2].
      concentration: a > 0.
      count: how many.

    Returns:
      float32 [count] in [0, 1].
    """
    seeds = tf.random.split(seed, 2)
    gamma = tf.random.stateless_gamma([2, count], seeds[0], alpha=concentration + 1.0)
    uniform = tf.random.stateless_uniform([2, count], seeds[1], minval=2.0**-24)
    logarithm = tf.math.log(gamma) + tf.math.log(uniform) / concentration
    return tf.sigmoid(logarithm[0] - logarithm[1])
