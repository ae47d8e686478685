"""The command verify: checks record files in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from realmix_tf.cli import app
from realmix_tf.errors import DataError, ResourceError

NAME = "verify"
SUMMARY = "checks record files in full: checksums, records, manifests, origins, maps of splits."
USAGE = """[FILE | FOLDER]...

examples:
  verify data/digits-train.tfrecord
  verify --data_dir=data --clean

Ends with code 3 when something is damaged, else with code 4 when a file or folder may not be read.
Links to folders are not followed, but named. STALE is said of a file that was made from another
one that has changed since: it is whole, but does not belong to it any more."""


def define(values: flags.FlagValues) -> None:
    """Adds the command's flags."""
    app.define_data_dir(values)
    app.define_dry_run(values)
    flags.DEFINE_bool("clean", False, "Remove what killed runs left in the folders.",
                      flag_values=values)  # fmt: skip


def run(values: flags.FlagValues, arguments: list[str]) -> Any:
    """Checks and prints; what is damaged is an error after the table."""
    from data_tools.looking.checking import check, describe, plan_check

    paths = [app.input_file(values, path) for path in arguments] or [Path(app.data_dir(values))]
    if values.dry_run:
        return app.plan_result(values, plan_check(paths, values.clean))
    found = check(paths, values.clean)
    result: Any = found.as_json() if values.json else describe(found)
    for remark in found.notes:
        app.note(f"note: {remark}")
    damaged, unreadable = found.damaged, found.unreadable
    if not damaged and not unreadable:
        return result
    # The result belongs to stdout also when the command fails.
    print(app.result_json(result) if values.json else result, flush=True)
    total = len(found.files) + len(found.maps)
    if damaged:
        what = f"{len(damaged)} of {total} files are damaged"
        raise DataError(what, damaged[0], "build them again")
    raise ResourceError(
        f"{len(unreadable)} of {total} files cannot be read, so they were not checked",
        unreadable[0],
        "change their permissions",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)
