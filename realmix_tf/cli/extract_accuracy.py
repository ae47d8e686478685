"""realmix-extract-accuracy: the statistics the literature reports, from a run's log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags

from realmix_tf.cli import app
from realmix_tf.errors import UsageError

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
    """The command has no flags of its own."""


def run(values: absl_flags.FlagValues, arguments: list[str]) -> dict[str, Any] | str:
    """Runs the command."""
    from realmix_tf.evaluation.accuracy import summarize_accuracy

    if not arguments:
        raise UsageError("no run folder was named", "", f"{NAME} experiments/…/<run>")
    summaries = {run_dir: summarize_accuracy(run_dir) for run_dir in arguments}
    if values["json"].value:
        return {"schema": 1, "runs": summaries}
    return "\n".join(summary_text(run_dir, summary) for run_dir, summary in summaries.items())


def main(argv: Sequence[str] | None = None) -> int:
    """The command's entry point; returns the exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)
