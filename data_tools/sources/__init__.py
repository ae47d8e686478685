"""Where datasets come from: one module a source.

A source that needs nothing but the folder of the datasets is a function
``build(data_dir, overwrite) -> SourceResult`` in a module of its own, named in ``BUILDERS``.
``folders`` builds from a user's own images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from realmix_tf.errors import UsageError

COMMAND = "create_datasets"
BUILDERS = {"digits": "data_tools.sources.digits"}


@dataclass(frozen=True)
class SourceResult:
    """What a source built.

    Attributes:
      dataset: its name.
      files: what was written, or found complete.
      already_there: a complete, verified set was left alone.
      facts: further counts and remarks, for people and as JSON.
    """

    dataset: str
    files: tuple[Path, ...]
    already_there: bool
    facts: dict[str, Any] = field(default_factory=dict)


def build(name: str, data_dir: Path, overwrite: bool = False) -> SourceResult:
    """Builds a dataset by its name.

    Raises:
      UsageError: no source has this name.
    """
    if name not in BUILDERS:
        raise UsageError(
            f"there is no dataset {name!r} to create", "", " or ".join([*BUILDERS, "custom"])
        )
    builder = cast(Callable[[Path, bool], SourceResult], import_module(BUILDERS[name]).build)
    return builder(data_dir, overwrite)
