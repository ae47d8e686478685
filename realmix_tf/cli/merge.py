"""The command merge: several record files as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from realmix_tf.cli import app
from realmix_tf.errors import UsageError

NAME = "merge"
SUMMARY = "writes the records of several files into one."
EXAMPLE = "merge data/both-train.tfrecord data/pets-train.tfrecord data/birds-train.tfrecord"
USAGE = f"""OUTPUT INPUT INPUT...

example:
  {EXAMPLE} --classes=union

Nothing is removed; images that occur more than once are counted. The images must be of one size."""


def define(values: flags.FlagValues) -> None:
    """Adds the command's flags."""
    app.define_data_dir(values)
    app.define_dry_run(values)
    flags.DEFINE_enum(
        "classes",
        "same",
        ("same", "union"),
        "same: the files must have the same classes. union: classes are joined by name; the first "
        "file's keep their ids, new ones follow.",
        flag_values=values,
    )
    flags.DEFINE_bool("overwrite", False, "Replace an existing output.", flag_values=values)


def run(values: flags.FlagValues, arguments: list[str]) -> Any:
    """Merges the files."""
    if len(arguments) < 3:
        raise UsageError("an output and at least two inputs are needed", "", EXAMPLE)
    from data_tools.records.subsets import MergeOptions, merge, plan_merge, report

    options = MergeOptions(
        output=Path(arguments[0]),
        inputs=tuple(app.input_file(values, path) for path in arguments[1:]),
        classes=values.classes,
        overwrite=values.overwrite,
    )
    if values.dry_run:
        return app.plan_result(values, plan_merge(options))
    result = merge(options)
    for remark in result.notes:
        app.note(f"note: {remark}")
    return report(result) | ({"notes": list(result.notes)} if values.json else {})


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)
