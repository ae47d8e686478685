#!/usr/bin/env python3
"""The main job on real images: 20 labels, a supervised baseline, RealMix, a classified folder.

Every step is one of the project's commands and is shown as it can be typed. What is done is kept,
so a second call only prints the table again.
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from absl import flags

from realmix_tf.cli import app
from realmix_tf.cli.steps import Steps, place
from realmix_tf.data.names import DatasetName
from realmix_tf.errors import UsageError
from realmix_tf.files import atomic_write, read_json, write_text

NAME = "demo"
SUMMARY = (
    "trains a supervised baseline and RealMix on 20 labelled digits (2 a class)\n"
    "and 1,177 more without labels, and classifies a folder of pictures. No network is needed."
)
USAGE = "\n\nexample: python scripts/demo.py --dir=.demo"

LABELS, VALID, COPIES, SEED = 20, 100, 10, 1
SPLIT = DatasetName("digits", None, SEED, LABELS, VALID)
PICTURES_A_CLASS = 20
TRAINING = ("baseline", "realmix")


def define(values: flags.FlagValues) -> None:
    """Adds the command's flags."""
    flags.DEFINE_string("dir", ".demo", "Folder that receives everything.", flag_values=values)
    flags.DEFINE_float(
        "train_kimg",
        96.0,
        "Length of each training in thousands (1024) of labelled images.",
        lower_bound=0.0625,
        flag_values=values,
    )


def run(values: flags.FlagValues, arguments: list[str]) -> Any:
    """Does the steps that are not done yet; returns the table, or the numbers with --json."""
    if arguments:
        raise UsageError(f"there is an argument too many: {arguments[0]!r}", "", "--dir=FOLDER")
    result = demo(place(values.dir, ROOT), values.train_kimg)
    return result if values["json"].value else table(result)


def demo(folder: Path, train_kimg: float) -> dict[str, Any]:
    """The demo in ``folder`` (counted from the project); returns its numbers and paths."""
    steps = Steps(ROOT / folder / "steps", ROOT)
    data, experiments = folder / "data", folder / "experiments"
    train, test = SPLIT.train_file(data), SPLIT.test_file(data)
    label, unlabel = SPLIT.label_file(data), SPLIT.unlabel_file(data)
    copied = SPLIT.with_copies(COPIES)

    steps.command(
        "dataset",
        ["scripts/create_datasets.py", "digits", f"--data_dir={data}"],
        outputs=[train, test],
    )
    steps.command(
        "split",
        [
            "scripts/create_split.py",
            f"--seed={SEED}",
            f"--label_split_size={LABELS}",
            str(data / "SSL" / "digits"),
            str(train),
        ],
        inputs=[train],
        outputs=[label, unlabel],
    )
    steps.command(
        "copies",
        [
            "scripts/make_aug_copy.py",
            f"--aug_dataset={SPLIT.without_copies().split}",
            f"--aug_copy={COPIES}",
            # Another augmentation than the trainings' own (shifts), as RealMix wants it.
            "--augment=cutout",
            f"--data_dir={data}",
        ],
        inputs=[unlabel],
        outputs=[copied.unlabel_file(data)],
    )
    pictures = folder / "pictures"
    write_pictures(ROOT / test, ROOT / pictures)

    common = [f"--seed={SEED}", f"--data_dir={data}", f"--train_dir={experiments}"]
    if train_kimg != 96:
        common += [f"--train_kimg={train_kimg:g}", f"--report_kimg={train_kimg / 2:g}"]
        common += [f"--save_kimg={train_kimg:g}"]
    baseline = steps.training(
        "baseline",
        [
            "realmix.py",
            "--flagfile=presets/digits_20_supervised.flags",
            f"--dataset={SPLIT}",
            *common,
        ],
        inputs=[label, unlabel, test],
    )
    realmix = steps.training(
        "realmix",
        [
            "realmix.py",
            "--flagfile=presets/digits_20_realmix.flags",
            f"--dataset={copied}",
            f"--baseline={baseline['result']['run']}",
            *common,
        ],
        inputs=[
            label,
            unlabel,
            copied.unlabel_file(data),
            test,
            Path(baseline["result"]["run"], "stats", "evaluation.json"),  # the report shows it
        ],
    )
    run_folder = Path(realmix["result"]["run"])
    predictions = run_folder / "predictions" / pictures.name
    files = sorted(
        pictures / path.relative_to(ROOT / pictures)
        for path in (ROOT / pictures).rglob("*")
        if path.is_file()
    )
    classified = steps.query(
        "predict",
        [
            "realmix.py",
            "--perform_inference",
            f"--inference_dir={pictures}",
            f"--inference_ckpt={run_folder}",
        ],
        inputs=[*files, run_folder / "model" / "weights.npz"],
        outputs=[predictions / "predictions.csv", predictions / "predictions.json"],
    )
    counts = read_json(ROOT / run_folder / "args" / "args.json")["counts"]
    result = {
        "schema": 1,
        "labels": LABELS,
        "unlabeled": counts["unlabeled"] // COPIES,
        "copies": COPIES,
        "test": {name: test_accuracy(ROOT / record["result"]["run"])
                 for name, record in zip(TRAINING, (baseline, realmix), strict=True)},
        "training_seconds": {
            name: record["seconds"]
            for name, record in zip(TRAINING, (baseline, realmix), strict=True)
        },
        "pictures": classified["result"]["counts"] | {
            "accuracy": classified["result"]["accuracy"]["accuracy"]
        },
        "unreadable": [
            {"path": row["path"], "reason": row["reason"]}
            for row in classified["result"]["predictions"]
            if row["status"] != "ok"
        ],
        "predictions": str(predictions / "predictions.csv"),
        "baseline_run": baseline["result"]["run"],
        "run": str(run_folder),
        "report": realmix["result"]["report"],
        "plots": str(run_folder / "plots"),
        "picture": str(folder / "demo.png"),
    }  # fmt: skip
    draw(ROOT / label, result, ROOT / folder / "demo.png")
    return result


