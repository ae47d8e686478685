"""``realmix``: train a method on a dataset, evaluate a checkpoint, or classify a folder.

``python realmix.py --method=… --dataset=…``; the baselines' commands are the same with a fixed
method.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags

from realmix_tf.cli import app, options
from realmix_tf.data.names import DatasetName
from realmix_tf.errors import UsageError
from realmix_tf.methods.base import registered
from realmix_tf.methods.registry import get_method, recipe_of
from realmix_tf.nets.spec import NetworkOptions
from realmix_tf.options import check_options
from realmix_tf.training.settings import TrainSettings

if TYPE_CHECKING:
    from data_tools.plan import Plan
    from realmix_tf.run import Forecast

SUMMARY = "train a classifier from few labels; --method=NAME --help shows that method's flags"
USAGE = (
    "--dataset=NAME\n\nexample: python realmix.py --method=realmix --data_dir=data "
    "--dataset=digits.1@20-100 --arch=small --train_kimg=96 --warmup_kimg=16"
)

# Flags by what they are about, as --help shows them.
_DATA = (
    "dataset", "data_dir", "label_size", "valid_size", "split_seed", "train_record", "test_record",
    "nclass", "img_size", "class_mapping", "custom_dataset", "allow_overlap", "use_pseudo_labels",
    "memoize", "shuffle",
)  # fmt: skip
_LENGTH = (
    "train_kimg", "report_kimg", "save_kimg", "keep_ckpt", "epochs", "train_dir", "fresh", "seed",
    "precision", "devices", "load_checkpoint", "baseline",
)  # fmt: skip
_INSTEAD = (
    "dry_run", "eval_ckpt", "perform_inference", "inference_dir", "inference_ckpt",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``realmix``; any method."""
    return _execute("realmix", argv, None, "cifar10.3@250-5000")


def main_fs_baseline(argv: Sequence[str] | None = None) -> int:
    """The supervised baseline on all labels of a dataset."""
    return _execute("realmix-fs-baseline", argv, "supervised", "cifar10-5000")


def main_fs_mixup(argv: Sequence[str] | None = None) -> int:
    """The supervised baseline with MixUp."""
    return _execute("realmix-fs-mixup", argv, "mixup_supervised", "cifar10-5000")


def _execute(name: str, argv: Sequence[str] | None, fixed: str | None, dataset: str) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = fixed or ""
    groups: dict[str, list[str]] = {}

    def define(values: absl_flags.FlagValues) -> None:
        nonlocal chosen
        early = _early(words)
        chosen = fixed or early["method"]
        _define(values, chosen, dataset, fixed is None, early["recipe"])
        groups.update(_groups(chosen, values))

    def run(values: absl_flags.FlagValues, rest: list[str]) -> Any:
        if rest:
            raise UsageError(f"there is an argument too many: {rest[0]!r}", "", f"{name} --help")
        return _run(values, chosen, (name, *words))

    if fixed:
        summary = f"train the baseline {fixed!r} on the labelled images of a dataset"
        usage = f"--dataset=NAME-VALID\n\nexample: {name} --data_dir=data --dataset=mydataset-50"
        return app.execute(name, summary, define, run, argv, usage, groups)
    return app.execute(name, SUMMARY, define, run, argv, USAGE, groups)


def _groups(method_name: str, values: absl_flags.FlagValues) -> dict[str, list[str]]:
    """The flags by what they are about, for --help."""
    method = get_method(method_name)
    about = (sys.modules[method.__module__].__doc__ or method_name).partition("\n")[0].rstrip(".")
    groups = {
        f"{method_name}: {about}": [item.name for item in fields(method.Config)],
        "data": list(_DATA),
        "optimisation": ["recipe", *asdict(method.recipe), "momentum", "batch", "ema"],
        f"augmentation (auto: {method.augment})": ["augment", "adepth", "adecay", "ath"],
        "network": [item.name for item in fields(NetworkOptions)],
        "length, reports and checkpoints": list(_LENGTH),
        "instead of training": list(_INSTEAD),
    }
    return {title: names for title, names in groups.items() if names and set(names) <= set(values)}


