"""Predictions as files: CSV for people, JSON for programs, a plain array as the old tools made."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from realmix_tf.cells import cell, utf8
from realmix_tf.errors import RealmixError, UsageError
from realmix_tf.evaluation.inference import Result, Row
from realmix_tf.files import atomic_write, read_json, remove, write_json, write_text

SCHEMA = 1
_TABLE, _DOCUMENT, _INPUTS = "predictions.csv", "predictions.json", "inputs.json"


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
        "unknown_folders": [utf8(name) for name in result.unknown_folders],
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
    header = ["path", "status", "class_name", "class_id", "probability", "true_class"]
    header += ["reason", "note"]
    for rank in range(1, k + 1):
        header += [f"top{rank}_class", f"top{rank}_probability"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in result.rows:
        cells: list[object] = [row.path, row.status, row.class_name, row.class_id]
        cells += [row.probability, row.true_class, row.reason, row.note]
        for name, probability in row.top_k:
            cells += [name, probability]
        cells += [None] * (len(header) - len(cells))
        writer.writerow([_cell(value) for value in cells])
    return text.getvalue()


def folder_for(root: str | Path, inputs: Sequence[str]) -> Path:
    """The folder below ``root`` for the predictions of ``inputs``, named as the first of them.

    It is new, or has predictions of the same inputs: where a folder of that name has others', a
    number is added. Nothing is written.

    Args:
      root: usually a run's ``predictions`` folder; need not exist.
      inputs: the files and folders that are classified together, at least one.
    """
    name = safe_name(os.path.basename(os.path.abspath(inputs[0])))
    if len(inputs) > 1:
        name += f"_and_{len(inputs) - 1}_more"
    wanted = _real(inputs)
    for number in itertools.count(1):
        folder = Path(root, name if number == 1 else f"{name}-{number}")
        others = any(os.path.lexists(folder / file) for file in (_TABLE, _DOCUMENT, _INPUTS))
        # A file of that name, or a link that leads nowhere, is in the way too.
        others |= os.path.lexists(folder) and not folder.is_dir()
        if not others or _inputs_of(folder) == wanted:
            return folder
    raise AssertionError("unreachable")


def write_predictions(
    result: Result, out_dir: str | Path, name: str = "images", inputs: Sequence[str] = ()
) -> dict[str, str]:
    """Writes predictions.csv, predictions.json and ``<name>_pred.npy``, each atomically.

    The array is float32 [N, C], the probabilities of the N readable inputs in the order of the
    JSON's rows with status ``ok``. Before them inputs.json says what they are made from. The JSON
    is the last, so where there is one the others belong to it.

    Args:
      result: what to write.
      out_dir: is made where missing; files of these names in it are replaced.
      name: of the array.
      inputs: the files and folders that were classified.

    Returns:
      The paths written: ``csv``, ``npy``, ``json``.

    Raises:
      ResourceError: the folder cannot be written.
    """
    out_dir = Path(out_dir)
    array = out_dir / f"{safe_name(name)}_pred.npy"
    table, document = out_dir / _TABLE, out_dir / _DOCUMENT
    remove(document)
    write_json(out_dir / _INPUTS, {"schema": SCHEMA, "inputs": _real(inputs)})
    write_text(table, predictions_csv(result))
    with atomic_write(array) as file:
        np.lib.format.write_array(file, result.probabilities, allow_pickle=False)
    write_json(document, {**predictions_json(result), "array": array.name})
    return {"csv": str(table), "npy": str(array), "json": str(document)}


def safe_name(name: str) -> str:
    """``name`` as the name of a file: letters, digits, ``-_.``, at most 100 bytes, never empty."""
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in utf8(name)).strip(".")
    return plain.encode()[:100].decode("utf-8", "ignore") or "images"


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


def _inputs_of(out_dir: str | Path) -> list[str] | None:
    """What the predictions in a folder were made from: resolved paths; None if nothing says."""
    try:
        contents = read_json(Path(out_dir, _INPUTS))
    except RealmixError:
        return None
    inputs = contents.get("inputs") if isinstance(contents, dict) else None
    return inputs if isinstance(inputs, list) and inputs else None


def _row_json(row: Row) -> dict[str, Any]:
    value = asdict(row)
    value["top_k"] = [{"class_name": n, "probability": p} for n, p in row.top_k]
    value["path"], value["reason"] = utf8(row.path), utf8(row.reason)
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
    return cell(str(value))


def _real(paths: Sequence[str]) -> list[str]:
    return [utf8(os.path.realpath(path)) for path in paths]
