"""The folder of a run: its name, and where in it each thing lies."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LONGEST_NAME = 180  # bytes; file systems stop at 255, and temporary names are longer


class RunFolder:
    """Paths inside a run folder; see docs/ARCHITECTURE.md for what each holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.args = path / "args" / "args.json"
        self.env = path / "env.json"
        self.checkpoints = path / "tf"
        self.metrics = path / "metrics.jsonl"
        self.timing = path / "timing.jsonl"
        self.evaluation = path / "stats" / "evaluation.json"
        self.views = path / "views"
        self.model = path / "model"


def run_name(method: str, changed: Mapping[str, Any], seed: int) -> str:
    """``RealMix_percent_mask0.5_seed1``: the method, what differs from its defaults, the seed.

    Args:
      method: class name of the method.
      changed: settings by flag name that differ from their defaults.
      seed: the run's seed.
    """
    words = [method, *(f"{key}{_word(value)}" for key, value in sorted(changed.items()))]
    name = "_".join([*words, f"seed{seed}"])
    if len(name.encode()) > _LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]
        name = f"{method}_{digest}_seed{seed}"
    return name


def path_word(path: str) -> str:
    """A path in a run's name: its last part, and a digest of the whole."""
    digest = hashlib.sha256(os.path.abspath(path).encode()).hexdigest()[:6]
    return f"{Path(path).name}-{digest}"


def _word(value: Any) -> str:
    text = str(value)
    if isinstance(value, float) and float(f"{value:g}") == value:
        text = f"{value:g}"
    return re.sub(r"[^A-Za-z0-9_.,+-]", "", text)
