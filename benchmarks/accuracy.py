#!/usr/bin/env python3
"""The results board: methods × label counts × seeds on digits and on CIFAR-10's pictures.

Every cell is a split and a training by realmix.py, with the same number of updates, batch, network
and weak policy; only the method differs. A cell's score is the median test accuracy of its last
evaluations, of the averaged weights. What is done is kept: the same command goes on where it
stopped, in the middle of a training too. Writes the scores into docs/accuracy.json, and from them
the board in docs/RESULTS.md and a plot. Scores that are there already stay, unless their flags are
no longer those of this file, so a board can grow command by command and machine by machine.

  python benchmarks/accuracy.py --folder=study --sets=digits
  python benchmarks/accuracy.py --folder=study --sets=digits,cifar10 --pictures=cifar10_images.zip
  python benchmarks/accuracy.py --folder=study --methods=fixmatch --labels=20,40 --minutes=30
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable
from dataclasses import astuple, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

BEGIN = "<!-- accuracy: written by benchmarks/accuracy.py, do not edit by hand -->"
END = "<!-- accuracy: end -->"
LARGEST_PICTURE = 1 << 20  # bytes; these are 32×32 JPEG files


@dataclass(frozen=True)
class Study:
    """One set of pictures and the budget of every training on it.

    Attributes:
      dataset: its name.
      title: of its part of the board.
      budget: network and length in words.
      labels, seeds, methods: where none are asked for.
      flags: of every run.
      of_method: more flags of single methods, whose published lengths do not fit the budget.
      last: evaluations that a run's median is taken of.
    """

    dataset: str
    title: str
    budget: str
    labels: tuple[int, ...]
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    flags: dict[str, Any]
    of_method: dict[str, dict[str, Any]] = field(default_factory=dict)
    last: int = 5


EVERY_METHOD = (
    "supervised",
    "mixup_supervised",
    "pseudo_label",
    "pi_model",
    "mean_teacher",
    "vat",
    "ict",
    "mixup",
    "mixmatch",
    "realmix",
    "remixmatch",
    "uda",
    "fixmatch",
    "flexmatch",
    "freematch",
    "softmatch",
    "adamatch",
    "dash",
    "simmatch",
    "comatch",
    "crmatch",
    "defixmatch",
)
STUDIES = {
    "digits": Study(
        dataset="digits",
        title="Digits",
        budget="scikit-learn's 8×8 digits, 1,297 to train on and 500 to test with; the small "
        "network (five convolutions, 32 to 128 channels), 96 kimg (1,536 updates of 64)",
        labels=(40,),
        seeds=(1, 2, 3),
        methods=EVERY_METHOD,
        flags={
            "arch": "small",
            "filters": 32,
            "ema": 0.99,
            "bn_decay": 0.99,
            "train_kimg": 96,
            "report_kimg": 4,
            "save_kimg": 16,
            "keep_ckpt": 2,
        },
        of_method={
            "mixmatch": {"warmup_kimg": 16},
            "realmix": {"warmup_kimg": 16},
            "remixmatch": {"warmup_kimg": 16},
            "dash": {"warmup_kimg": 8, "decay_kimg": 8},
            "simmatch": {"warmup_kimg": 8},
            "vat": {"vat_eps": 0.87},
        },
    ),
    "cifar10": Study(
        dataset="cifarjpg",
        title="CIFAR-10's pictures",
        budget="CIFAR-10 as JPEG files (re-encoded, so not to the decimal comparable with papers), "
        "50,000 to train on and 10,000 to test with; a WRN-10-1 (16 to 64 channels), 256 kimg "
        "(4,096 updates of 64)",
        labels=(250,),
        seeds=(1, 2),
        methods=(
            "supervised",
            "mixmatch",
            "realmix",
            "remixmatch",
            "fixmatch",
            "flexmatch",
            "freematch",
        ),
        flags={
            "arch": "resnet",
            "filters": 16,
            "repeat": 1,
            "ema": 0.99,
            "bn_decay": 0.99,
            "train_kimg": 256,
            "report_kimg": 16,
            "save_kimg": 16,
            "keep_ckpt": 2,
        },
        of_method={
            "mixmatch": {"warmup_kimg": 256},
            "realmix": {"warmup_kimg": 256},
            "remixmatch": {"warmup_kimg": 256},
        },
    ),
}


@dataclass(frozen=True)
class Cell:
    """One training."""

    study: str
    method: str
    labels: int
    seed: int


class Stopped(Exception):
    """The time is up, or the user pressed Ctrl-C; what is done is kept."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", required=True, help="for datasets and runs; reused")
    parser.add_argument("--sets", default="digits", help=f"of {', '.join(STUDIES)}")
    parser.add_argument("--methods", default="", help="instead of each set's own")
    parser.add_argument("--labels", default="", help="label counts, instead of each set's own")
    parser.add_argument("--seeds", default="", help="of split, weights and augmentation, likewise")
    parser.add_argument("--pictures", default="", help="CIFAR-10's pictures: zip file or folder")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many")
    parser.add_argument("--scores", default=str(ROOT / "docs" / "accuracy.json"))
    parser.add_argument("--results", default=str(ROOT / "docs" / "RESULTS.md"))
    parser.add_argument("--plot", default=str(ROOT / "docs" / "images" / "accuracy.png"))
    arguments = parser.parse_args()
    deadline = time.monotonic() + 60 * arguments.minutes
    folder = Path(arguments.folder)
    cells = list(wanted(arguments))
    try:
        prepare(cells, folder, arguments.pictures)
        for number, cell in enumerate(cells, 1):
            if not finished(cell, folder):
                print(f"[{number}/{len(cells)}] {cell}", file=sys.stderr, flush=True)
                train(cell, folder, deadline)
    except Stopped:
        print("stopped; the same command goes on from here", file=sys.stderr)
    missing = [cell for cell in cells if not finished(cell, folder)]
    done = read_scores(Path(arguments.scores))
    done |= {cell: score_of(cell, folder) for cell in cells_in(folder) if finished(cell, folder)}
    text = board(done)
    print(text)
    if done:
        write_scores(Path(arguments.scores), done)
        write_into(Path(arguments.results), text)
        draw(done, Path(arguments.plot))
    return 1 if missing else 0


