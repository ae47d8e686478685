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
TARGET.<seed>@<n>-map.json. Only records with a true label are drawn; copies of an image (made to
balance classes) go where their original goes. STL-10 with 1,000 labels takes line --seed of
stl10_fold_indices.txt where that lies beside the input, as published."""


def define(values: flags.FlagValues) -> None:
    """Adds the command's flags."""
    app.define_data_dir(values)
    app.define_dry_run(values)
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
    flags.DEFINE_string(
        "class_counts",
        None,
        "How many images of each class to label, such as cat:5,dog:10 or 0:5,1:10 (ids or names); "
        "instead of --label_split_size.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "validation",
        0,
        "How many unlabelled images training will hold out; checked and recorded in the map.",
        flag_values=values,
    )
    flags.DEFINE_bool("overwrite", False, "Replace an existing split.", flag_values=values)


def run(values: flags.FlagValues, arguments: list[str]) -> Any:
    """Draws and writes the split."""
    if len(arguments) < 2:
        raise UsageError("a target and at least one input are needed", "", EXAMPLE)
    if values.label_split_size is None and not values.class_counts:
        raise UsageError("the number of labels is missing", "--label_split_size", EXAMPLE)
    if values.custom and values.label_size is None:
        raise UsageError("--custom needs --label_size", "", "--label_size=<labelled records>")
    counts = _class_counts(values.class_counts or "")
    from data_tools.records.splits import SplitOptions, create_split, describe, plan_split

    options = SplitOptions(
        target=Path(arguments[0]),
        inputs=tuple(app.input_file(values, path) for path in arguments[1:]),
        labels=values.label_split_size,
        seed=values.seed,
        label_pool=values.label_size,
        class_balance=values.class_balance,
        class_counts=counts,
        validation=values.validation,
        overwrite=values.overwrite,
    )
    if values.dry_run:
        return app.plan_result(values, plan_split(options))
    result = create_split(options)
    for remark in result.notes:
        app.note(f"note: {remark}")
    if not values.json:
        return describe(result)
    return {
        **vars(result),
        "label_file": str(result.label_file),
        "unlabel_file": str(result.unlabel_file),
        "map_file": str(result.map_file),
        "copies": {"labeled": result.copies[0], "unlabeled": result.copies[1]},
    }


def _class_counts(text: str) -> tuple[tuple[str, int], ...]:
    """``cat:5,dog:10`` → (("cat", 5), ("dog", 10)).

    Raises:
      UsageError: a part is not of this form.
    """
    pairs = []
    for part in text.split(",") if text else []:
        name, _, count = part.rpartition(":")
        if not name or not (count.isascii() and count.isdigit() and len(count) < 10):
            raise UsageError(
                f"{part!r} is not <class>:<how many>",
                "--class_counts",
                "cat:5,dog:10, or ids such as 0:5,1:10 where a name has ':' or ','",
            )
        pairs.append((name, int(count)))
    return tuple(pairs)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)
