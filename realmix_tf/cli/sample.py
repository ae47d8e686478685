"""The command sample: a random part of a record file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from realmix_tf.cli import app
from realmix_tf.errors import UsageError

NAME = "sample"
SUMMARY = "draws a random part of a record file, every class in proportion."
EXAMPLE = "sample --size=500 --seed=1 data/few-train.tfrecord data/digits-train.tfrecord"
USAGE = f"""OUTPUT INPUT

example:
  {EXAMPLE}

The order stays. Copies of an image (made to balance classes) are not drawn but come along with
their original, and do not count for --size."""


def define(values: flags.FlagValues) -> None:
    """Adds the command's flags."""
    app.define_data_dir(values)
    app.define_dry_run(values)
    flags.DEFINE_integer("size", None, "How many records to draw.", flag_values=values)
    flags.DEFINE_float(
        "fraction", None, "Which part of the records to draw, above 0 and up to 1, instead of "
        "--size.", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer("seed", 0, "Seed of the draw.", flag_values=values)
    flags.DEFINE_bool(
        "class_balance", False, "As many of each class instead of the classes' shares.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_bool(
        "unlabeled", False, "Write the records without their labels.", flag_values=values
    )
    flags.DEFINE_bool("overwrite", False, "Replace an existing output.", flag_values=values)


def run(values: flags.FlagValues, arguments: list[str]) -> Any:
    """Draws and writes the sample."""
    if len(arguments) != 2:
        raise UsageError("an output and one input are needed", "", EXAMPLE)
    from data_tools.records.subsets import SampleOptions, plan_sample, report, sample

    options = SampleOptions(
        source=app.input_file(values, arguments[1]),
        output=Path(arguments[0]),
        size=values.size,
        fraction=values.fraction,
        seed=values.seed,
        class_balance=values.class_balance,
        unlabeled=values.unlabeled,
        overwrite=values.overwrite,
    )
    if values.dry_run:
        return app.plan_result(values, plan_sample(options))
    result = sample(options)
    for remark in result.notes:
        app.note(f"note: {remark}")
    return report(result) | ({"notes": list(result.notes)} if values.json else {})


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)