def wanted(arguments: argparse.Namespace) -> Iterable[Cell]:
    """The cells that were asked for, all methods of a seed before the next seed."""
    for name in arguments.sets.split(","):
        if name not in STUDIES:
            raise SystemExit(f"error: there is no set {name!r}; try: {' or '.join(STUDIES)}")
        study = STUDIES[name]
        methods = arguments.methods.split(",") if arguments.methods else study.methods
        labels = map(int, arguments.labels.split(",")) if arguments.labels else study.labels
        seeds = list(map(int, arguments.seeds.split(","))) if arguments.seeds else study.seeds
        for count in labels:
            for seed in seeds:
                for method in methods:
                    if method not in EVERY_METHOD:
                        raise SystemExit(f"error: there is no method {method!r}")
                    yield Cell(name, method, count, seed)


def prepare(cells: list[Cell], folder: Path, pictures: str) -> None:
    """Builds the datasets and draws the splits that are not there yet."""
    from realmix_tf import api

    data = folder / "data"
    names = {cell.study for cell in cells}
    if "digits" in names:
        api.build_digits(data)
    if "cifar10" in names and not (data / "cifarjpg-train.tfrecord").exists():
        if not pictures:
            raise SystemExit("error: the set cifar10 needs its pictures; try: --pictures=FILE.zip")
        unpacked = unpack(Path(pictures), folder / "pictures")
        api.build_custom("cifarjpg", data, unpacked / "train", unpacked / "test")
    for cell in cells:
        dataset = STUDIES[cell.study].dataset
        if not (data / "SSL" / f"{dataset}.{cell.seed}@{cell.labels}-map.json").exists():
            api.split(dataset, cell.labels, data, seed=cell.seed)


def unpack(source: Path, target: Path) -> Path:
    """The folder that holds ``train`` and ``test``; a zip file is copied out member by member."""
    if source.is_dir():
        return source
    partly = target.with_name(f"{target.name}.partly")
    if not target.exists():
        shutil.rmtree(partly, ignore_errors=True)
        with zipfile.ZipFile(source) as archive:
            for member in archive.infolist():
                parts = PurePosixPath(member.filename).parts[-3:]
                if member.is_dir() or len(parts) != 3 or parts[0] not in ("train", "test"):
                    continue
                if member.file_size > LARGEST_PICTURE or any(p in ("", ".", "..") for p in parts):
                    raise SystemExit(f"error: {source} holds {member.filename!r}, no small picture")
                place = partly.joinpath(*parts)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(archive.read(member))
        partly.rename(target)
    return target


def flags_of(cell: Cell) -> dict[str, Any]:
    """The flags of a cell's training besides folders."""
    study = STUDIES[cell.study]
    return {
        "method": cell.method,
        "dataset": f"{study.dataset}.{cell.seed}@{cell.labels}-0",
        **study.flags,
        **study.of_method.get(cell.method, {}),
        "seed": cell.seed,
    }


