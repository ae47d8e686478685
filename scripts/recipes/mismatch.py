#!/usr/bin/env python3
"""The mismatch study on digits: what happens when unlabelled images are of other classes?

The task is to tell the digits 2 to 7 apart. The unlabelled images come from four digits, of which
none, one, two, three or all are foreign to the task; the pattern of classes is the one published
with RealMix for CIFAR-10. Nobody tells the methods which images are foreign. A supervised baseline,
MixMatch, and RealMix with masking train on the same labels with the same number of updates.

The baseline reads no unlabelled images, so one run a seed serves all levels.
"""

from __future__ import annotations

import io
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from absl import flags

from realmix_tf.cli import app
from realmix_tf.cli.steps import Steps, place
from realmix_tf.data.names import DatasetName
from realmix_tf.errors import UsageError
from realmix_tf.files import atomic_write, read_json, write_json, write_text

NAME = "mismatch"
SUMMARY = (
    "measures how a supervised baseline, MixMatch and RealMix with masking fare when 0 to 100 %\n"
    "of the unlabelled images are of foreign classes. Writes mismatch.json, .md and .png to\n"
    "--train_dir. What is done is kept: the same command again goes on where it stopped."
)
USAGE = (
    "\n\nexample: python scripts/recipes/mismatch.py --data_dir=data "
    "--train_dir=experiments/mismatch"
)

TASK = (2, 3, 4, 5, 6, 7)
# Share of foreign images in percent → the digits of the unlabelled images.
LEVELS = {
    0: (4, 5, 6, 7),
    25: (0, 5, 6, 7),
    50: (0, 1, 6, 7),
    75: (0, 1, 8, 7),
    100: (0, 1, 8, 9),
}
METHODS = {"supervised": "supervised baseline", "mixmatch": "MixMatch", "realmix": "RealMix"}
CLASSES = 10
Scores = dict[str, dict[int, list[float]]]


def define(values: flags.FlagValues) -> None:
    """Adds the command's flags."""
    app.define_data_dir(values)
    flags.DEFINE_string(
        "train_dir", "experiments/mismatch", "Folder that receives everything.", flag_values=values
    )
    flags.DEFINE_integer(
        "labels",
        24,
        "Labelled images in all, a multiple of six. The default, 4 a class, leaves the baseline "
        "far enough below 100 % for gains and losses to show over the noise of three seeds.",
        flag_values=values,
    )
    flags.DEFINE_integer("seeds", 3, "Runs with the seeds 1 to this.", 1, flag_values=values)
    flags.DEFINE_list(
        "levels", list(map(str, LEVELS)), "Percent of foreign images.", flag_values=values
    )
    flags.DEFINE_float(
        "train_kimg",
        32.0,
        "Length of each training in thousands (1024) of labelled images.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "method_flags",
        "--arch=small --filters=32 --ema=0.99 --bn_decay=0.99 --augment=digits",
        "Flags of every training.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "realmix_flags", "--percent_mask=0.5", "Further flags of RealMix.", flag_values=values
    )


