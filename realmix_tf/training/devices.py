"""What the machine offers: devices, and the precision that suits them."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import tensorflow as tf

from realmix_tf.errors import ResourceError, UsageError

_BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}
_AMPERE = (8, 0)  # the first GPUs with bfloat16 units


@functools.cache
def processor_flags() -> frozenset[str]:
    """The instruction sets the processor names; empty where the system does not tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def resolve_precision(precision: str) -> str:
    """``auto`` → ``mixed_bfloat16`` where there are units for it, else ``float32``."""
    if precision != "auto":
        return precision
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        fast = all(tuple(d.get("compute_capability") or (0, 0)) >= _AMPERE for d in details)
    else:
        fast = bool(_BFLOAT16_FLAGS & processor_flags())
    return "mixed_bfloat16" if fast else "float32"


def strategy_for(count: int) -> tf.distribute.Strategy | None:
    """What spreads an update over ``count`` devices of this machine; None for one.

    These are the first GPUs. A machine without any splits its processor into logical devices,
    which is slower than one device but otherwise the same: something to try a run out with.

    Raises:
      ResourceError: there are GPUs, but fewer.
      UsageError: the processor cannot be split any more, as TensorFlow is at work in this process.
    """
    if count == 1:
        return None
    gpus = len(tf.config.list_physical_devices("GPU"))
    if 0 < gpus < count:
        raise ResourceError(
            f"{count} devices are asked for but this machine has {gpus} GPU",
            "--devices",
            f"--devices={gpus}",
        )
    if not gpus:
        _split_processor(count)
    kind = "GPU" if gpus else "CPU"
    return tf.distribute.MirroredStrategy([f"{kind}:{number}" for number in range(count)])


def _split_processor(count: int) -> None:
    processor = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * count
    if tf.config.get_logical_device_configuration(processor) == parts:
        return
    try:
        tf.config.set_logical_device_configuration(processor, parts)
    except RuntimeError as error:
        raise UsageError(
            f"the processor cannot be split into {count} devices: TensorFlow is at work already",
            "--devices",
            "a new Python process",
        ) from error


def describe(count: int = 1) -> str:
    """The devices of a run in a few words, such as ``2 CPU cores`` or ``2 GPUs (NVIDIA A100)``.

    Args:
      count: how many share a batch.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return f"{_plural(count, 'GPU')} ({details.get('device_name', 'unknown')})"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    split = "" if count == 1 else f" as {count} devices"
    return f"{_plural(cores or 1, 'CPU core')}{split}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