def command(cell: Cell, folder: Path) -> list[str]:
    """The words of a cell's training."""
    flags = flags_of(cell) | {"data_dir": folder / "data", "train_dir": runs_of(cell, folder)}
    words = [f"--{name}={value}" for name, value in flags.items()]
    return [sys.executable, str(ROOT / "realmix.py"), *words]


def runs_of(cell: Cell, folder: Path) -> Path:
    return folder / "runs" / f"{cell.study}_{cell.labels}_{cell.method}_{cell.seed}"


def cells_in(folder: Path) -> Iterable[Cell]:
    """The cells that were ever begun in a folder."""
    for path in sorted((folder / "runs").glob("*_*_*_*")):
        study, labels, rest = path.name.split("_", 2)
        method, seed = rest.rsplit("_", 1)
        if study in STUDIES and method in EVERY_METHOD and labels.isdigit() and seed.isdigit():
            yield Cell(study, method, int(labels), int(seed))


def run_folder(cell: Cell, folder: Path) -> Path:
    """Where a cell's run is, or would be; one that other flags trained is not the cell's."""
    for place in sorted(runs_of(cell, folder).glob("*/*/env.json")):
        words = json.loads(place.read_text("utf-8"))["command"][1:]
        own = [word for word in words if not word.startswith(("--data_dir=", "--train_dir="))]
        if sorted(own) == sorted(f"--{name}={value}" for name, value in flags_of(cell).items()):
            return place.parent
    return runs_of(cell, folder) / "none"


def finished(cell: Cell, folder: Path) -> bool:
    return (run_folder(cell, folder) / "stats" / "evaluation.json").exists()


def train(cell: Cell, folder: Path, deadline: float) -> None:
    """Runs a training, or its rest; asks it to save and stop when the time is up."""
    process = subprocess.Popen(command(cell, folder), stdout=subprocess.DEVNULL)
    try:
        left = deadline - time.monotonic()
        code = process.wait(None if math.isinf(left) else max(left, 0.1))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise Stopped from None
    if code in (130, 143):
        raise Stopped
    if code:
        raise SystemExit(f"error: {shlex.join(command(cell, folder))} ended with code {code}")


@dataclass(frozen=True)
class Score:
    """A finished training: its test accuracy in percent, and how long it trained in seconds."""

    accuracy: float
    seconds: float


def score_of(cell: Cell, folder: Path) -> Score:
    """The score of a finished cell."""
    from realmix_tf.training.logs import read_lines

    run = run_folder(cell, folder)
    lines = read_lines(run / "metrics.jsonl").lines
    accuracies = [100 * line["ema"]["test"]["accuracy"] for line in lines]
    timing = read_lines(run / "timing.jsonl").lines
    last = STUDIES[cell.study].last
    return Score(statistics.median(accuracies[-last:]), sum(line["seconds"] for line in timing))


def read_scores(path: Path) -> dict[Cell, Score]:
    """The scores of a file whose trainings had the flags they would have today."""
    scores = {}
    for line in json.loads(path.read_text("utf-8"))["scores"] if path.exists() else ():
        cell = Cell(line["set"], line["method"], line["labels"], line["seed"])
        if cell.study in STUDIES and line["flags"] == flags_of(cell):
            scores[cell] = Score(line["accuracy"], line["seconds"])
    return scores


def write_scores(path: Path, scores: dict[Cell, Score]) -> None:
    """Writes what ``read_scores`` reads, one score a line."""
    from realmix_tf.files import write_text

    lines = [
        json.dumps(
            {
                "set": cell.study,
                "method": cell.method,
                "labels": cell.labels,
                "seed": cell.seed,
                "accuracy": round(score.accuracy, 4),
                "seconds": round(score.seconds),
                "flags": flags_of(cell),
            }
        )
        for cell, score in sorted(scores.items(), key=lambda item: astuple(item[0]))
    ]
    write_text(path, '{"scores": [\n' + ",\n".join(lines) + "\n]}\n")


@dataclass(frozen=True)
class Row:
    """A method's scores over seeds."""

    method: str
    scores: list[Score]
    seeds: list[int]

    @property
    def mean(self) -> float:
        return statistics.mean(score.accuracy for score in self.scores)

    @property
    def error(self) -> float:
        """Standard error of the mean; not a number for one seed."""
        values = [score.accuracy for score in self.scores]
        return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan


