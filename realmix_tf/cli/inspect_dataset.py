"""The command inspect_dataset: classes, sizes, pixel statistics and pictures of a dataset."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from realmix_tf.cli import app
from realmix_tf.errors import UsageError

NAME = "inspect_dataset"
SUMMARY = "shows what is in a dataset: classes, sizes, pixel statistics, pictures."
EXAMPLE = "inspect_dataset digits --data_dir=data --grid=digits.png"
USAGE = f"""NAME | FILE...

examples:
  {EXAMPLE}
  inspect_dataset data/SSL/digits.1@20-label.tfrecord --json

NAME is a dataset, or a split with its sets as training divides them."""


def define(values: flags.FlagValues) -> None:
    """Adds the command's flags."""
    app.define_data_dir(values)
    app.define_dry_run(values)
    flags.DEFINE_integer(
        "limit",
        None,
        "Decode at most so many records of each set, spread evenly over it.",
        flag_values=values,
    )
    flags.DEFINE_string("grid", "", "Write pictures of every class as this PNG file.",
                        flag_values=values)  # fmt: skip
    flags.DEFINE_integer("per_class", 12, "Pictures of each class in it.", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Replace that PNG file.", flag_values=values)


def run(values: flags.FlagValues, arguments: list[str]) -> Any:
    """Looks and prints."""
    from data_tools.looking.inputs import parse_inputs
    from data_tools.looking.inspection import (
        InspectOptions,
        describe,
        inspect_dataset,
        plan_inspection,
    )

    if not arguments:
        raise UsageError("the name of a dataset or record files are needed", "", EXAMPLE)
    options = InspectOptions(
        inputs=parse_inputs(arguments, values.data_dir or os.environ.get("ML_DATA", "")),
        limit=values.limit,
        grid=Path(values.grid) if values.grid else None,
        per_class=values.per_class,
        overwrite=values.overwrite,
    )
    if values.dry_run:
        return app.plan_result(values, plan_inspection(options))
    found = inspect_dataset(options)
    for remark in found.notes:
        app.note(f"note: {remark}")
    return found.as_json() if values.json else describe(found.sets)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)