def run(values: flags.FlagValues, arguments: list[str]) -> Any:
    """Runs the study; returns the table, or all numbers with --json."""
    if arguments:
        raise UsageError(f"there is an argument too many: {arguments[0]!r}", "", f"{NAME} --help")
    if values.labels < len(TASK) or values.labels % len(TASK):
        raise UsageError(f"--labels is {values.labels}", "", "a multiple of six, such as 24")
    if not values.levels or not {*values.levels} <= {*map(str, LEVELS)}:
        raise UsageError(
            f"--levels is {','.join(values.levels)}", "", f"some of {','.join(map(str, LEVELS))}"
        )
    study = Study(
        data_dir=place(app.data_dir(values), ROOT),
        train_dir=place(values.train_dir, ROOT),
        labels=values.labels,
        train_kimg=values.train_kimg,
        flags={
            method: shlex.split(
                values.method_flags
                + (f" --warmup_kimg={values.train_kimg / 6:g}" if method != "supervised" else "")
                + (f" {values.realmix_flags}" if method == "realmix" else "")
            )
            for method in METHODS
        },
    )
    levels = [level for level in LEVELS if str(level) in values.levels]
    scores: Scores = {method: {level: [] for level in levels} for method in METHODS}
    seconds = 0.0
    for seed in range(1, values.seeds + 1):
        for level in levels:
            study.build(seed, level)
        for level in levels:
            for method in METHODS:
                accuracy, spent = study.train(method, seed, levels[0], level)
                scores[method][level].append(accuracy)
                seconds += spent
    result = {
        "schema": 1,
        "labels": values.labels,
        "seeds": values.seeds,
        "task_classes": TASK,
        "unlabeled_classes": {str(level): LEVELS[level] for level in levels},
        "train_kimg": values.train_kimg,
        "flags": study.flags,
        "test_images": study.test_images,
        "accuracy": {
            method: {str(level): values for level, values in by_level.items()}
            for method, by_level in scores.items()
        },
        "training_seconds": round(seconds, 1),
    }
    folder = ROOT / study.train_dir
    text = page(result, scores)
    write_json(folder / "mismatch.json", result)
    write_text(folder / "mismatch.md", text)
    draw(scores, folder / "mismatch.png")
    if values.json:
        return result
    names = ", ".join(
        str(study.train_dir / f"mismatch.{ending}") for ending in ("json", "md", "png")
    )
    return f"{text}\nwrote {names}"


