"""The statistics the literature reports, from a run's metrics.jsonl. No TensorFlow."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from realmix_tf.errors import DataError
from realmix_tf.files import write_json
from realmix_tf.training.logs import read_lines

SCHEMA = 1
WINDOWS = (1, 10, 20, 50)


def summarize_accuracy(run_dir: str | Path) -> dict[str, Any]:
    """Writes ``accuracy_summary`` to the run's ``stats/accuracy.json`` and returns it.

    Raises:
      DataError: as ``accuracy_summary``.
      ResourceError: the result cannot be written.
    """
    result = accuracy_summary(run_dir)
    write_json(Path(run_dir) / "stats" / "accuracy.json", result)
    return result


def accuracy_summary(run_dir: str | Path) -> dict[str, Any]:
    """Summarises a run's test accuracy.

    All accuracies are fractions in [0, 1], of the EMA weights. Test accuracy chooses nothing:
    the medians are over the last evaluations whatever they are, and the best point is the one
    with the highest *validation* accuracy (the earliest such). Without a validation set no point
    is chosen.

    Args:
      run_dir: a run folder with ``metrics.jsonl``.

    Returns:
      ``last01``, ``last10``, ``last20``, ``last50`` (medians; None without a test set),
      ``evaluations`` (how many there are), ``evaluations_used`` (how many each median had),
      ``best_by_validation`` (``images``, ``valid_accuracy``, ``test_accuracy``, ``chosen_by``, or
      None), ``chosen_by`` (``valid`` or None) with ``note`` in words, ``unit``, ``weights``,
      ``repeated_lines`` and ``incomplete_lines``.

    Raises:
      DataError: the file is missing or damaged (the line is named), or holds no evaluation.
    """
    log = Path(run_dir) / "metrics.jsonl"
    read = read_lines(log)
    points = [line for line in read.lines if "ema" in line]
    for line in points:
        _check_sets(line, log)
    if not points:
        raise DataError("there is no evaluation yet", log, "wait for the run's first report")
    test = [_accuracy(line, "test") for line in points]
    known = [value for value in test if value is not None]
    best = _best(points)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "unit": "fraction of images, 0 to 1",
        "weights": "ema",
        "evaluations": len(known),
        "evaluations_used": {_key(n): min(n, len(known)) for n in WINDOWS},
        "best_by_validation": best,
        "chosen_by": None if best is None else "valid",
        "note": _NO_CHOICE if best is None else _CHOICE,
        "repeated_lines": read.repeated,
        "incomplete_lines": read.incomplete,
    }
    for n in WINDOWS:
        result[_key(n)] = statistics.median(known[-n:]) if known else None
    return result


_REMEDY = "restore the file from a copy, or run the training again"
_CHOICE = "the point was chosen by validation accuracy; test accuracy chose nothing"
_NO_CHOICE = "there is no validation set, so no point was chosen; test accuracy chooses nothing"


def _key(window: int) -> str:
    return f"last{window:02d}"


def _check_sets(line: dict[str, Any], log: Path) -> None:
    where = f"{log}, the line with images {line['images']}"
    if not isinstance(line["ema"], dict):
        raise DataError("'ema' is not a mapping of sets", where, _REMEDY)
    for name in ("valid", "test"):
        metrics = line["ema"].get(name)
        if metrics is None:
            continue
        value = metrics.get("accuracy") if isinstance(metrics, dict) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise DataError(f"the {name} accuracy is {value!r}, not in [0, 1]", where, _REMEDY)


def _accuracy(line: dict[str, Any], name: str) -> float | None:
    metrics = line["ema"].get(name)
    return None if metrics is None else float(metrics["accuracy"])


def _best(points: list[dict[str, Any]]) -> dict[str, Any] | None:
    best: dict[str, Any] | None = None
    for line in points:
        valid = _accuracy(line, "valid")
        if valid is not None and (best is None or valid > best["valid_accuracy"]):
            best = {
                "images": line["images"],
                "valid_accuracy": valid,
                "test_accuracy": _accuracy(line, "test"),
                "chosen_by": "valid",
            }
    return best
