"""The command inspect_variables: the variables of a checkpoint, a run or an exported model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import flags

from realmix_tf.cli import app
from realmix_tf.errors import CheckpointError, UsageError

NAME = "inspect_variables"
SUMMARY = "lists the variables of a checkpoint or model: shapes, types, statistics."
EXAMPLE = "inspect_variables experiments/digits.1@20-100/RealMix_seed1"
USAGE = f"""CHECKPOINT | RUN | MODEL

examples:
  {EXAMPLE}
  inspect_variables experiments/…/tf/model.ckpt-00016384 --json

A run stands for its newest checkpoint. Hashes are checked before anything is read."""


def define(values: flags.FlagValues) -> None:
    """Adds the command's flags."""
    app.define_data_dir(values)
    app.define_dry_run(values)


def run(values: flags.FlagValues, arguments: list[str]) -> Any:
    """Reads and prints."""
    if len(arguments) != 1:
        raise UsageError("one checkpoint, run or model is needed", "", EXAMPLE)
    path = app.input_file(values, arguments[0])
    # Before TensorFlow takes its seconds to load.
    if not path.exists() and not path.with_name(f"{path.name}.json").exists():
        raise CheckpointError("there is no such checkpoint, run or model", path, EXAMPLE)
    app.load_tensorflow()
    from realmix_tf.evaluation.variables import describe, files_of, read_variables

    if values.dry_run:
        from data_tools.plan import Plan, files, resident_bytes

        used = files(files_of(path)[2])
        memory = resident_bytes() + 3 * sum(use.bytes for use in used)
        return app.plan_result(values, Plan(reads=used, writes=(), memory=memory))
    found = read_variables(path)
    return found.as_json() if values.json else describe(found)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)
