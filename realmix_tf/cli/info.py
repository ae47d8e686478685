"""The command info: what a file, a folder or a name is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from realmix_tf.cli import app
from realmix_tf.errors import DataError, UsageError

NAME = "info"
SUMMARY = "says what something is: counts, hashes, where it comes from."
EXAMPLE = "info digits.1@20-100 --data_dir=data"
USAGE = f"""PATH | NAME

examples:
  {EXAMPLE}
  info experiments/digits.1@20-100/RealMix_seed1 --diff=experiments/digits.1@20-100/MixMatch_seed1

PATH is a record file, a manifest, a split's map, a report, a picture, an archive, a checkpoint, a
folder of datasets, pictures or predictions, a run or a model; NAME is a dataset or a split. Ends
with code 3 for what is damaged or not known here."""


def define(values: flags.FlagValues) -> None:
    """Adds the command's flags."""
    app.define_data_dir(values)
    app.define_dry_run(values)
    flags.DEFINE_string(
        "diff", "", "Another run: show the settings that differ.", flag_values=values
    )


def run(values: flags.FlagValues, arguments: list[str]) -> Any:
    """Looks and prints."""
    if len(arguments) != 1:
        raise UsageError("one path or name is needed", "", EXAMPLE)
    if values.dry_run:
        return _plan(values, arguments[0])
    from data_tools.looking.info import data_facts, describe

    path = Path(arguments[0])
    if values.diff:
        for folder in (path, Path(values.diff)):
            if not (folder / "args" / "args.json").is_file():
                raise DataError("this is no run folder", folder, "two folders under experiments/…")
        app.load_tensorflow()
        from realmix_tf.evaluation.run_info import diff_runs

        differing = diff_runs(path, Path(values.diff))
        facts: dict[str, Any] = {
            "kind": "difference of two runs",
            "first": str(path),
            "second": values.diff,
            "differing": differing,
        }
        if not values.json:
            facts["differing"] = {
                key: " | ".join("-" if value is None else str(value) for value in pair)
                for key, pair in differing.items()
            }
    else:
        found = _model_facts(path)
        facts = found or data_facts(arguments[0], values.data_dir or os.environ.get("ML_DATA", ""))
    return facts if values.json else describe(facts)


def _model_facts(path: Path) -> dict[str, Any] | None:
    # TensorFlow takes seconds to load and is of use only for what training left.
    marks = ("model.ckpt-", "predictions.json", "model.json")
    inside = ("args/args.json", "model.json", "predictions.json")
    if not path.name.startswith(marks) and not any((path / name).exists() for name in inside):
        return None
    app.load_tensorflow()
    from realmix_tf.evaluation.run_info import model_facts

    return model_facts(path)


def _plan(values: flags.FlagValues, text: str) -> Any:
    from data_tools.looking.inputs import walk
    from data_tools.plan import FileUse, Plan, resident_bytes

    path = app.input_file(values, text)
    uses, skipped = [], list[str]()
    for place, _, names in (
        walk(path, skipped) if path.is_dir() else [(path.parent, [], [path.name])]
    ):
        whole = (place / name for name in sorted(names))
        uses += [FileUse(str(file), file.lstat().st_size) for file in whole if file.is_file()]
    largest = max((use.bytes for use in uses), default=0)
    notes = tuple(f"{link} is a link to a folder and was skipped" for link in skipped)
    memory = resident_bytes() + largest // 8
    return app.plan_result(values, Plan(reads=tuple(uses), writes=(), memory=memory, notes=notes))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)
