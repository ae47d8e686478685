"""The command preprocess_crops: a folder of pictures to PNG files of one size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from realmix_tf.cli import app
from realmix_tf.errors import UsageError

NAME = "preprocess_crops"
SUMMARY = "crops and resizes a folder of pictures to PNG files of one size."
EXAMPLE = "preprocess_crops photos --output=photos32 --img_size=32"
USAGE = f"""FOLDER --output=FOLDER --img_size=SIZE

example:
  {EXAMPLE}

The output has the same folders and names, ending in .png; the pictures themselves are not touched.
What cannot be read is left out and listed in <output>/crops.json. create_datasets custom --crop
does the same to pictures as it builds a dataset of them."""


def define(values: flags.FlagValues) -> None:
    """Adds the command's flags."""
    app.define_data_dir(values)
    app.define_dry_run(values)
    flags.DEFINE_string("output", None, "The folder to make.", flag_values=values)
    flags.DEFINE_string(
        "img_size",
        None,
        "Size in pixels, 32 or 32x48 (height x width).",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "crop",
        "center",
        ["center", "none"],
        "center cuts off what is too much of the longer side, on both ends alike; none stretches.",
        flag_values=values,
    )
    flags.DEFINE_integer("channels", 3, "3 for colour, 1 for grey.", flag_values=values)
    flags.DEFINE_integer("max_pixels", 50_000_000, "Refuse larger pictures.", flag_values=values)
    flags.DEFINE_integer(
        "min_side", 1, "Refuse pictures with a shorter side, in pixels.", flag_values=values
    )
    flags.DEFINE_enum(
        "on_bad",
        "skip",
        ["skip", "error"],
        "What a picture that cannot be read does: be left out and listed, or end the work after "
        "all were tried.",
        flag_values=values,
    )
    flags.DEFINE_integer("workers", None, "Processes; one a processor.", flag_values=values)
    flags.DEFINE_float(
        "file_timeout", 60.0, "Seconds after which a file is given up.", flag_values=values
    )
    flags.DEFINE_bool(
        "overwrite", False, "Replace a folder that this command wrote.", flag_values=values
    )


def run(values: flags.FlagValues, arguments: list[str]) -> Any:
    """Writes the pictures."""
    if len(arguments) != 1:
        raise UsageError("one folder of pictures is needed", " ".join(arguments), EXAMPLE)
    for name in ("output", "img_size"):
        if not getattr(values, name):
            raise UsageError(f"--{name} is missing", "", EXAMPLE)
    from data_tools.folders.crops import CropOptions, plan_crops, preprocess
    from realmix_tf.data.images import parse_size

    options = CropOptions(
        source=app.input_file(values, arguments[0]),
        output=Path(values.output),
        size=parse_size(values.img_size),
        crop=values.crop,
        channels=values.channels,
        max_pixels=values.max_pixels,
        min_side=values.min_side,
        on_bad=values.on_bad,
        file_timeout=values.file_timeout,
        overwrite=values.overwrite,
        workers=values.workers,
    )
    if values.dry_run:
        return app.plan_result(values, plan_crops(options))
    result = preprocess(options)
    for remark in result.notes:
        app.note(f"note: {remark}")
    facts = {"output": str(result.output), "files": result.files}
    if not values.json:
        return {**facts, "unreadable": len(result.unreadable)}
    return {
        **facts,
        "unreadable": [
            {"path": app.printable(name), "reason": reason} for name, reason in result.unreadable
        ],
        "renamed": [
            {"path": app.printable(name), "file": app.printable(new)}
            for name, new in result.renamed
        ],
        "notes": [app.printable(note) for note in result.notes],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)
