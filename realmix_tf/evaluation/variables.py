"""The variables of a checkpoint, a run or an exported model, with their statistics."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from realmix_tf.errors import CheckpointError, printable
from realmix_tf.evaluation import model_file
from realmix_tf.files import human_bytes
from realmix_tf.training import checkpoint

_PREFIX = re.compile(r"(?P<prefix>.*model\.ckpt-\d{8,})(\.index|\.json|\.data-.*)?\Z", re.DOTALL)


@dataclass(frozen=True)
class Variable:
    """One variable; the statistics are of its finite values, None where there is none.

    Attributes:
      size: how many numbers; bytes: what they take.
      not_finite: how many of them are no finite numbers.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    size: int
    bytes: int
    mean: float | None
    std: float | None
    lowest: float | None
    highest: float | None
    not_finite: int


@dataclass(frozen=True)
class Variables:
    """All variables of a file, by name; ``kind`` is checkpoint or model."""

    kind: str
    file: str
    variables: tuple[Variable, ...]

    def totals(self) -> dict[str, dict[str, int]]:
        """Variables, numbers and bytes by group (the first part of a name), and together."""
        totals: dict[str, dict[str, int]] = {}
        for variable in self.variables:
            for group in (variable.name.partition("/")[0], "all"):
                total = totals.setdefault(group, {"variables": 0, "numbers": 0, "bytes": 0})
                total["variables"] += 1
                total["numbers"] += variable.size
                total["bytes"] += variable.bytes
        return dict(sorted(totals.items(), key=lambda item: item[0] == "all"))

    def as_json(self) -> dict[str, Any]:
        """The variables as JSON-able data."""
        return {
            "kind": self.kind,
            "file": self.file,
            "variables": [asdict(variable) for variable in self.variables],
            "totals": self.totals(),
        }


def checkpoint_prefix(path: str | Path) -> Path | None:
    """The prefix of the checkpoint that a path names, by it or by one of its files."""
    match = _PREFIX.match(str(path))
    return None if match is None else Path(match["prefix"])


def files_of(path: str | Path) -> tuple[str, Path, list[Path]]:
    """What ``read_variables`` would read.

    A run folder stands for its newest checkpoint that has a commit mark, else for its model.

    Returns:
      ``checkpoint`` or ``model``; its prefix or folder; the files with its numbers.

    Raises:
      CheckpointError: there is no such thing.
    """
    path = Path(path)
    prefix = checkpoint_prefix(path)
    if path.is_dir():
        committed = checkpoint.committed(path / "tf") or checkpoint.committed(path)
        prefix = committed[-1] if committed else None
        for folder in (path, path / "model"):
            if prefix is None and model_file.is_model_folder(folder):
                return "model", folder, [folder / "weights.npz"]
    if prefix is None or not prefix.with_name(f"{prefix.name}.json").is_file():
        raise CheckpointError(
            "there is no complete checkpoint or exported model",
            path,
            "a run folder, a model folder, or …/tf/model.ckpt-<images>",
        )
    return "checkpoint", prefix, sorted(prefix.parent.glob(f"{prefix.name}.*"))


def read_variables(path: str | Path) -> Variables:
    """Reads all variables after their file's hashes were checked.

    Args:
      path: a checkpoint's prefix or one of its files, a run folder or a model folder.

    Raises:
      CheckpointError: nothing is there, or it is damaged.
    """
    kind, place, _ = files_of(path)
    if kind == "model":
        contents = model_file.read_model_json(place / "model.json")
        digest = contents.get("weights_sha256") if isinstance(contents, dict) else None
        if not isinstance(digest, str):
            raise CheckpointError("weights_sha256 is missing", place / "model.json")
        arrays: Mapping[str, npt.NDArray[Any]] = model_file.read_weights(
            place / "weights.npz", digest
        )
    else:
        model_file.read_model_json(place.with_name(f"{place.name}.json"))
        arrays = checkpoint.read(checkpoint.check(place))
    return Variables(kind, str(place), tuple(_variable(n, arrays[n]) for n in sorted(arrays)))


def _variable(name: str, value: npt.NDArray[Any]) -> Variable:
    value = np.asarray(value)
    numbers = value.ravel().astype(np.float64) if value.dtype.kind in "fiub" else np.zeros(0)
    finite = numbers[np.isfinite(numbers)]
    some = bool(len(finite))
    return Variable(
        name=name,
        shape=tuple(value.shape),
        dtype=str(value.dtype),
        size=int(value.size),
        bytes=int(value.nbytes),
        mean=float(finite.mean()) if some else None,
        std=float(finite.std()) if some else None,
        lowest=float(finite.min()) if some else None,
        highest=float(finite.max()) if some else None,
        not_finite=len(numbers) - len(finite),
    )


def describe(found: Variables) -> str:
    """The variables as a table for people."""
    head = ("variable", "shape", "type", "numbers", "mean", "std", "min", "max")
    rows = [head, *(_row(variable) for variable in found.variables)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
    lines = [printable(f"{found.kind} {found.file}")]
    for row in rows:
        cells = [
            f"{text:<{width}}" if k < 3 else f"{text:>{width}}"
            for k, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    for group, total in found.totals().items():
        lines.append(
            f"{printable(group)}: {total['variables']} variables, {total['numbers']} numbers, "
            f"{human_bytes(total['bytes'])}"
        )
    bad = [printable(variable.name) for variable in found.variables if variable.not_finite]
    if bad:
        lines.append(f"NOT FINITE: {', '.join(bad)}")
    return "\n".join(lines)


def _row(variable: Variable) -> tuple[str, ...]:
    numbers = (variable.mean, variable.std, variable.lowest, variable.highest)
    return (
        printable(variable.name),
        "×".join(map(str, variable.shape)) or "scalar",
        variable.dtype,
        str(variable.size),
        *("-" if number is None else f"{number:.4g}" for number in numbers),
    )