class Study:
    """The data sets and trainings of the study, each made once.

    Args:
      data_dir: folder of the datasets, counted from the project.
      train_dir: folder of the runs, counted from the project.
      labels: labelled images in all.
      train_kimg: length of each training.
      flags: of each method's trainings.
    """

    def __init__(
        self,
        data_dir: Path,
        train_dir: Path,
        labels: int,
        train_kimg: float,
        flags: dict[str, list[str]],
    ) -> None:
        self.data_dir, self.train_dir, self.labels = data_dir, train_dir, labels
        self.train_kimg, self.flags = train_kimg, flags
        self.test_images = 0
        self._steps = Steps(ROOT / train_dir / "steps", ROOT)

    def name(self, seed: int, level: int) -> DatasetName:
        """The data set of a seed and a level."""
        return DatasetName(f"mismatch{level}", None, seed, self.labels, 0)

    def build(self, seed: int, level: int) -> None:
        """Builds what a level's trainings read, with the tools users have."""
        data, name = self.data_dir, self.name(seed, level)
        # As many labels of each of the ten digits; four digits' labels are then not used.
        whole = DatasetName("digits", None, seed, self.labels // len(TASK) * CLASSES, 0)
        train, test = whole.train_file(data), whole.test_file(data)
        self._steps.command(
            "digits",
            ["scripts/create_datasets.py", "digits", f"--data_dir={data}"],
            outputs=[train, test],
        )
        self._steps.command(
            f"split.{whole.labels}.{seed}",
            [
                "scripts/create_split.py",
                f"--seed={seed}",
                f"--label_split_size={whole.labels}",
                "--class_balance",
                str(data / "SSL" / whole.dataset),
                str(train),
            ],
            inputs=[train],
            outputs=[whole.label_file(data), whole.unlabel_file(data)],
        )
        self._filter(TASK, test, name.test_file(data))
        self._filter(TASK, whole.label_file(data), name.label_file(data))
        self._filter(LEVELS[level], whole.unlabel_file(data), name.unlabel_file(data), hide=True)

    def _filter(
        self, digits: Sequence[int], source: Path, target: Path, hide: bool = False
    ) -> None:
        words = [
            "scripts/filter_dataset.py",
            f"--class_filter={','.join(map(str, digits))}",
            f"--filter_dataset={source}",
            f"--save_name={target}",
        ]
        self._steps.command(
            target.name.removesuffix(".tfrecord"),
            [*words, *(["--unlabeled"] if hide else [])],
            inputs=[source],
            outputs=[target],
        )

    def train(self, method: str, seed: int, first: int, level: int) -> tuple[float, float]:
        """Trains, unless done; returns the test accuracy and the seconds it took."""
        name = self.name(seed, first if method == "supervised" else level)
        data = self.data_dir
        inputs = [name.label_file(data), name.test_file(data)]
        if method != "supervised":
            inputs.append(name.unlabel_file(data))
        record = self._steps.training(
            f"{method}.{name}",
            [
                "realmix.py",
                f"--method={method}",
                f"--dataset={name}",
                f"--data_dir={data}",
                f"--train_dir={self.train_dir}",
                f"--seed={seed}",
                f"--train_kimg={self.train_kimg:g}",
                f"--report_kimg={self.train_kimg / 2:g}",
                f"--save_kimg={self.train_kimg:g}",
                *self.flags[method],
            ],
            inputs=inputs,
        )
        run_folder = ROOT / record["result"]["run"]
        evaluated = read_json(run_folder / "stats" / "evaluation.json")["sets"]["test"]
        self.test_images = int(evaluated["count"])
        counted = method != "supervised" or level == first
        return float(evaluated["accuracy"]), record["seconds"] if counted else 0.0


def mean_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard error of the mean; None for a single value."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def differences(scores: Scores, level: int) -> list[float]:
    """RealMix minus baseline, seed by seed."""
    pairs = zip(scores["realmix"][level], scores["supervised"][level], strict=True)
    return [ours - theirs for ours, theirs in pairs]


def page(result: dict[str, Any], scores: Scores) -> str:
    """The numbers as a Markdown page."""
    levels = list(scores["supervised"])
    rows = [
        "| foreign | unlabelled digits | "
        + " | ".join(METHODS.values())
        + " | RealMix − baseline |",
        "|---|---|" + "---|" * (len(METHODS) + 1),
    ]
    for level in levels:
        cells = [_cell(scores[method][level]) for method in METHODS]
        digits = ", ".join(map(str, LEVELS[level]))
        change = _cell(differences(scores, level), signed=True)
        rows.append(f"| {level} % | {digits} | {' | '.join(cells)} | {change} |")
    below = [level for level in levels if _is_below(differences(scores, level))]
    shown = ", ".join(f"{level} %" for level in below) or "no level"
    seeds = result["seeds"]
    text = [
        "# Foreign unlabelled images: digits 2 to 7",
        "",
        f"Test accuracy in percent on {result['test_images']} images; {result['labels']} labels "
        f"({result['labels'] // len(TASK)} a class), "
        + (f"mean of {seeds} seeds ± standard error" if seeds > 1 else "one seed")
        + f"; {result['train_kimg']:g} kimg a run, {result['training_seconds'] / 60:.1f} minutes "
        "of training in all. The baseline reads no unlabelled images: its column is one set of "
        "runs.",
        "",
        *rows,
        "",
        f"RealMix is below the baseline by more than a standard error at {shown}.",
        "",
        *(
            f"{label}: `{shlex.join(result['flags'][method])}`  "
            for method, label in METHODS.items()
        ),
    ]
    return "\n".join(text) + "\n"


def _cell(values: Sequence[float], signed: bool = False) -> str:
    mean, error = mean_error(values)
    text = f"{mean * 100:+.1f}" if signed else f"{mean * 100:.1f}"
    return text if error is None else f"{text} ± {error * 100:.1f}"


def _is_below(values: Sequence[float]) -> bool:
    mean, error = mean_error(values)
    return mean < -(error or 0.0)


def draw(scores: Scores, target: Path) -> None:
    """Draws accuracy over the share of foreign images, with standard errors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), dpi=110, layout="constrained")
    axis = figure.subplots()
    looks = {
        "supervised": ("#7b8794", "--", "o"),
        "mixmatch": ("#c4692f", "-", "s"),
        "realmix": ("#2f6f9f", "-", "D"),
    }
    for method, label in METHODS.items():
        measured = [mean_error(values) for values in scores[method].values()]
        color, style, marker = looks[method]
        axis.errorbar(
            list(scores[method]),
            [mean * 100 for mean, _ in measured],
            yerr=[(error or 0.0) * 100 for _, error in measured],
            label=label,
            color=color,
            linestyle=style,
            marker=marker,
            markersize=5,
            capsize=3,
        )
    axis.set_xlabel("unlabelled images of foreign classes, %")
    axis.set_ylabel("test accuracy, %")
    axis.set_xticks(list(scores["supervised"]))
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with atomic_write(target) as file:
        file.write(buffer.getvalue())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)


if __name__ == "__main__":
    sys.exit(main())