def _early(words: list[str]) -> dict[str, str]:
    """What decides which flags there are and their defaults, from the words or flag files."""
    early = absl_flags.FlagValues()
    absl_flags.DEFINE_string("method", "realmix", "", flag_values=early)
    absl_flags.DEFINE_string("recipe", "", "", flag_values=early)
    app.parse(early, words, "realmix", known_only=True)
    return {name: str(early[name].value) for name in ("method", "recipe")}


def _define(
    values: absl_flags.FlagValues,
    method_name: str,
    dataset: str,
    any_method: bool,
    recipe: str = "",
) -> None:
    method = get_method(method_name)
    flag, number, boolean = (
        absl_flags.DEFINE_string,
        absl_flags.DEFINE_integer,
        absl_flags.DEFINE_bool,
    )
    if any_method:
        names = ", ".join(sorted(registered()))
        flag("method", "realmix", f"What to minimise. One of: {names}.", flag_values=values)
    app.define_data_dir(values)
    app.define_dry_run(values)
    flag(
        "dataset",
        dataset,
        "<dataset>[_aug<N>].<seed>@<labels>-<valid> or <dataset>-<valid>, or "
        "just <dataset> with --label_size, --valid_size and --split_seed.",
        flag_values=values,
    )
    number("label_size", 0, "Labels of the split, when --dataset does not say.", flag_values=values)
    number("valid_size", 0, "Validation images, when --dataset does not say.", flag_values=values)
    number("split_seed", 0, "Seed of the split, when --dataset does not say.", flag_values=values)
    flag("train_dir", "experiments", "Folder that receives the run.", flag_values=values)
    flag("class_mapping", "", "JSON file {id: name} that renames the classes.", flag_values=values)
    number("nclass", 0, "Expected number of classes; 0 takes the data's.", flag_values=values)
    number("img_size", 0, "Expected side in pixels; 0 takes the data's.", flag_values=values)
    boolean(
        "custom_dataset",
        False,
        "Own data: assume nothing from the dataset's name (the weak "
        "policy is then cifar10 unless --augment says otherwise).",
        flag_values=values,
    )
    boolean("memoize", True, "Hold decoded images in memory where they fit.", flag_values=values)
    flag(
        "train_record",
        "",
        "Training file in --data_dir instead of the dataset's.",
        flag_values=values,
    )
    flag("test_record", "", "Test file in --data_dir instead of the dataset's.", flag_values=values)
    boolean(
        "allow_overlap",
        False,
        "Train although labelled images are in the test set too (recorded with the run).",
        flag_values=values,
    )
    boolean(
        "use_pseudo_labels",
        False,
        "Train on pseudo-labelled images as on labelled ones, with --dataset=<dataset>-<valid>.",
        flag_values=values,
    )

    options.define_fields(values, NetworkOptions)
    flag(
        "recipe",
        "",
        "Whose defaults the flags from --optimizer to --wd_mode have, instead of the method's "
        "own: adam (MixMatch and its baselines) or sgd (FixMatch and its successors).",
        flag_values=values,
    )
    options.define_fields(values, TrainSettings, asdict(recipe_of(method, recipe)))
    options.define_fields(values, method.Config)

    flag(
        "load_checkpoint",
        "",
        "Start from these weights (all but the head): a checkpoint or run.",
        flag_values=values,
    )
    flag("baseline", "", "Run folder the report compares this run with.", flag_values=values)
    boolean(
        "fresh", False, "Discard what the run folder holds and start again.", flag_values=values
    )
    flag(
        "eval_ckpt",
        "",
        "Evaluate this checkpoint (raw, averaged, and both with re-estimated "
        "batch statistics) instead of training.",
        flag_values=values,
    )
    boolean(
        "perform_inference",
        False,
        "Classify --inference_dir instead of training.",
        flag_values=values,
    )
    flag("inference_dir", "", "Folder, image, or list of images to classify.", flag_values=values)
    flag(
        "inference_ckpt",
        "",
        "Run folder, exported model or checkpoint to classify with.",
        flag_values=values,
    )


