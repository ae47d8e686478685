"""The command verify: checks record files in full."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from absl import flags

from realmix_tf.cli import app
from realmix_tf.errors import DataError

NAME = "verify"
SUMMARY = "checks record files in full: checksums, records, manifests."
USAGE = """[FILE | FOLDER]...

examples:
  verify data/digits-train.tfrecord
  verify --data_dir=data

Ends with code 3 when something is damaged."""


def define(values: flags.FlagValues) -> None:
    """Adds the command's flags."""
    app.define_data_dir(values)


def run(values: flags.FlagValues, arguments: list[str]) -> Any:
    """Checks and prints; what is damaged is an error after the table."""
    from data_tools.checking import describe, verify

    statuses = verify(arguments or [app.data_dir(values)])
    damaged = [status for status in statuses if not status.ok]
    result: Any = describe(statuses)
    if values.json:
        result = {"files": [dataclasses.asdict(status) for status in statuses]}
    if not damaged:
        return result
    # The result belongs to stdout also when the command fails.
    print(app.result_json(result) if values.json else result, flush=True)
    raise DataError(
        f"{len(damaged)} of {len(statuses)} files are damaged",
        damaged[0].file,
        "build them again",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)
