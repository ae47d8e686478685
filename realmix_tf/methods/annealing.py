"""Numbers that change as training goes on (pure functions)."""

from __future__ import annotations

import math

from realmix_tf.lazy import tf

KIMG = 1024  # labelled images in one "kimg", as the literature counts
TSA_SCHEDULES = ("none", "linear_schedule", "log_schedule", "exp_schedule")


def linear_ramp(images: tf.Tensor, warmup_kimg: float) -> tf.Tensor:
    """0 → 1, linear in images seen, reaching 1 after ``warmup_kimg``·1024 labelled images.

    MixMatch, section 3.5.
    """
    if warmup_kimg <= 0:
        return tf.ones_like(images)
    return tf.clip_by_value(images / (warmup_kimg * KIMG), 0.0, 1.0)


def progress_ramp(progress: tf.Tensor, warmup: float) -> tf.Tensor:
    """0 → 1, linear, reaching 1 at the share ``warmup`` of the run.

    Args:
      progress: float32 scalar t in [0, 1].
      warmup: in [0, 1]; 0 means 1 from the start.
    """
    if warmup <= 0:
        return tf.ones_like(progress)
    return tf.clip_by_value(progress / warmup, 0.0, 1.0)


def cosine_ramp(progress: tf.Tensor) -> tf.Tensor:
    """½ − ½·cos(2π·min(t, ½)): 0 → 1 over the first half of the run, AdaMatch's."""
    return 0.5 - 0.5 * tf.cos(2.0 * math.pi * tf.minimum(progress, 0.5))


def tsa_threshold(schedule: str, progress: tf.Tensor, num_classes: int) -> tf.Tensor:
    """η(t) = a(t)·(1 − 1/C) + 1/C (UDA, appendix A.1).

    Args:
      schedule: ``linear_schedule`` a = t, ``exp_schedule`` a = exp(5(t − 1)),
        ``log_schedule`` a = 1 − exp(−5t).
      progress: t in [0, 1], images seen over images planned.
      num_classes: C.

    Raises:
      ValueError: an unknown schedule.
    """
    if schedule == "linear_schedule":
        amount = progress
    elif schedule == "exp_schedule":
        amount = tf.exp(5.0 * (progress - 1.0))
    elif schedule == "log_schedule":
        amount = 1.0 - tf.exp(-5.0 * progress)
    else:
        raise ValueError(f"unknown TSA schedule {schedule!r}")
    return amount * (1.0 - 1.0 / num_classes) + 1.0 / num_classes
