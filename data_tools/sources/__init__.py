"""Where datasets come from: one module a source.

Benchmark sets are a module with ``SOURCES`` (see ``building``); their names stand in
``BENCHMARKS``. ``tfds`` makes one of any image-classification set of TensorFlow Datasets, and
``folders`` builds from a user's own images.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realmix_tf.errors import UsageError

if TYPE_CHECKING:
    from data_tools.plan import Plan
    from data_tools.sources.building import BuildOptions, Source

COMMAND = "create_datasets"
TFDS = "tfds:"
BENCHMARKS = {
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "svhn": "svhn",
    "svhn_noextra": "svhn",
    "stl10": "stl10",
    "fashion_mnist": "fashion_mnist",
    "digits": "digits",
}  # name → module


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


def check_names(names: Iterable[str], others: Iterable[str] = ()) -> None:
    """Checks, before anything is built, that all names are known.

    Args:
      names: of benchmark sets, ``tfds:`` sets, or ``others``.
      others: further names that the caller knows.

    Raises:
      UsageError: one is not known; the nearest ones are named.
    """
    known = [*BENCHMARKS, *others]
    for name in names:
        if name in known or (name.startswith(TFDS) and name != TFDS):
            continue
        nearest = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
        raise UsageError(
            f"there is no dataset {name!r} to create",
            "",
            " or ".join(nearest) or f"one of {', '.join(known)}, or {TFDS}NAME",
        )


def get_source(name: str, options: BuildOptions) -> Source:
    """The source of a benchmark set, or of a ``tfds:`` set.

    Raises:
      UsageError: no source has this name.
      DataError: the set of TensorFlow Datasets cannot be used.
      ResourceError: it is not on this machine and cannot be had.
    """
    check_names([name])
    if name.startswith(TFDS):
        from data_tools.sources import tfds

        return tfds.source(name, options)
    module = import_module(f"data_tools.sources.{BENCHMARKS[name]}")
    sources: tuple[Source, ...] = module.SOURCES
    return next(source for source in sources if source.name == name)


def build(name: str, options: BuildOptions) -> SourceResult:
    """Builds a benchmark set or a ``tfds:`` set by its name.

    What is there, complete and verified is left alone; what is damaged is built again.

    Raises:
      UsageError: no source has this name.
      DataError: an archive, or what it holds, is not what was published.
      ResourceError: an archive cannot be had, or the records cannot be written.
    """
    from data_tools.sources import building

    return building.build(get_source(name, options), options)


def plan(name: str, options: BuildOptions) -> Plan:
    """What ``build`` would do; nothing is downloaded or written to find out.

    Raises:
      UsageError, DataError, ResourceError: as ``build``, except for what only the network tells.
    """
    from data_tools.sources import building

    if name.startswith(TFDS):
        from data_tools.sources import tfds

        preparation = tfds.plan_preparation(name, options)
        if preparation is not None:
            return preparation
    return building.plan(get_source(name, options), options)


def discard_archives(names: Iterable[str], options: BuildOptions) -> None:
    """Removes the archives of benchmark sets that earlier runs or this one downloaded.

    A folder that the user names as their own is left alone, also where it is that of downloads.
    """
    from data_tools.sources import download

    own = options.access.archive_dir
    if own is not None and own.resolve() == options.archives.resolve():
        return
    for name in names:
        if name in BENCHMARKS:
            download.discard(get_source(name, options).archives, options.archives)
