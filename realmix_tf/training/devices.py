"""What the machine offers: devices, and the precision that suits them."""

from __future__ import annotations

import functools
from pathlib import Path

import tensorflow as tf

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


def describe() -> str:
    """The devices in a few words, such as ``2 CPU cores`` or ``1 GPU (NVIDIA A100)``."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return f"{len(gpus)} GPU ({details.get('device_name', 'unknown')})"
    import os

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} CPU cores"
