"""The presets: every file is readable by the training command and says what it is for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from realmix_tf.cli import app
from realmix_tf.cli.train import _define, main
from realmix_tf.data.names import DatasetName
from realmix_tf.methods.registry import get_method

ROOT = Path(__file__).resolve().parents[1]
PRESETS = sorted((ROOT / "presets").glob("*.flags"))
PUBLISHED = {
    f"{data}_{labels}_{method}"
    for data, sizes in (("cifar10", (250, 4000)), ("svhn", (250, 1000)))
    for labels in sizes
    for method in ("mixmatch", "realmix")
}


def parsed(preset: Path) -> flags.FlagValues:
    words = [line for line in preset.read_text("utf-8").splitlines() if line.startswith("--")]
    method = next(w.partition("=")[2] for w in words if w.startswith("--method="))
    values = flags.FlagValues()
    flags.DEFINE_string("flagfile", "", "", flag_values=values)
    _define(values, method, "", True)
    assert app.parse(values, [f"--flagfile={preset}"], "realmix") == []
    return values


def test_the_published_settings_are_there():
    assert {preset.stem for preset in PRESETS} >= PUBLISHED


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.stem)
def test_a_preset_parses(preset, capsys):
    assert main([f"--flagfile={preset}", "--help"]) == 0
    assert "--dataset" in capsys.readouterr().out


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.stem)
def test_a_preset_holds_what_its_name_says(preset):
    values = parsed(preset)
    head = preset.read_text("utf-8").splitlines()[0]
    assert head.startswith("# ")
    name = DatasetName.parse(values["dataset"].value)
    method = get_method(values["method"].value)
    assert preset.stem.endswith(f"_{method.name}")
    assert name.dataset.split("_")[0] == preset.stem.split("_")[0]
    if name.copies is None:
        assert f"_{name.labels}_" in preset.stem
    else:
        assert f"_aug{name.copies}_" in preset.stem
    if preset.stem in PUBLISHED:
        assert values["beta"].value == 0.75
        assert values["train_kimg"].value == 65536
    if preset.stem in PUBLISHED and method.name == "realmix":
        assert values["tsa"].value == "linear_schedule"


def test_baseline_and_realmix_of_the_demo_differ_in_the_method_only():
    ours, theirs = (
        parsed(ROOT / f"presets/digits_20_{m}.flags") for m in ("realmix", "supervised")
    )
    shared = {name for name in ours if name in theirs} - {"method", "flagfile"}
    assert len(shared) > 20
    assert {n for n in shared if ours[n].value != theirs[n].value} == set()


@pytest.mark.process
def test_the_training_command_takes_a_preset():
    done = subprocess.run(
        [sys.executable, "realmix.py", f"--flagfile={PRESETS[0]}", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "mixmatch" in PRESETS[0].stem
    assert "--percent_mask" not in done.stdout
