"""The command create_split: which images are shown with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from realmix_tf.cli import app
from realmix_tf.errors import UsageError

NAME = "create_split"
SUMMARY = "draws which images are labelled; the draw is the published one, id for id."
EXAMPLE = "create_split --seed=1 --label_split_size=20 data/SSL/digits data/digits-train.tfrecord"
USAGE = f"""TARGET INPUT...

example:
  {EXAMPLE}

writes TARGET.<seed>@<n>-label.tfrecord, TARGET.<seed>@<n>-unlabel.tfrecord and
TARGET.<seed>@<n>-map.json. Only records with a true label are drawn."""


def define(values: flags.FlagValues) -> None:
    """Adds the command's flags."""
    app.define_data_dir(values)
    flags.DEFINE_integer("seed", 0, "Seed of the draw; 0 takes the first of each class.",
                         flag_values=values)  # fmt: skip
    flags.DEFINE_integer(
        "label_split_size",
        None,
        "How many images to label.",
        short_name="size",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "label_size",
        None,
        "Only the first so many records of the input may be labelled.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "custom", False, "The input is limited by --label_size, which must be given.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_bool(
        "class_balance",
        False,
        "The same number of labels for every class instead of the classes' shares.",
        flag_values=values,
    )
    flags.DEFINE_bool("overwrite", False, "Replace an existing split.", flag_values=values)


def run(values: flags.FlagValues, arguments: list[str]) -> Any:
    """Draws and writes the split."""
    from data_tools.splits import SplitOptions, create_split, describe

    if len(arguments) < 2:
        raise UsageError("a target and at least one input are needed", "", EXAMPLE)
    if values.label_split_size is None:
        raise UsageError("the number of labels is missing", "--label_split_size", EXAMPLE)
    if values.custom and values.label_size is None:
        raise UsageError("--custom needs --label_size", "", "--label_size=<labelled records>")
    result = create_split(
        SplitOptions(
            target=Path(arguments[0]),
            inputs=tuple(app.input_file(values, path) for path in arguments[1:]),
            labels=values.label_split_size,
            seed=values.seed,
            label_pool=values.label_size,
            class_balance=values.class_balance,
            overwrite=values.overwrite,
        )
    )
    for remark in result.notes:
        app.note(f"note: {remark}")
    if not values.json:
        return describe(result)
    return {
        "label_file": str(result.label_file),
        "unlabel_file": str(result.unlabel_file),
        "map_file": str(result.map_file),
        "labeled": result.labeled,
        "unlabeled": result.unlabeled,
        "without_label": result.without_label,
        "notes": result.notes,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)
