"""The presets: every file is readable by the training command and says what it is for."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import asdict
from itertools import product
from pathlib import Path

import pytest
from absl import flags

from realmix_tf.augment import codes
from realmix_tf.cli import app, options
from realmix_tf.cli.train import _define, _early, main
from realmix_tf.data.names import DatasetName
from realmix_tf.methods.base import Method, Task
from realmix_tf.methods.registry import FILES, get_method, recipe_of
from realmix_tf.nets.spec import NetworkOptions, NetworkSpec
from realmix_tf.options import check_options
from realmix_tf.training.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "presets"
PRESETS = sorted(FOLDER.glob("*.flags"))
METHODS = sorted(module.__name__.rpartition(".")[2] for module in FILES)
# Classes, side in pixels and training images.
BENCHMARKS = {
    "cifar10": (10, 32, 50_000),
    "cifar100": (100, 32, 50_000),
    "svhn": (10, 32, 604_388),
    "svhn_noextra": (10, 32, 73_257),
    "stl10": (10, 96, 105_000),
}
DIGITS = {"digits": (10, 8, 1_000)}
# Where nothing was published: neither the paper, its code, FixMatch's comparison nor USB and
# TorchSSL train the method on the set.
UNPUBLISHED = {
    ("ict", "cifar100"),
    ("ict", "stl10"),
    ("mixup", "cifar100"),
    ("mixup", "stl10"),
    ("mixup_supervised", "stl10"),
    ("realmix", "cifar100"),
    ("realmix", "stl10"),
}
MIXMATCH_AND_REALMIX = [
    f"{data}_{labels}_{method}"
    for data, sizes in (("cifar10", (250, 4000)), ("svhn", (250, 1000)))
    for labels in sizes
    for method in ("mixmatch", "realmix")
]

# These spell their settings out.
LONG = [p for p in PRESETS if p.stem.startswith("digits") or "_aug" in p.stem]


def each_of(presets: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("preset", presets, ids=lambda preset: preset.stem)


each_preset = each_of(PRESETS)


def lines(preset: Path) -> list[str]:
    return preset.read_text("utf-8").splitlines()


def parsed(preset: Path) -> flags.FlagValues:
    """What the training command reads in the file."""
    early = _early([f"--flagfile={preset}"])
    values = flags.FlagValues()
    flags.DEFINE_string("flagfile", "", "", flag_values=values)
    _define(values, early["method"], "", True, early["recipe"])
    assert app.parse(values, [f"--flagfile={preset}"], "realmix") == []
    return values


def named(stem: str) -> flags.FlagValues:
    return parsed(FOLDER / f"{stem}.flags")


def name_and_method(values: flags.FlagValues) -> tuple[DatasetName, type[Method]]:
    return DatasetName.parse(values["dataset"].value), get_method(values["method"].value)


@each_preset
def test_a_preset_parses(preset, capsys):
    assert main([f"--flagfile={preset}", "--help"]) == 0
    assert "--dataset" in capsys.readouterr().out


@each_preset
def test_a_preset_holds_what_its_name_says(preset):
    name, method = name_and_method(parsed(preset))
    data, labels, *rest = preset.stem.split("_")
    assert "_".join(rest).endswith(method.name)
    assert data == name.dataset.split("_")[0]
    if name.copies is not None:
        assert labels == f"aug{name.copies}"
    else:
        assert labels == ("all" if name.labels is None else str(name.labels))


@each_preset
def test_a_preset_begins_with_what_it_is_and_what_was_published(preset):
    name, method = name_and_method(parsed(preset))
    head = lines(preset)[0]
    assert head.startswith("# ")
    if name.dataset in BENCHMARKS and name.copies is None:
        labels = "all" if name.labels is None else name.labels
        data = name.dataset.split("_")[0]
        result = r"published: (\d+\.\d\d( ± \d+\.\d\d)? % test error \(.+\)|none .+)"
        assert re.fullmatch(
            rf"# {method.name} on {data}, {labels} labels; ({result}|no published result \(.+\))",
            head,
        )


@each_preset
def test_the_settings_of_a_preset_are_in_range_and_suit_its_data(preset):
    values = parsed(preset)
    name, method = name_and_method(values)
    classes, side, images = (BENCHMARKS | DIGITS)[name.dataset]
    settings: TrainSettings = options.collect(values, TrainSettings)
    network = options.collect(values, NetworkOptions)
    config = options.collect(values, method.Config)
    for group in (settings, network, config):
        check_options(group)
    codes.parse(settings.augment, name.dataset, method.augment)
    shape = {k: v for k, v in asdict(network).items() if k != "whiten"}
    spec = NetworkSpec(num_classes=classes, height=side, width=side, **shape)
    assert spec.resolved_scales >= 1
    labels = name.labels or images - name.valid
    task = Task(classes, labels, max(1, images - labels), settings.batch, (side, side))
    method(config, task).check(1)


@each_of([preset for preset in PRESETS if preset not in LONG])
def test_a_preset_says_nothing_that_holds_without_it(preset):
    values = parsed(preset)
    _, method = name_and_method(values)
    defaults = asdict(recipe_of(method, values["recipe"].value))
    fields = {
        name: defaults.get(name, field.default)
        for group in (TrainSettings, NetworkOptions, method.Config)
        for name, field in group.__dataclass_fields__.items()
    }
    given = {line[2:].partition("=")[0] for line in lines(preset) if line.startswith("--")} & set(
        fields
    )
    assert {flag for flag in given if values[flag].value == fields[flag]} == set()


def test_every_method_has_a_preset_on_every_benchmark_where_settings_were_published():
    covered = set()
    for preset in PRESETS:
        name, method = name_and_method(parsed(preset))
        covered.add((method.name, name.dataset.split("_")[0]))
    wanted = set(product(METHODS, ("cifar10", "cifar100", "svhn", "stl10")))
    assert wanted - covered == UNPUBLISHED
    assert len(METHODS) == 22


def test_images_of_96_pixels_get_the_network_of_four_scales():
    of_stl10 = [preset for preset in PRESETS if preset.stem.startswith("stl10_")]
    assert len(of_stl10) > 15
    assert {parsed(preset)["scales"].value for preset in of_stl10} == {4}


@pytest.mark.parametrize("stem", MIXMATCH_AND_REALMIX)
def test_mixmatch_and_realmix_are_as_published_for_250_and_more_labels(stem):
    values = named(stem)
    assert values["beta"].value == 0.75
    assert values["train_kimg"].value == 65536
    assert (values["optimizer"].value, values["lr"].value, values["wd"].value) == (
        "adam",
        0.002,
        0.02,
    )
    assert (values["filters"].value, values["repeat"].value, values["nu"].value) == (0, 4, 2)
    assert (values["batch"].value, values["ema"].value) == (64, 0.999)
    assert values["warmup_kimg"].value == 1024
    if "realmix" in stem:
        assert (values["w_match"].value, values["tsa"].value) == (75, "linear_schedule")
    else:
        assert values["w_match"].value == (250 if "svhn" in stem else 75)


def test_a_number_of_fixmatchs_comparison_belongs_to_its_recipe():
    cited = [preset for preset in PRESETS if "(FixMatch paper" in lines(preset)[0]]
    assert len(cited) > 10
    for preset in cited:
        values = parsed(preset)
        assert (values["optimizer"].value, values["lr"].value) == ("sgd", 0.03)
        on_cifar100 = preset.stem.startswith("cifar100")
        assert values["filters"].value == (128 if on_cifar100 else 0)
        assert values["wd"].value == (1e-3 if on_cifar100 else 5e-4)


def test_a_number_of_mixmatchs_comparison_belongs_to_its_recipe():
    cited = [preset for preset in PRESETS if "(MixMatch paper" in lines(preset)[0]]
    assert len(cited) > 10
    for preset in cited:
        values = parsed(preset)
        assert (values["optimizer"].value, values["lr"].value) == ("adam", 0.002)


def test_few_labels_of_remixmatch_get_the_settings_of_their_own():
    cifar, svhn = named("cifar10_40_remixmatch"), named("svhn_40_remixmatch")
    assert (cifar["K"].value, cifar["w_rot"].value, cifar["warmup_kimg"].value) == (1, 2, 8192)
    assert (svhn["K"].value, svhn["w_rot"].value, svhn["warmup_kimg"].value) == (1, 3, 1024)
    assert named("cifar10_250_remixmatch")["K"].value == 8


def test_the_table_of_presets_names_every_file_with_its_published_error():
    table = (FOLDER / "README.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", table, re.MULTILINE))
    assert set(rows) == {preset.stem for preset in PRESETS}
    for preset in PRESETS:
        result = re.search(r"published: ([\d.]+(?: ± [\d.]+)?) %", lines(preset)[0])
        assert rows[preset.stem] == (result[1] if result else "none"), preset.stem


def test_baseline_and_realmix_of_the_demo_differ_in_the_method_only():
    ours, theirs = (named(f"digits_20_{m}") for m in ("realmix", "supervised"))
    shared = {name for name in ours if name in theirs} - {"method", "flagfile"}
    assert len(shared) > 20
    assert {n for n in shared if ours[n].value != theirs[n].value} == set()


@pytest.mark.process
def test_the_training_command_takes_a_preset():
    done = subprocess.run(
        [
            sys.executable,
            "realmix.py",
            f"--flagfile={FOLDER / 'cifar10_250_mixmatch.flags'}",
            "--help",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "--w_match" in done.stdout
    assert "--percent_mask" not in done.stdout