def test_accuracy(run_folder: Path) -> float:
    """The accuracy on the test set that a run's own files state, in [0, 1]."""
    return float(read_json(run_folder / "stats" / "evaluation.json")["sets"]["test"]["accuracy"])


def write_pictures(test: Path, folder: Path) -> None:
    """Writes test images as files in a folder a class, and three odd ones; once.

    The odd ones are what folders really hold: a text file called .png, a picture with
    transparency, and a larger JPEG.
    """
    from PIL import Image

    from realmix_tf.data.records import RecordReader

    done = folder / ".complete"
    if done.exists():
        return
    app.note(f"writing {PICTURES_A_CLASS} test images a class as files to {folder.name}/")
    shutil.rmtree(folder, ignore_errors=True)
    with RecordReader(test) as reader:
        count = dict.fromkeys(reader.classes, 0)
        first = [reader.image(int((reader.labels == label).argmax())) for label in (3, 7)]
        for i, label in enumerate(reader.labels.tolist()):
            name = reader.classes[label]
            if count[name] < PICTURES_A_CLASS:
                with atomic_write(folder / name / f"{i:04}.png") as file:
                    file.write(reader.image(i))
                count[name] += 1
    with Image.open(io.BytesIO(first[0])) as three, Image.open(io.BytesIO(first[1])) as seven:
        with atomic_write(folder / "3" / "transparent.png") as file:
            three.convert("RGBA").save(file, "PNG")
        with atomic_write(folder / "7" / "large.jpg") as file:
            large = seven.convert("RGB").resize((240, 240), Image.Resampling.BICUBIC)
            large.save(file, "JPEG", quality=90)
    write_text(folder / "0" / "notes.png", "This is text, whatever its name says.\n")
    write_text(done, "")


def draw(label: Path, result: dict[str, Any], target: Path) -> None:
    """Draws what was given and what came of it: the labelled images, and two bars."""
    from matplotlib.figure import Figure

    from realmix_tf.data.images import decode_pngs
    from realmix_tf.data.records import RecordReader

    with RecordReader(label) as reader:
        images = decode_pngs([bytes(reader.image(i)) for i in range(len(reader))])
        order = reader.labels.argsort(kind="stable")
        titles = [reader.classes[i] for i in reader.labels]
    figure = Figure(figsize=(8, 2.9), dpi=110, layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(5, 4))
    left, right = parts
    left.suptitle(f"all {len(images)} labels there are", fontsize=10)
    for axis, i in zip(left.subplots(4, len(images) // 4).flat, order, strict=True):
        axis.imshow(images[i, ..., 0], cmap="gray_r")
        axis.set_title(titles[i], fontsize=7, pad=2)
        axis.set_axis_off()
    axis = right.subplots()
    values = [result["test"][name] * 100 for name in TRAINING]
    names = [
        f"supervised,\n{LABELS} labels",
        f"RealMix, {LABELS} labels\n+ {result['unlabeled']:,} unlabelled",
    ]
    bars = axis.barh(names, values, color=["#9aa5b1", "#2f6f9f"], height=0.55)
    axis.bar_label(bars, [f" {value:.1f} %" for value in values], fontsize=10)
    axis.set(xlim=(0, 125), xticks=[0, 50, 100])
    axis.set_title("correct of 500 test images", fontsize=10)
    axis.invert_yaxis()
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    with atomic_write(target) as file:
        file.write(buffer.getvalue())


def table(result: dict[str, Any]) -> str:
    """The numbers for people."""
    baseline, realmix = (result["test"][name] for name in TRAINING)
    seconds = result["training_seconds"]
    counts = result["pictures"]
    lines = [
        "",
        f"{LABELS} labels, 2 a class           test accuracy   training",
        f"  supervised baseline       {baseline:>12.1%}   {seconds['baseline']:>6.0f} s",
        f"  RealMix, {result['unlabeled']:,} unlabelled {realmix:>12.1%}   "
        f"{seconds['realmix']:>6.0f} s",
        f"  difference                {(realmix - baseline) * 100:>+10.1f} points",
        "",
        f"folder of pictures: {counts['classified']} of {counts['inputs']} classified, "
        f"{counts['accuracy']:.1%} of them correctly",
        *(f"  not read: {row['path']}: {row['reason']}" for row in result["unreadable"]),
        "",
        *(f"{key:<12} {result[key]}" for key in ("report", "plots", "predictions", "picture")),
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)


if __name__ == "__main__":
    sys.exit(main())