def _run(values: absl_flags.FlagValues, method_name: str, command: tuple[str, ...]) -> Any:
    given = values.flag_values_dict()
    if given["perform_inference"]:
        from realmix_tf.cli import predict

        for name in ("inference_dir", "inference_ckpt"):
            if not given[name]:
                raise UsageError("--perform_inference needs it", f"--{name}", f"--{name}=PATH")
        inputs = given["inference_dir"], given["inference_ckpt"]
        if given["dry_run"]:
            return app.plan_result(values, predict.plan_inference(*inputs))
        result = predict.run_inference(*inputs)
        return result if given["json"] else predict.summary_text(result)

    method = get_method(method_name)
    settings: TrainSettings = options.collect(values, TrainSettings)
    network = options.collect(values, NetworkOptions)
    config = options.collect(values, method.Config)
    check_options(config)
    if given["custom_dataset"] and settings.augment == "auto":
        settings = replace(settings, augment="cifar10")
    dataset = _dataset_name(given)
    data_dir = Path(app.data_dir(values))

    app.load_tensorflow()
    from realmix_tf import run as runs
    from realmix_tf.data.training_data import DataSettings

    request = runs.RunRequest(
        method=method_name,
        data=DataSettings(
            name=dataset,
            data_dir=data_dir,
            num_classes=given["nclass"],
            image_size=given["img_size"],
            class_mapping=given["class_mapping"],
            in_memory=given["memoize"],
            train_record=given["train_record"],
            test_record=given["test_record"],
            allow_overlap=given["allow_overlap"],
            use_pseudo_labels=given["use_pseudo_labels"],
        ),
        settings=settings,
        network=network,
        config=config,
        train_dir=Path(given["train_dir"]),
        load_checkpoint=given["load_checkpoint"],
        baseline=given["baseline"],
        fresh=given["fresh"],
        command=command,
    )
    if given["dry_run"]:
        return app.plan_result(values, _plan(runs.forecast(request)))
    if given["eval_ckpt"]:
        return runs.evaluate_checkpoint(request, given["eval_ckpt"])
    return runs.run(request).to_json()


def _plan(forecast: Forecast) -> Plan:
    from data_tools.plan import FileUse, Plan, files, resident_bytes

    checkpoints = forecast.checkpoint_bytes * forecast.checkpoints
    return Plan(
        reads=files(forecast.files),
        writes=(FileUse(str(forecast.folder), checkpoints),),
        memory=resident_bytes(),
        seconds=forecast.seconds,
        facts={
            "images": forecast.images,
            "seen": forecast.seen,
            "planned": forecast.planned,
            "checkpoints": forecast.checkpoints,
        },
        notes=(*forecast.notes, "the time is without evaluations"),
    )


def _dataset_name(given: dict[str, Any]) -> DatasetName:
    """--dataset, or --dataset with sizes and seed as flags of their own."""
    text, labels, valid = given["dataset"], given["label_size"], given["valid_size"]
    if "@" in text:
        name = DatasetName.parse(text)
        for flag, wanted, said in (
            ("label_size", labels, name.labels),
            ("valid_size", valid, name.valid),
            ("split_seed", given["split_seed"], name.seed),
        ):
            if wanted and wanted != said:
                raise UsageError(
                    f"--{flag} is {wanted} but {text!r} says {said}", "", f"leave --{flag} out"
                )
        return name
    if labels:
        return DatasetName.parse(f"{text}.{given['split_seed']}@{labels}-{valid}")
    return DatasetName.parse(f"{text}-{valid}" if valid else text)
