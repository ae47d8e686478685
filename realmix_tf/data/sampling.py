"""The step-indexed sampler: what update u reads is a pure function of (seed, u).

The state of the input is therefore one integer. A run resumes bit for bit from its update, and
replicas together see the batch that one device would.
"""

from __future__ import annotations

import tensorflow as tf

from realmix_tf.randomness import key

_MOST_SORTED = 2048  # images up to which an epoch's order is sorted rather than enciphered
_ROUNDS = 16  # of the block cipher behind the permutation; with 4, neighbours stay related


def permuted(positions: tf.Tensor, size: int, seed: int, purpose: str) -> tf.Tensor:
    """Which image stands at each position of an endless stream of shuffled epochs.

    Positions e·size … (e + 1)·size − 1 hold epoch e: each image exactly once, in an order that
    depends on (seed, purpose, e).

    Args:
      positions: int64 [n] ≥ 0.
      size: number of images, at least 1.

    Returns:
      int64 [n] in [0, size).
    """
    if size == 1:
        return tf.zeros_like(positions)
    start = tf.constant(key(seed, f"order/{purpose}"), tf.uint64)
    if size <= _MOST_SORTED:
        return _sorted_order(positions, size, start)
    words = _mixed(tf.cast(positions // size, tf.uint64) + start)
    # The cipher reads only the low bits of each seed word (8 for up to 65536 images), so every word
    # must differ there from epoch to epoch.
    seeds = tf.stack([_bits(words, 0), _bits(words, 21), _bits(words, 42)], axis=1)
    # The public wrapper pads the wrong axis when every index has its own seed.
    return tf.raw_ops.RandomIndexShuffle(
        index=positions % size,
        seed=seeds,
        max_index=tf.fill(tf.shape(positions), tf.constant(size - 1, tf.int64)),
        rounds=_ROUNDS,
    )


def _sorted_order(positions: tf.Tensor, size: int, start: tf.Tensor) -> tf.Tensor:
    # The cipher works on 65536 numbers or more and tries again until one fits: 20 images would
    # take it milliseconds.
    epochs, which = tf.unique(positions // size, tf.int64)
    streams = _mixed(tf.cast(epochs, tf.uint64) + start)
    words = _mixed(streams[:, None] + tf.cast(tf.range(size), tf.uint64))
    keys = _bits(words, 0) * (1 << 21) + _bits(words, 21)
    order = tf.argsort(keys, direction="DESCENDING", stable=True)
    return tf.cast(tf.gather_nd(order, tf.stack([which, positions % size], 1)), tf.int64)


def _mixed(words: tf.Tensor) -> tf.Tensor:
    """Well-mixed 64-bit words (the finaliser of SplitMix64)."""
    words *= tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        shifted = tf.bitwise.right_shift(words, tf.constant(shift, tf.uint64))
        words = tf.bitwise.bitwise_xor(words, shifted) * tf.constant(factor, tf.uint64)
    return tf.bitwise.bitwise_xor(words, tf.bitwise.right_shift(words, tf.constant(31, tf.uint64)))


def _bits(words: tf.Tensor, shift: int) -> tf.Tensor:
    """21 bits from ``shift`` on, as int64."""
    shifted = tf.bitwise.right_shift(words, tf.constant(shift, tf.uint64))
    return tf.cast(tf.bitwise.bitwise_and(shifted, tf.constant((1 << 21) - 1, tf.uint64)), tf.int64)