def rows_of(done: dict[Cell, Score], study: str, labels: int) -> list[Row]:
    """One row a method, in the order of ``EVERY_METHOD``."""
    rows = []
    for method in EVERY_METHOD:
        cells = [c for c in done if (c.study, c.labels, c.method) == (study, labels, method)]
        cells.sort(key=lambda cell: cell.seed)
        if cells:
            rows.append(Row(method, [done[c] for c in cells], [c.seed for c in cells]))
    return rows


def board(done: dict[Cell, Score]) -> str:
    """The board in Markdown."""
    parts = []
    for name, study in STUDIES.items():
        for labels in sorted({cell.labels for cell in done if cell.study == name}):
            rows = rows_of(done, name, labels)
            hours = sum(s.seconds for row in rows for s in row.scores) / 3600
            flags = " ".join(f"--{key}={value}" for key, value in study.flags.items())
            parts += [
                f"### {study.title}, {labels} labels",
                "",
                f"Budget: {study.budget}; {hours:.1f} core hours of training in all. `{flags}`",
                "",
                *table(rows, study),
                "",
                *findings(rows),
            ]
    return "\n".join(parts).rstrip() + "\n"


def table(rows: list[Row], study: Study) -> list[str]:
    baseline = next((row.mean for row in rows if row.method == "supervised"), math.nan)
    lines = [
        "| method | test accuracy, % | over supervised | by seed | training, s | own flags |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        over = "" if row.method == "supervised" else f"{row.mean - baseline:+.1f}"
        error = "" if math.isnan(row.error) else f" ± {row.error:.1f}"
        seeds = ", ".join(f"{score.accuracy:.1f}" for score in row.scores)
        seconds = statistics.median(score.seconds for score in row.scores)
        own = study.of_method.get(row.method, {})
        words = " ".join(f"`--{key}={value}`" for key, value in own.items())
        lines.append(
            f"| `{row.method}` | {row.mean:.1f}{error} | {over} | {seeds} | {seconds:.0f} | "
            f"{words} |"
        )
    return lines


def findings(rows: list[Row]) -> list[str]:
    """Which methods end below the baseline, in words."""
    baseline = next((row for row in rows if row.method == "supervised"), None)
    if baseline is None:
        return []
    below = [row.method for row in rows if row.mean < baseline.mean]
    if not below:
        return ["No method is below the supervised baseline.", ""]
    return [f"Below the supervised baseline: {', '.join(f'`{name}`' for name in below)}.", ""]


def write_into(page: Path, text: str) -> None:
    """Replaces the board in a page, or adds it at the end."""
    from realmix_tf.files import write_text

    block = f"{BEGIN}\n\n{text}\n{END}"
    old = page.read_text("utf-8") if page.exists() else "# Results\n"
    if BEGIN in old and END in old:
        before, after = old.split(BEGIN)[0], old.split(END, 1)[1]
        write_text(page, f"{before}{block}{after}")
    else:
        write_text(page, f"{old.rstrip()}\n\n{block}\n")


def draw(done: dict[Cell, Score], path: Path) -> None:
    """One panel a set and label count: each method's mean and standard error, and its seeds."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    import matplotlib.pyplot as plt

    panels = [
        (name, labels)
        for name in STUDIES
        for labels in sorted({cell.labels for cell in done if cell.study == name})
    ]
    tables = [rows_of(done, *panel) for panel in panels]
    longest = max(map(len, tables))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(5.2 * len(panels), 1.1 + 0.27 * longest), squeeze=False
    )
    for (name, labels), rows, place in zip(panels, tables, axes[0], strict=True):
        rows = sorted(rows, key=lambda row: row.mean)
        for height, row in enumerate(rows):
            baseline = row.method == "supervised"
            color = "#c0504d" if baseline else "#1f4e79"
            values = [score.accuracy for score in row.scores]
            place.plot(values, [height] * len(values), "|", color=color, alpha=0.45, markersize=9)
            error = None if math.isnan(row.error) else row.error
            place.errorbar(row.mean, height, xerr=error, fmt="o", color=color, markersize=5)
            if baseline:
                place.axvline(row.mean, color=color, linewidth=0.8, linestyle=":")
        place.set_yticks(range(len(rows)), [row.method for row in rows])
        place.set_ylim(-0.7, longest - 0.3)
        place.set_xlabel("test accuracy, %")
        place.set_title(f"{STUDIES[name].title}, {labels} labels", fontsize=11)
        place.spines[["top", "right"]].set_visible(False)
        place.grid(axis="x", linewidth=0.4, alpha=0.5)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
