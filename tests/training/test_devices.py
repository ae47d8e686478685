"""Which devices and which precision a run gets."""

from __future__ import annotations

import subprocess
import sys

import pytest
import tensorflow as tf

from realmix_tf.errors import ResourceError
from realmix_tf.training import devices


def machine(monkeypatch: pytest.MonkeyPatch, flags: set[str], gpus: list[tuple[int, int]]) -> None:
    monkeypatch.setattr(devices, "processor_flags", lambda: frozenset(flags))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda gpu: {"compute_capability": gpu, "device_name": "a card"},
    )


@pytest.mark.parametrize(
    ("flags", "gpus", "expected"),
    [
        ({"avx2"}, [], "float32"),
        ({"avx512_bf16"}, [], "mixed_bfloat16"),
        ({"amx_bf16", "avx2"}, [], "mixed_bfloat16"),
        ({"amx_bf16"}, [(7, 0)], "float32"),
        (set(), [(8, 0), (9, 0)], "mixed_bfloat16"),
        (set(), [(9, 0), (7, 5)], "float32"),
    ],
)
def test_auto_is_bfloat16_where_there_are_units_for_it(
    monkeypatch: pytest.MonkeyPatch, flags, gpus, expected
) -> None:
    machine(monkeypatch, flags, gpus)
    assert devices.resolve_precision("auto") == expected
    assert devices.resolve_precision("float32") == "float32"
    assert devices.resolve_precision("mixed_bfloat16") == "mixed_bfloat16"


def test_the_devices_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, set(), [(8, 0), (8, 0)])
    assert devices.describe() == "1 GPU (a card)"
    assert devices.describe(2) == "2 GPUs (a card)"
    machine(monkeypatch, set(), [])
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda process: {0, 3}, raising=False)
    assert devices.describe() == "2 CPU cores"
    assert devices.describe(3) == "2 CPU cores as 3 devices"
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda process: {3})
    assert devices.describe() == "1 CPU core"


def test_one_device_needs_no_strategy_and_more_than_there_are_gpus_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, set(), [(8, 0), (8, 0)])
    assert devices.strategy_for(1) is None
    with pytest.raises(ResourceError, match=r"3 devices .* 2 GPU.*--devices=2"):
        devices.strategy_for(3)


def test_the_first_gpus_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, set(), [(8, 0), (8, 0), (8, 0)])
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", tuple)
    assert devices.strategy_for(2) == ("GPU:0", "GPU:1")


_SPLIT = """
import tensorflow as tf
from realmix_tf.errors import UsageError
from realmix_tf.training.devices import strategy_for
for count in (2, 2):
    strategy = strategy_for(count)
    print(strategy.num_replicas_in_sync, len(tf.config.list_logical_devices("CPU")))
try:
    strategy_for(3)
except UsageError as error:
    print(error)
"""


@pytest.mark.process
def test_a_processor_is_split_once_a_process() -> None:
    done = subprocess.run([sys.executable, "-c", _SPLIT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *pairs, refusal = done.stdout.splitlines()
    assert pairs == ["2 2", "2 2"]
    assert "TensorFlow is at work already (--devices); try: a new Python process" in refusal
