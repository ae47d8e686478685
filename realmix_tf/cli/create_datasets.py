"""The command create_datasets: records from shipped sets or from a user's own images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from realmix_tf.cli import app
from realmix_tf.errors import UsageError

if TYPE_CHECKING:
    from data_tools.sources import SourceResult

NAME = "create_datasets"
SUMMARY = "builds datasets (record files) from shipped sets or from folders of images."
USAGE = """digits | custom

examples:
  create_datasets digits --data_dir=data
  create_datasets custom --name=pets --traindir=pets/train --unlabeldir=pets/unlabeled \\
      --testdir=pets/test --img_size=32 --data_dir=data

digits   1,797 handwritten digits that need no network: 1,297 for training, 500 for testing.
custom   --traindir and --testdir hold a folder per class, or files named {number}_{class}.ext;
         --unlabeldir holds images in any arrangement. PNG, JPEG, WebP, BMP, GIF and TIFF of any
         size; they are stretched to --img_size."""


def define(values: flags.FlagValues) -> None:
    """Adds the command's flags."""
    app.define_data_dir(values)
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
        "32",
        "custom: size in pixels, 32 or 32x48 (height x width).",
        flag_values=values,
    )
    flags.DEFINE_integer("channels", 3, "custom: 3 for colour, 1 for grey.", flag_values=values)
    flags.DEFINE_integer(
        "max_pixels", 50_000_000, "custom: refuse larger images.", flag_values=values
    )
    flags.DEFINE_integer(
        "workers", None, "custom: decoding processes; one a processor.", flag_values=values
    )
    flags.DEFINE_bool(
        "allow_missing", False, "custom: classes may be missing in testdir.", flag_values=values
    )
    flags.DEFINE_bool("overwrite", False, "Replace what exists.", flag_values=values)


def run(values: flags.FlagValues, arguments: list[str]) -> Any:
    """Builds what the arguments name."""
    if not arguments:
        raise UsageError("no dataset was named", "", "create_datasets digits --data_dir=data")
    folder = Path(app.data_dir(values))
    results = []
    for name in arguments:
        result = _custom(values, folder) if name == "custom" else _shipped(values, name, folder)
        for remark in result.facts.get("notes", ()):
            app.note(f"{result.dataset}: {remark}")
        results.append(result)
    if values.json:
        built = [
            {**dataclasses.asdict(result), "files": [str(path) for path in result.files]}
            for result in results
        ]
        return {"datasets": built}
    return "\n".join(_text(result) for result in results)


def _shipped(values: flags.FlagValues, name: str, folder: Path) -> SourceResult:
    from data_tools.sources import build

    return build(name, folder, values.overwrite)


def _custom(values: flags.FlagValues, folder: Path) -> SourceResult:
    from data_tools.sources.folders import CustomOptions, build_custom
    from realmix_tf.data.images import parse_size

    for name in ("name", "traindir", "testdir"):
        if not getattr(values, name):
            raise UsageError(
                f"custom needs --{name}",
                "",
                "create_datasets custom --name=pets --traindir=… --unlabeldir=… --testdir=…",
            )
    unlabeled = values.unlabeldir
    return build_custom(
        CustomOptions(
            name=values.name,
            data_dir=folder,
            train_dir=Path(values.traindir),
            test_dir=Path(values.testdir),
            unlabel_dir=Path(unlabeled) if unlabeled else None,
            size=parse_size(values.img_size),
            channels=values.channels,
            max_pixels=values.max_pixels,
            allow_missing=values.allow_missing,
            overwrite=values.overwrite,
            workers=values.workers,
        )
    )


def _text(result: SourceResult) -> str:
    lines = [f"{result.dataset}: {result.facts.get('state', 'built')}"]
    for key, value in result.facts.items():
        if isinstance(value, dict):
            lines.append(
                f"  {key}: " + ", ".join(f"{name} {count}" for name, count in value.items())
            )
        elif key not in ("state", "notes"):
            lines.append(f"  {key}: {value}")
    return "\n".join([*lines, *(f"  {path}" for path in result.files)])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)
