"""Which precision a machine gets."""

from __future__ import annotations

import pytest
import tensorflow as tf

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
    machine(monkeypatch, set(), [(8, 0)])
    assert devices.describe() == "1 GPU (a card)"
    machine(monkeypatch, set(), [])
    assert devices.describe().endswith("CPU cores")
