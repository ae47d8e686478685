"""The command check_split: which pictures the sets of a dataset share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from realmix_tf.cli import app
from realmix_tf.errors import DataError, UsageError

NAME = "check_split"
SUMMARY = "shows which pictures the sets of a dataset share, by exact pixels and near-duplicates."
EXAMPLE = "check_split digits.1@20-100 --data_dir=data"
USAGE = f"""NAME | FILE...

examples:
  {EXAMPLE}
  check_split data/digits-train.tfrecord data/digits-test.tfrecord --fail

NAME is a dataset or a split, with -<validation images> as training is given it. A near-duplicate
is the same picture encoded again, brightened, shifted by a pixel or mirrored. Copies that our
tools made are told apart from duplicates. A leak is a picture that is labelled or used for
validation and is in the test set, or in the unlabelled set; between files of unknown use every
shared picture is one."""


def define(values: flags.FlagValues) -> None:
    """Adds the command's flags."""
    app.define_data_dir(values)
    app.define_dry_run(values)
    flags.DEFINE_bool("near", True, "Look for near-duplicates too.", flag_values=values)
    flags.DEFINE_bool("fail", False, "End with code 3 where there is a leak.", flag_values=values)
    flags.DEFINE_integer(
        "examples", 20, "Pairs to name for each two sets.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_string("pictures", "", "Write the pairs side by side as this PNG file.",
                        flag_values=values)  # fmt: skip
    flags.DEFINE_bool("overwrite", False, "Replace that PNG file.", flag_values=values)


def run(values: flags.FlagValues, arguments: list[str]) -> Any:
    """Compares and prints; with --fail a leak is an error after the table."""
    from data_tools.looking.inputs import parse_inputs
    from data_tools.looking.overlap import OverlapOptions, describe, find_overlap, plan_overlap

    if not arguments:
        raise UsageError("the name of a dataset or record files are needed", "", EXAMPLE)
    options = OverlapOptions(
        inputs=parse_inputs(arguments, values.data_dir or os.environ.get("ML_DATA", "")),
        near=values.near,
        examples=values.examples,
        pictures=Path(values.pictures) if values.pictures else None,
        overwrite=values.overwrite,
    )
    if values.dry_run:
        return app.plan_result(values, plan_overlap(options))
    overlap = find_overlap(options)
    for remark in overlap.notes:
        app.note(f"note: {remark}")
    result = overlap.as_json() if values.json else describe(overlap)
    if not (values.fail and overlap.leaks):
        return result
    # The result belongs to stdout also when the command fails.
    print(app.result_json(result) if values.json else result, flush=True)
    raise DataError(
        overlap.leaks[0].removeprefix("LEAK: "),
        " ".join(arguments),
        "remove these pictures from one of the sets",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)
