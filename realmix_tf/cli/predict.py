"""realmix-predict: classify pictures with a trained model."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags as absl_flags

from realmix_tf.cli import app
from realmix_tf.errors import DataError, UsageError
from realmix_tf.files import require_writable

if TYPE_CHECKING:
    from data_tools.plan import Plan
    from realmix_tf.evaluation.classifier import Classifier
    from realmix_tf.evaluation.inference import Item

NAME = "realmix-predict"
SUMMARY = (
    "classify a picture, a folder of pictures or a list of them with a trained model.\n"
    "Writes predictions.csv, predictions.json and <name>_pred.npy into <run>/predictions/<name of "
    "the\ninput> and prints a summary. Where the folder has a subfolder for each class, the "
    "accuracy is\nmeasured too."
)
USAGE = (
    "[PICTURE_OR_FOLDER...]\n\n"
    f"example: {NAME} --inference_dir=photos --inference_ckpt=experiments/pets/RealMix_seed1"
)
_CHECKPOINT = re.compile(r"model\.ckpt-\d+")
_PROGRESS_SECONDS = 10.0
_SAMPLE = 64  # pictures classified to see how long it takes


def run_inference(
    inference_dir: str,
    inference_ckpt: str,
    out_dir: str = "",
    top_k: int = 5,
    batch: int = 256,
    inference_list: str = "",
    more_inputs: Sequence[str] = (),
    weights: str = "ema",
) -> dict[str, Any]:
    """Classifies pictures, writes the predictions and returns them.

    Args:
      inference_dir: a folder or a picture; may be empty if there are other inputs.
      inference_ckpt: a run folder, a model folder or a checkpoint ``…/tf/model.ckpt-<images>``.
      out_dir: where to write; ``default_out_dir`` when empty. Predictions in it are replaced.
      top_k: classes to list a picture.
      batch: pictures a pass.
      inference_list: a text file with one path a line; may be empty.
      more_inputs: further files and folders.
      weights: which weights of a checkpoint, ``ema`` or ``raw``.

    Returns:
      What ``predictions_json`` returns, with ``out_dir``, ``files`` (the paths written) and
      ``model`` added.

    Raises:
      UsageError: nothing to classify was named, or the output would lie in the input.
      DataError: an input does not exist, or not one picture could be read.
      CheckpointError: the model cannot be used.
      ResourceError: the output cannot be written.
    """
    from realmix_tf.evaluation import inference, predictions

    job = _job(inference_dir, inference_ckpt, out_dir, top_k, batch, inference_list, more_inputs)
    classifier = job.classifier(inference_ckpt, weights, batch)
    app.note(f"classifying {len(job.items)} pictures into {len(classifier.classes)} classes")
    result = inference.classify(job.items, classifier, top_k, _progress())
    name = Path(os.path.abspath(job.named[0])).stem
    files = predictions.write_predictions(result, job.target, name, job.named)
    for note in result.notes:
        app.note(note)
    unreadable = result.unreadable
    if len(unreadable) == len(result.rows):
        raise DataError(
            f"none of {len(result.rows)} pictures could be read: {unreadable[0].reason}",
            unreadable[0].path,
            f"see the reasons in {files['csv']}",
        )
    model = {**classifier.provenance, "path": inference_ckpt}
    return {
        **predictions.predictions_json(result),
        "out_dir": job.target,
        "files": files,
        "model": model,
    }


def plan_inference(
    inference_dir: str,
    inference_ckpt: str,
    out_dir: str = "",
    top_k: int = 5,
    batch: int = 256,
    inference_list: str = "",
    more_inputs: Sequence[str] = (),
    weights: str = "ema",
) -> Plan:
    """What ``run_inference`` would do; the time comes from classifying some of the pictures.

    Args and raises: as ``run_inference``.
    """
    from data_tools.plan import FileUse, Plan, estimate_seconds, resident_bytes
    from realmix_tf.evaluation import inference

    job = _job(inference_dir, inference_ckpt, out_dir, top_k, batch, inference_list, more_inputs)
    classifier = job.classifier(inference_ckpt, weights, batch)
    some = job.items[:: max(len(job.items) // _SAMPLE, 1)][:_SAMPLE]
    inference.classify(some[:1], classifier, top_k)  # the first call compiles
    seconds = estimate_seconds(
        len(job.items), lambda: len(inference.classify(some, classifier, top_k).rows)
    )
    # A row has its path, the names of its classes and their probabilities, in two of the files.
    names = sum(map(len, classifier.classes)) / len(classifier.classes)
    row = 2 * (len(job.items[0].path) + top_k * (names + 40) + 100) + 4 * len(classifier.classes)
    return Plan(
        reads=tuple(FileUse(path, _bytes_below(path, job.items)) for path in job.named),
        writes=(FileUse(str(job.target), int(row * len(job.items))),),
        memory=resident_bytes(),
        seconds=seconds,
        facts={"pictures": len(job.items), "classes": len(classifier.classes)},
    )


def _bytes_below(path: str, items: Sequence[Item]) -> int:
    folder = os.path.join(path, "")
    return sum(
        os.path.getsize(item.path)
        for item in items
        if (item.path == path or item.path.startswith(folder)) and os.path.isfile(item.path)
    )


class _Job(NamedTuple):
    items: list[Item]
    named: list[str]
    target: str

    def classifier(self, inference_ckpt: str, weights: str, batch: int) -> Classifier:
        app.load_tensorflow()
        from realmix_tf.evaluation.classifier import Classifier

        return Classifier.load(inference_ckpt, weights, batch)


def _job(
    inference_dir: str,
    inference_ckpt: str,
    out_dir: str,
    top_k: int,
    batch: int,
    inference_list: str,
    more_inputs: Sequence[str],
) -> _Job:
    """What to classify and where the predictions go, all of it checked."""
    from realmix_tf.evaluation import inference, model_file, predictions

    inputs = [path for path in (inference_dir, *more_inputs) if path]
    if not inputs and not inference_list:
        raise UsageError("nothing to classify was named", "", "--inference_dir=FOLDER")
    if not inference_ckpt:
        raise UsageError("no model was named", "", "--inference_ckpt=experiments/…/<run>")
    if top_k < 1 or batch < 1:
        raise UsageError("--top_k and --batch must be at least 1", f"{top_k}, {batch}")
    for path in inputs:
        if model_file.is_run_or_model_folder(path):
            raise UsageError(
                "a training run or model was given as pictures",
                path,
                "name one run to classify with",
            )
    named = [*inputs, inference_list] if inference_list else inputs
    target = out_dir or str(default_out_dir(inference_ckpt, named))
    predictions.require_outside(target, inputs)
    require_writable(target)
    items = inference.gather(inputs)
    if inference_list:
        items += inference.read_list(inference_list)
    return _Job(items, named, target)


def default_out_dir(inference_ckpt: str, inputs: Sequence[str]) -> Path:
    """``<run>/predictions/<name of the first input>``, with a number where others' are there.

    Args:
      inference_ckpt: a run folder, its ``model`` folder or one of its checkpoints.
      inputs: what is classified; the same again has the same folder.
    """
    from realmix_tf.evaluation import predictions

    path = Path(os.path.abspath(inference_ckpt))
    if _CHECKPOINT.match(path.name):
        path = path.parent.parent
    elif path.name == "model" and (path.parent / "args").is_dir():
        path = path.parent
    return predictions.folder_for(path / "predictions", inputs)


def summary_text(result: dict[str, Any]) -> str:
    """What the command prints: counts by class, the accuracy if known, the paths."""
    counts = result["counts"]
    lines = [f"classified {counts['classified']} of {counts['inputs']} pictures"]
    found: dict[str, int] = {}
    for row in result["predictions"]:
        if row["status"] == "ok":
            found[row["class_name"]] = found.get(row["class_name"], 0) + 1
    width = max((len(name) for name in found), default=0)
    order = sorted(found, key=lambda name: (-found[name], name))
    lines += [f"  {app.printable(name):<{width}}  {found[name]}" for name in order[:20]]
    if len(order) > 20:
        lines.append(f"  … and {len(order) - 20} more classes")
    measured = result["accuracy"]
    if measured is not None:
        lines.append(
            f"accuracy {measured['accuracy']:.2%} on {measured['count']} pictures in class folders "
            f"(macro F1 {measured['macro_f1']:.3f}, calibration error {measured['ece']:.3f})"
        )
    lines += [f"{kind:<4}  {path}" for kind, path in result["files"].items()]
    return "\n".join(lines)


def define(values: absl_flags.FlagValues) -> None:
    """Adds the command's flags."""
    app.define_dry_run(values)
    string, integer = absl_flags.DEFINE_string, absl_flags.DEFINE_integer
    string("inference_dir", "", "Folder of pictures, or one picture.", flag_values=values)
    string(
        "inference_list",
        "",
        "Text file with one path a line; relative paths start at the file's folder.",
        flag_values=values,
    )
    string(
        "inference_ckpt",
        "",
        "The model: a run folder, an exported model's folder, or …/tf/model.ckpt-<images>.",
        flag_values=values,
    )
    string(
        "out_dir",
        "",
        "Where to write, replacing predictions there; by default <run>/predictions/<name of the "
        "input>, which never replaces those of another input.",
        flag_values=values,
    )
    integer("top_k", 5, "Classes to list for each picture.", lower_bound=1, flag_values=values)
    integer("batch", 256, "Pictures in one pass.", lower_bound=1, flag_values=values)
    absl_flags.DEFINE_enum(
        "weights",
        "ema",
        ["ema", "raw"],
        "Which weights of a checkpoint: their moving average or the latest (raw); an exported "
        "model holds only the average.",
        flag_values=values,
    )


def run(values: absl_flags.FlagValues, arguments: list[str]) -> dict[str, Any] | str:
    """Runs the command."""
    options = {
        "inference_dir": values.inference_dir,
        "inference_ckpt": values.inference_ckpt,
        "out_dir": values.out_dir,
        "top_k": values.top_k,
        "batch": values.batch,
        "inference_list": values.inference_list,
        "more_inputs": arguments,
        "weights": values.weights,
    }
    if values.dry_run:
        return app.plan_result(values, plan_inference(**options))
    result = run_inference(**options)
    return result if values["json"].value else summary_text(result)


def main(argv: Sequence[str] | None = None) -> int:
    """The command's entry point; returns the exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)


def _progress() -> Callable[[int, int], None]:
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if done < total and time.monotonic() - last >= _PROGRESS_SECONDS:
            last = time.monotonic()
            app.note(f"{done} of {total} pictures")

    return report


if __name__ == "__main__":
    sys.exit(main())
