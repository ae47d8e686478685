"""Predictions as files: CSV for people, JSON for programs, a plain array as the old tools made."""

from __future__ import annotations

import base64
import csv
import io
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from realmix_tf.errors import UsageError, printable
from realmix_tf.evaluation.inference import Result, Row
from realmix_tf.files import atomic_write, write_json, write_text

SCHEMA = 1
# What spreadsheet programs take for the start of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def predictions_json(result: Result) -> dict[str, Any]:
    """The result as JSON-able data.

    Returns:
      ``schema``, ``classes``, ``predictions`` (one mapping an input: the fields of ``Row``, with
      ``top_k`` a list of {"class_name", "probability"}; where a path is not UTF-8 its odd bytes
      are escaped and ``path_base64`` has the true ones), ``accuracy`` (None, or the metrics of
      the pictures in class folders), ``unknown_folders``, ``missing_classes``, ``counts``.
    """
    unreadable = len(result.unreadable)
    return {
        "schema": SCHEMA,
        "classes": list(result.classes),
        "predictions": [_row_json(row) for row in result.rows],
        "accuracy": result.evaluation,
        "unknown_folders": [_utf8(name) for name in result.unknown_folders],
        "missing_classes": list(result.missing_classes),
        "counts": {
            "inputs": len(result.rows),
            "classified": len(result.rows) - unreadable,
            "unreadable": unreadable,
        },
    }


def predictions_csv(result: Result) -> str:
    """The result as CSV text: a header and one line an input.

    Cells that a spreadsheet would run as a formula begin with an apostrophe; control characters
    and bytes that are not UTF-8 are escaped, so a line of text is a row.
    """
    k = max((len(row.top_k) for row in result.rows), default=0)
    header = ["path", "status", "class_name", "class_id", "probability", "true_class", "reason"]
    for rank in range(1, k + 1):
        header += [f"top{rank}_class", f"top{rank}_probability"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in result.rows:
        cells: list[object] = [row.path, row.status, row.class_name, row.class_id]
        cells += [row.probability, row.true_class, row.reason]
        for name, probability in row.top_k:
            cells += [name, probability]
        cells += [None] * (len(header) - len(cells))
        writer.writerow([_cell(value) for value in cells])
    return text.getvalue()


def write_predictions(result: Result, out_dir: str | Path, name: str = "images") -> dict[str, str]:
    """Writes predictions.csv, predictions.json and ``<name>_pred.npy``, each atomically.

    The array is float32 [N, C], the probabilities of the N readable inputs in the order of the
    JSON's rows with status ``ok``.

    Returns:
      The paths written: ``csv``, ``npy``, ``json``.

    Raises:
      ResourceError: the folder cannot be written.
    """
    out_dir = Path(out_dir)
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in _utf8(name)).strip(".")
    array = out_dir / f"{plain[:100] or 'images'}_pred.npy"
    table, document = out_dir / "predictions.csv", out_dir / "predictions.json"
    write_text(table, predictions_csv(result))
    with atomic_write(array) as file:
        np.lib.format.write_array(file, result.probabilities, allow_pickle=False)
    write_json(document, {**predictions_json(result), "array": array.name})
    return {"csv": str(table), "npy": str(array), "json": str(document)}


def require_outside(out_dir: str | Path, inputs: list[str]) -> None:
    """Refuses an output folder that lies in an input folder.

    Raises:
      UsageError: it does; what is written would become data the next time.
    """
    out = os.path.realpath(out_dir)
    for path in inputs:
        root = os.path.realpath(path)
        if os.path.isdir(root) and os.path.commonpath([out, root]) == root:
            raise UsageError(
                f"the output folder lies inside the input folder {path}",
                out_dir,
                "--out_dir=FOLDER, somewhere else",
            )


def _row_json(row: Row) -> dict[str, Any]:
    value = asdict(row)
    value["top_k"] = [{"class_name": n, "probability": p} for n, p in row.top_k]
    value["path"], value["reason"] = _utf8(row.path), _utf8(row.reason)
    if value["path"] != row.path:
        value["path_base64"] = base64.b64encode(os.fsencode(row.path)).decode()
    return value


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    escaped = printable(_utf8(text))
    return f"'{escaped}" if text.startswith(_FORMULA) else escaped


def _utf8(text: str) -> str:
    return os.fsencode(text).decode("utf-8", "backslashreplace")
