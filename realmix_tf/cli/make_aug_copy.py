"""The command make_aug_copy: augmented copies of a split's unlabelled images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from realmix_tf.augment.names import POLICY_NAMES
from realmix_tf.cli import app
from realmix_tf.errors import UsageError

NAME = "make_aug_copy"
SUMMARY = "writes augmented copies of the unlabelled images of a split."
EXAMPLE = "make_aug_copy --aug_dataset=digits.1@20 --aug_copy=50 --augment=digits --data_dir=data"
USAGE = f"""

example:
  {EXAMPLE}

writes SSL/digits_aug50.1@20-unlabel.tfrecord; train with --dataset=digits_aug50.1@20-<valid>"""


def define(values: flags.FlagValues) -> None:
    """Adds the command's flags."""
    app.define_data_dir(values)
    flags.DEFINE_string("aug_dataset", None, "The split, such as digits.1@20.", flag_values=values)
    flags.DEFINE_integer("aug_copy", 1, "Copies of every unlabelled image.", flag_values=values)
    flags.DEFINE_enum("augment", "cifar10", POLICY_NAMES, "How to augment.", flag_values=values)
    flags.DEFINE_integer(
        "unlabel_size",
        None,
        "How many unlabelled images the split must have, as a check; needed for nothing else.",
        flag_values=values,
    )
    flags.DEFINE_integer("seed", 1, "Seed of order and augmentation.", flag_values=values)
    flags.DEFINE_integer("threads", None, "Threads; one a processor.", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Replace existing copies.", flag_values=values)
    app.define_dry_run(values)


def run(values: flags.FlagValues, arguments: list[str]) -> Any:
    """Makes the copies."""
    from data_tools.records.copies import CopyOptions, make_copies, plan_copies
    from realmix_tf.data.names import DatasetName

    if arguments:
        raise UsageError(f"there is nothing to do with {arguments[0]!r}", "", EXAMPLE)
    if not values.aug_dataset:
        raise UsageError("no split was named", "--aug_dataset", EXAMPLE)
    app.load_tensorflow()
    options = CopyOptions(
        data_dir=Path(app.data_dir(values)),
        name=DatasetName.parse_split(values.aug_dataset),
        copies=values.aug_copy,
        augment=values.augment,
        seed=values.seed,
        unlabel_size=values.unlabel_size,
        overwrite=values.overwrite,
        threads=values.threads,
    )
    if values.dry_run:
        return app.plan_result(values, plan_copies(options))
    result = make_copies(options)
    for remark in result.notes:
        app.note(f"note: {remark}")
    facts: dict[str, Any] = {
        "file": str(result.file),
        "images": result.sources,
        "copies": result.records,
        "bytes": result.bytes,
    }
    return {**facts, "notes": list(result.notes)} if values.json else facts


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)
