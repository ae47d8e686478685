"""What is known of a run, a checkpoint, an exported model or predictions, without loading them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from realmix_tf.errors import CheckpointError, DataError, RealmixError
from realmix_tf.evaluation import model_file
from realmix_tf.evaluation.model_file import ModelDescription
from realmix_tf.evaluation.run_reader import dig
from realmix_tf.evaluation.variables import checkpoint_prefix
from realmix_tf.files import read_json
from realmix_tf.training import checkpoint
from realmix_tf.training.logs import read_lines
from realmix_tf.training.run_folder import RunFolder

_LARGEST_JSON = 512 << 20
_PREDICTIONS = "predictions.json"
# Settings of a run by their place in args.json; what else is there follows from them.
_COMPARED = ("method", "dataset", "settings", "config", "network", "load_checkpoint")
_OPTIONS = ("allow_overlap", "use_pseudo_labels")


def model_facts(path: Path) -> dict[str, Any] | None:
    """Facts about a run, a checkpoint, a model or predictions; None if it is none of these.

    Raises:
      CheckpointError, DataError: it is one but damaged.
    """
    prefix = checkpoint_prefix(path)
    if prefix is not None and not path.is_dir():
        return _of_checkpoint(prefix)
    if path.name == _PREDICTIONS and path.is_file():
        return _of_predictions(path)
    if path.name == "model.json" and path.is_file():
        return _of_model(path.parent)
    if not path.is_dir():
        return None
    if RunFolder(path).args.is_file():
        return run_facts(path)
    if model_file.is_model_folder(path):
        return _of_model(path)
    if (path / _PREDICTIONS).is_file():
        return _of_predictions(path / _PREDICTIONS)
    return None


def run_facts(path: Path) -> dict[str, Any]:
    """Facts about a run folder.

    Raises:
      DataError: its settings are missing or damaged.
    """
    folder = RunFolder(path)
    args = _mapping(folder.args)
    env = _mapping(folder.env) if folder.env.is_file() else {}
    points = read_lines(folder.metrics).lines if folder.metrics.is_file() else []
    last = points[-1] if points else {}
    accuracy = {}
    for weights in ("ema", "raw"):
        sets = last.get(weights)
        for name, value in (sets if isinstance(sets, dict) else {}).items():
            accuracy[f"{name} ({weights})"] = dig(value, "accuracy")
    return {
        "kind": "run",
        "path": str(path),
        "finished": folder.evaluation.is_file() and folder.model.is_dir(),
        **{key: args.get(key) for key in ("method", "dataset", "counts")},
        "images_seen": last.get("images", 0),
        "accuracy_at_last_report": accuracy,
        "settings": _settings(args),
        "notes": args.get("notes", []),
        "checkpoints": [_state(prefix) for prefix in checkpoint.committed(folder.checkpoints)],
        "data": env.get("data", {}),
        "device": env.get("device", ""),
        "versions": env.get("versions", {}),
        "command": " ".join(map(str, env.get("command", []))),
    }


def diff_runs(first: Path, second: Path) -> dict[str, Any]:
    """What differs between two runs: settings, data, versions.

    Returns:
      key → [value of the first, value of the second]; None where one has no such key.

    Raises:
      DataError: one of them has no readable settings.
    """
    found = []
    for path in (first, second):
        folder = RunFolder(path)
        args = _mapping(folder.args)
        env = _mapping(folder.env) if folder.env.is_file() else {}
        values = _settings(args)
        for role, source in env.get("data", {}).items():
            values[f"SHA-256 of the {role} file"] = dig(source, "sha256")
        for name, version in env.get("versions", {}).items():
            values[f"version of {name}"] = version
        values["device"] = env.get("device")
        found.append(values)
    a, b = found
    return {key: [a.get(key), b.get(key)] for key in sorted({*a, *b}) if a.get(key) != b.get(key)}


def _settings(args: dict[str, Any]) -> dict[str, Any]:
    """All settings as one mapping."""
    settings: dict[str, Any] = {}
    for key in _COMPARED:
        value = args.get(key)
        settings |= value if isinstance(value, dict) else {key: value}
    # Runs of earlier versions do not name them; they were off.
    return settings | {key: args.get(key, False) for key in _OPTIONS}


def _state(prefix: Path) -> str:
    """The checkpoint's name, and what is wrong with it."""
    try:
        checkpoint.check(prefix)
    except CheckpointError as error:
        return f"{prefix.name} DAMAGED: {error.what}"
    return prefix.name


def _of_checkpoint(prefix: Path) -> dict[str, Any]:
    if not prefix.with_name(f"{prefix.name}.json").is_file():
        present = [path.name for path in checkpoint.committed(prefix.parent)]
        remedy = f"one of {', '.join(present[-3:])}" if present else "the folder of a run"
        raise CheckpointError("there is no such complete checkpoint", prefix, remedy)
    found = checkpoint.check(prefix)
    files = sorted(prefix.parent.glob(f"{prefix.name}.*"))
    host = {key: value for key, value in found.host.items() if not isinstance(value, (dict, list))}
    args = RunFolder(prefix.absolute().parent.parent).args
    described = _mapping(args) if args.is_file() else {}
    return {
        "kind": "checkpoint",
        "path": str(prefix),
        "hashes": "all files are what the checkpoint's mark says",
        "images_seen": found.images,
        "bytes": sum(path.stat().st_size for path in files),
        "files": {path.name: path.stat().st_size for path in files},
        "host": host,
        "run": {key: described.get(key) for key in ("method", "dataset")},
    }


def _of_model(folder: Path) -> dict[str, Any]:
    contents = model_file.read_model_json(folder / "model.json")
    description = ModelDescription.from_json(contents, folder / "model.json")
    digest = contents.get("weights_sha256")
    arrays = model_file.read_weights(
        folder / "weights.npz", digest if isinstance(digest, str) else ""
    )
    return {
        "kind": "model",
        "path": str(folder),
        "hashes": "the weights are those that model.json describes",
        "classes": list(description.classes),
        "network": description.spec.to_json(),
        "preprocessing": description.preprocessing,
        "provenance": description.provenance,
        "weights_sha256": digest,
        "variables": len(arrays),
        "numbers": sum(int(array.size) for array in arrays.values()),
    }


def _of_predictions(path: Path) -> dict[str, Any]:
    value = _mapping(path)
    rows = value.get("predictions")
    if not isinstance(rows, list):
        raise DataError("these are no predictions of ours", path)
    predicted: dict[str, int] = {}
    for row in rows:
        name = dig(row, "class_name")
        if isinstance(name, str):
            predicted[name] = predicted.get(name, 0) + 1
    try:
        inputs = _mapping(path.with_name("inputs.json")).get("inputs", [])
    except RealmixError:
        inputs = []
    return {
        "kind": "predictions",
        "path": str(path),
        "inputs": inputs,
        "counts": value.get("counts", {}),
        "predicted": dict(sorted(predicted.items())),
        "classes": value.get("classes", []),
        "accuracy": dig(value.get("accuracy"), "accuracy"),
    }


def _mapping(path: Path) -> dict[str, Any]:
    if path.is_file() and path.stat().st_size > _LARGEST_JSON:
        raise DataError("this JSON file is too large", path)
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError("this is not a JSON object", path)
    return value
