"""The command filter_dataset: keeps some classes of a record file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from realmix_tf.cli import app
from realmix_tf.errors import UsageError

NAME = "filter_dataset"
SUMMARY = "keeps the records of some classes and numbers these from 0."
EXAMPLE = (
    "filter_dataset --class_filter=2,3,4 --filter_dataset=data/digits-test.tfrecord "
    "--save_name=data/digits3-test.tfrecord"
)
USAGE = f"""

example:
  {EXAMPLE}

The manifest of the output states which old id became which new one."""


def define(values: flags.FlagValues) -> None:
    """Adds the command's flags."""
    app.define_data_dir(values)
    app.define_dry_run(values)
    flags.DEFINE_list(
        "class_filter",
        [],
        "Classes to keep, separated by commas: ids, or names where they are no ids.",
        flag_values=values,
    )
    flags.DEFINE_string("filter_dataset", None, "The record file to read.", flag_values=values)
    flags.DEFINE_string("save_name", None, "The record file to write.", flag_values=values)
    flags.DEFINE_bool("keep_ids", False, "Leave the class ids as they are.", flag_values=values)
    flags.DEFINE_bool(
        "unlabeled", False, "Write the kept records without their labels.", flag_values=values
    )
    flags.DEFINE_bool("overwrite", False, "Replace an existing output.", flag_values=values)


def run(values: flags.FlagValues, arguments: list[str]) -> Any:
    """Filters the file."""
    if arguments:
        raise UsageError(f"there is nothing to do with {arguments[0]!r}", "", EXAMPLE)
    for name in ("class_filter", "filter_dataset", "save_name"):
        if not getattr(values, name):
            raise UsageError(f"--{name} is missing", "", EXAMPLE)
    from data_tools.records.filters import FilterOptions, filter_dataset, plan_filter

    options = FilterOptions(
        source=app.input_file(values, values.filter_dataset),
        output=Path(values.save_name),
        classes=tuple(values.class_filter),
        keep_ids=values.keep_ids,
        unlabeled=values.unlabeled,
        overwrite=values.overwrite,
    )
    if values.dry_run:
        return app.plan_result(values, plan_filter(options))
    result = filter_dataset(options)
    for remark in result.notes:
        app.note(f"note: {remark}")
    return {
        "file": str(result.file),
        "kept": result.kept,
        "dropped": result.dropped,
        "dropped_without_label": result.dropped_without_label,
        "class_map": {str(old): new for old, new in result.class_map.items()},
        **({"notes": list(result.notes)} if values.json else {}),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)
