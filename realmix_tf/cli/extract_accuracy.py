"""realmix-extract-accuracy: the statistics the literature reports, from a run's log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags

from realmix_tf.cli import app
from realmix_tf.errors import UsageError
from realmix_tf.files import json_text, require_writable

if TYPE_CHECKING:
    from data_tools.plan import Plan

NAME = "realmix-extract-accuracy"
SUMMARY = (
    "summarise the test accuracy of training runs.\n"
    "Writes <run>/stats/accuracy.json (medians of the last 1, 10, 20 and 50 evaluations, and the "
    "point\nchosen by validation accuracy) and prints it. Test accuracy never chooses anything."
)
USAGE = f"RUN_DIR...\n\nexample: {NAME} experiments/digits.1@20-100/RealMix_seed1"


def summary_text(run_dir: str, summary: dict[str, Any]) -> str:
    """One run's summary in a few lines for people."""
    lines = [run_dir]
    for window in ("last01", "last10", "last20", "last50"):
        value, used = summary[window], summary["evaluations_used"][window]
        shown = "no test set" if value is None else f"{value:.2%}  (median of {used})"
        lines.append(f"  {window}  {shown}")
    best = summary["best_by_validation"]
    if best is None:
        lines.append(f"  {summary['note']}")
    else:
        test = best["test_accuracy"]
        shown = "no test set" if test is None else f"test {test:.2%}"
        lines.append(
            f"  chosen by validation ({best['valid_accuracy']:.2%}) at {best['images']} images: "
            f"{shown}"
        )
    for key in ("repeated_lines", "incomplete_lines"):
        if summary[key]:
            lines.append(f"  {key.replace('_', ' ')} left out: {summary[key]}")
    return "\n".join(app.printable(line) for line in lines)


def define(values: absl_flags.FlagValues) -> None:
    """Adds the command's flags."""
    app.define_dry_run(values)


def run(values: absl_flags.FlagValues, arguments: list[str]) -> dict[str, Any] | str:
    """Runs the command."""
    from realmix_tf.evaluation.accuracy import summarize_accuracy

    if not arguments:
        raise UsageError("no run folder was named", "", f"{NAME} experiments/…/<run>")
    if values.dry_run:
        return app.plan_result(values, _plan(arguments))
    summaries = {run_dir: summarize_accuracy(run_dir) for run_dir in arguments}
    if values["json"].value:
        return {"schema": 1, "runs": summaries}
    return "\n".join(summary_text(run_dir, summary) for run_dir, summary in summaries.items())


def _plan(run_dirs: Sequence[str]) -> Plan:
    from data_tools.plan import FileUse, Plan, files, resident_bytes
    from realmix_tf.evaluation.accuracy import accuracy_summary

    writes = []
    for run_dir in run_dirs:
        size = len(json_text(accuracy_summary(run_dir)).encode()) + 1
        target = Path(run_dir, "stats", "accuracy.json")
        require_writable(target.parent)
        writes.append(FileUse(str(target), size))
    return Plan(
        reads=files(Path(run_dir, "metrics.jsonl") for run_dir in run_dirs),
        writes=tuple(writes),
        memory=resident_bytes(),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command's entry point; returns the exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)
