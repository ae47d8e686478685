"""The part of create_datasets that builds a dataset from folders of a user's own images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from realmix_tf.errors import UsageError

if TYPE_CHECKING:
    from data_tools.plan import Plan
    from data_tools.sources import SourceResult
    from data_tools.sources.folders import CustomOptions

EXAMPLE = "create_datasets custom --name=pets --traindir=… --unlabeldir=… --testdir=…"
DEFAULT_SIZE = "32"


def define(values: flags.FlagValues) -> None:
    """Adds the flags of ``custom`` and ``custom_extra``."""
    text = {
        "name": ("n", "custom: name of the dataset."),
        "traindir": ("tr", "custom: folder of the labelled training images."),
        "testdir": ("ts", "custom: folder of the labelled test images."),
        "unlabeldir": ("u", "custom: folder of the unlabelled images; may be left out."),
    }
    for name, (short, help_text) in text.items():
        flags.DEFINE_string(name, None, help_text, short_name=short, flag_values=values)
    flags.DEFINE_string(
        "img_size",
        "",
        f"Size in pixels, 32 or 32x48 (height x width); custom takes {DEFAULT_SIZE} if none is "
        "given.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "crop",
        "none",
        ["none", "center"],
        "custom: center cuts off what is too much of the longer side, on both ends alike; none "
        "stretches. Models trained on the dataset do the same to the pictures they classify.",
        flag_values=values,
    )
    flags.DEFINE_integer("channels", 3, "custom: 3 for colour, 1 for grey.", flag_values=values)
    flags.DEFINE_integer(
        "max_pixels", 50_000_000, "custom: refuse larger images.", flag_values=values
    )
    flags.DEFINE_integer(
        "min_side", 1, "custom: refuse images with a shorter side, in pixels.", flag_values=values
    )
    flags.DEFINE_integer(
        "workers", None, "custom: decoding processes; one a processor.", flag_values=values
    )
    flags.DEFINE_float(
        "file_timeout", 60.0, "custom: seconds after which a file is given up.", flag_values=values
    )
    flags.DEFINE_bool(
        "allow_missing", False, "custom: classes may be missing in testdir.", flag_values=values
    )
    flags.DEFINE_enum(
        "on_bad",
        "error",
        ["error", "skip"],
        "custom: what a labelled image that cannot be read does: end the build after all were "
        "tried and listed, or be left out. Unlabelled ones are always left out and listed.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "max_bad",
        10.0,
        "custom: stop when more than 100 files of a folder, and more than this percentage, cannot "
        "be read, or 100 in a row; 100 never stops.",
        flag_values=values,
    )
    _define_balancing(values)


def _define_balancing(values: flags.FlagValues) -> None:
    flags.DEFINE_integer(
        "train_balance",
        0,
        "custom: as many labelled training images in all, as many of each class: a choice of the "
        "common classes, and augmented copies for the rare ones.",
        short_name="trbal",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "unlabel_balance",
        0,
        "custom: the same for the unlabelled images, by --prediction_balance, else "
        "--pseudo_label, else their folders' names.",
        short_name="unlbal",
        flag_values=values,
    )
    flags.DEFINE_string(
        "prediction_balance",
        None,
        "custom: predictions of the unlabelled images to balance them by: predictions.json or "
        ".csv of realmix-predict.",
        short_name="predbal",
        flag_values=values,
    )
    flags.DEFINE_string(
        "pseudo_label",
        None,
        "custom: predictions of the unlabelled images to store as their pseudo labels.",
        short_name="ps",
        flag_values=values,
    )
    flags.DEFINE_float(
        "min_confidence",
        0.0,
        "custom: do not use predictions with a lower probability.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "cutout",
        None,
        ["train", "unlabel", "all"],
        "custom: erase a random rectangle of the labelled or unlabelled training images or of "
        "both, for good.",
        short_name="cut",
        flag_values=values,
    )
    flags.DEFINE_float(
        "cutout_prob",
        0.3,
        "custom: the share of these images that it is done to.",
        short_name="cutp",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seed", 0, "custom: of the order, of balancing and of --cutout.", flag_values=values
    )


def build(values: flags.FlagValues, folder: Path, extra: bool) -> SourceResult:
    """Builds the dataset the flags describe in ``folder``.

    Args:
      values: the parsed flags.
      folder: the folder of the datasets.
      extra: an unlabelled folder is required (``custom_extra``).
    """
    from data_tools.sources.folders import build_custom

    return build_custom(_options(values, folder, extra))


def plan(values: flags.FlagValues, folder: Path, extra: bool) -> Plan:
    """What ``build`` would do; nothing is written."""
    from data_tools.sources.folders import plan_custom

    return plan_custom(_options(values, folder, extra))


def _options(values: flags.FlagValues, folder: Path, extra: bool) -> CustomOptions:
    from data_tools.sources.folders import CustomOptions
    from realmix_tf.data.images import parse_size

    required = ("name", "traindir", "testdir", *(("unlabeldir",) if extra else ()))
    for name in required:
        if not getattr(values, name):
            source = "custom_extra" if extra else "custom"
            raise UsageError(f"{source} needs --{name}", "", EXAMPLE)
    return CustomOptions(
        name=values.name,
        data_dir=folder,
        train_dir=Path(values.traindir),
        test_dir=Path(values.testdir),
        unlabel_dir=_path(values.unlabeldir),
        size=parse_size(values.img_size or DEFAULT_SIZE),
        crop=values.crop,
        channels=values.channels,
        max_pixels=values.max_pixels,
        min_side=values.min_side,
        allow_missing=values.allow_missing,
        on_bad=values.on_bad,
        max_bad=values.max_bad,
        file_timeout=values.file_timeout,
        train_balance=values.train_balance,
        unlabel_balance=values.unlabel_balance,
        prediction_balance=_path(values.prediction_balance),
        pseudo_label=_path(values.pseudo_label),
        min_confidence=values.min_confidence,
        cutout=values.cutout or "",
        cutout_prob=values.cutout_prob,
        seed=values.seed,
        overwrite=values.overwrite,
        workers=values.workers,
    )


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
