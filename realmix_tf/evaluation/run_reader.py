"""What a report needs from a run folder, read tolerantly: a missing piece becomes a note."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from realmix_tf.errors import DataError, RealmixError
from realmix_tf.evaluation.accuracy import accuracy_summary
from realmix_tf.files import read_json
from realmix_tf.training.logs import read_lines

SETS = ("labeled", "valid", "test")
_MAX_VIEW_BYTES = 1 << 30


@dataclass(frozen=True)
class View:
    """Images of a run: as it augmented, mixed or ranked them.

    Attributes:
      images: uint8 [N, H, W, C], C 1 or 3.
      numbers: further arrays of the file, each [N]: ``labels``, ``probability``, ``predicted``.
      counts: its single whole numbers: ``ranked`` (images that were ranked), ``of`` (how many).
    """

    images: npt.NDArray[np.uint8]
    numbers: dict[str, npt.NDArray[Any]]
    counts: dict[str, int] = field(default_factory=dict)


@dataclass
class Run:
    """A run folder's content.

    Attributes:
      folder: the run folder.
      args: args/args.json; env: env.json; both empty when missing.
      points: the lines of metrics.jsonl, in order of images; timing: those of timing.jsonl.
      evaluation: stats/evaluation.json, or the last point in its shape (without confusion and
        reliability) when that is missing.
      accuracy: ``accuracy_summary``; None when there is nothing to summarise.
      views: name → view.
      notes: what is missing or unreadable, one line each.
    """

    folder: Path
    args: dict[str, Any] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)
    points: list[dict[str, Any]] = field(default_factory=list)
    timing: list[dict[str, Any]] = field(default_factory=list)
    evaluation: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, Any] | None = None
    views: dict[str, View] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def method(self) -> str:
        """The method's name; the folder's where the settings do not say."""
        found = self.args.get("method")
        return found if isinstance(found, str) else self.folder.name

    @property
    def title(self) -> str:
        """The method as people write it: the folder's first word where it is the same name."""
        word = self.folder.absolute().name.partition("_")[0]
        return word if word.lower() == self.method.replace("_", "").lower() else self.method

    @property
    def dataset(self) -> str:
        """The dataset's name; empty where nothing says."""
        for value in (self.args.get("dataset"), dig(self.args, "model", "provenance", "dataset")):
            if isinstance(value, str):
                return value
        return ""

    @property
    def classes(self) -> list[str]:
        """The class names; numbers where the settings do not name them."""
        named = dig(self.args, "model", "classes")
        if isinstance(named, list):
            return [str(name) for name in named]
        for name in SETS:
            per_class = self.metrics(name).get("per_class_accuracy")
            if isinstance(per_class, list):
                return [str(i) for i in range(len(per_class))]
        return []

    @property
    def counts(self) -> dict[str, int]:
        """Images by set, as far as it is known."""
        counts = self.args.get("counts")
        known = counts if isinstance(counts, dict) else {}
        found: dict[str, int] = {k: v for k, v in known.items() if type(v) is int}
        for name in SETS:
            count = number(self.metrics(name).get("count"))
            if count is not None:
                found.setdefault(name, int(count))
        return found

    @property
    def images(self) -> int | None:
        """Labelled images seen at the final evaluation."""
        value = self.evaluation.get("images")
        return value if type(value) is int else None

    @property
    def sources(self) -> dict[str, dict[str, Any]]:
        """role → {file, sha256, records} of the files the run rests on."""
        data = self.env.get("data")
        known = data if isinstance(data, dict) else {}
        return {k: v for k, v in known.items() if isinstance(v, dict) and "sha256" in v}

    def metrics(self, name: str, weights: str = "ema") -> dict[str, Any]:
        """The final metrics of a set; empty when there are none."""
        place = self.evaluation.get("sets" if weights == "ema" else "raw")
        value = dig(place, name)
        return value if isinstance(value, dict) else {}


def load_run(folder: str | Path) -> Run:
    """Reads a run folder.

    Raises:
      DataError: there is no such folder, or neither a log nor an evaluation in it.
    """
    run = Run(Path(folder))
    if not run.folder.is_dir():
        raise DataError("there is no such run folder", run.folder, "a folder under experiments/")
    run.args = _mapping(run, "args/args.json", "the settings")
    run.env = _mapping(run, "env.json", "versions, device and command")
    said = run.args.get("notes")
    run.notes += [str(note) for note in said] if isinstance(said, list) else []
    run.points = _lines(run, "metrics.jsonl", "the course of the training")
    run.timing = _lines(run, "timing.jsonl", "the speed of the training")
    run.evaluation = _mapping(run, "stats/evaluation.json", "the final evaluation")
    evaluated = [point for point in run.points if isinstance(point.get("ema"), dict)]
    if not run.evaluation and evaluated:
        last = evaluated[-1]
        run.evaluation = {"images": last["images"], "sets": last["ema"], "raw": last.get("raw")}
        run.notes.append("the numbers are those of the last evaluation in metrics.jsonl")
    if not run.evaluation:
        raise DataError("this run has not been evaluated yet", run.folder, "wait for its report")
    try:
        run.accuracy = accuracy_summary(run.folder)
    except DataError:
        run.accuracy = None
    _views(run)
    return run


def dig(value: object, *path: str) -> Any:
    """The value at ``path`` in nested mappings; None where there is none."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def number(value: object) -> float | None:
    """``value`` as a float if it is a number (truth values are not), else None."""
    return float(value) if isinstance(value, (int, float)) and type(value) is not bool else None


def _mapping(run: Run, name: str, what: str) -> dict[str, Any]:
    path = run.folder / name
    if not path.is_file():
        run.notes.append(f"{what}: there is no {name}")
        return {}
    try:
        value = read_json(path)
    except RealmixError as error:
        run.notes.append(f"{what}: {name} cannot be read ({error.what})")
        return {}
    if not isinstance(value, dict):
        run.notes.append(f"{what}: {name} is not a JSON object")
        return {}
    return value


def _lines(run: Run, name: str, what: str) -> list[dict[str, Any]]:
    if not (run.folder / name).is_file():
        run.notes.append(f"{what}: there is no {name}")
        return []
    try:
        return read_lines(run.folder / name).lines
    except RealmixError as error:
        run.notes.append(f"{what}: {error.what} ({Path(error.where).name})")
        return []


def _views(run: Run) -> None:
    for path in sorted((run.folder / "views").glob("*.npz")):
        try:
            run.views[path.stem] = _view(path)
        except (DataError, OSError, ValueError, KeyError, EOFError) as error:
            reason = error.what if isinstance(error, DataError) else type(error).__name__
            run.notes.append(f"pictures: views/{path.name} cannot be read ({reason})")
        except Exception as error:  # zipfile and numpy raise many kinds on damaged files
            run.notes.append(f"pictures: views/{path.name} is damaged ({type(error).__name__})")
    if not run.views:
        run.notes.append("pictures of the views: there are none in views/")


def _view(path: Path) -> View:
    if not path.is_file() or path.stat().st_size > _MAX_VIEW_BYTES:
        raise DataError("not a regular file of a reasonable size")
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    images = arrays.pop("images", np.zeros(0))
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[-1] not in (1, 3):
        raise DataError("'images' is not uint8 [N, H, W, 1 or 3]")
    if not images.size:
        raise DataError("it holds no images")
    numbers = {
        n: a for n, a in arrays.items() if a.shape == images.shape[:1] and a.dtype.kind in "fiu"
    }
    counts = {n: int(a) for n, a in arrays.items() if a.shape == () and a.dtype.kind in "iu"}
    return View(images, numbers, counts)
