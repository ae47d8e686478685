"""Verifying record files in full: every checksum, every record, every manifest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from realmix_tf.data.manifest import is_marked_incomplete
from realmix_tf.data.records import RecordReader
from realmix_tf.errors import DataError, RealmixError

_SUFFIX = ".tfrecord"


@dataclass(frozen=True)
class FileStatus:
    """What was found out about one file.

    Attributes:
      file: its path.
      ok: nothing is wrong as far as it can be checked.
      manifest: whether there is one to check against.
      records: how many; 0 when damaged.
      labeled: how many of them have a true label.
      bytes: its size.
      problem: what is wrong; empty when ok.
    """

    file: str
    ok: bool
    manifest: bool
    records: int
    labeled: int
    bytes: int
    problem: str = ""


def verify(paths: Sequence[str | os.PathLike[str]]) -> list[FileStatus]:
    """Checks record files, and all record files below folders.

    Without a manifest the framing, the checksums and the records are checked; a file that was cut
    exactly between two records cannot be told then.

    Raises:
      DataError: a path does not exist, or a folder has no record files.
    """
    return [verify_file(path) for path in find_record_files(paths)]


def find_record_files(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The record files that the paths name, those below folders sorted by name."""
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            if not path.exists() and not path.with_name(path.name + ".json").exists():
                raise DataError("there is no such file or folder", path, "check the path")
            found.append(path)
            continue
        below: set[Path] = set()
        for folder, _, files in os.walk(path):
            for name in files:
                if name.startswith("."):
                    continue
                # A manifest alone shows that the records beside it are gone.
                if name.endswith(_SUFFIX + ".json"):
                    name = name.removesuffix(".json")
                if name.endswith(_SUFFIX):
                    below.add(Path(folder, name))
        if not below:
            raise DataError("there are no record files in this folder", path, "check the path")
        found += sorted(below)
    return found


def verify_file(path: Path) -> FileStatus:
    """Checks one file; what is wrong is in the result."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with RecordReader(path) as reader:
            reader.verify()
            return FileStatus(
                file=str(path),
                ok=True,
                manifest=reader.manifest is not None,
                records=len(reader),
                labeled=int(reader.labeled.sum()),
                bytes=size,
            )
    except RealmixError as error:
        marked = is_marked_incomplete(path)
        problem = "its writing was interrupted" if marked else error.what
        place = error.where.rpartition(", ")[2]
        if not marked and place.startswith("record "):
            problem = f"{place}: {problem}"
        return FileStatus(str(path), False, not marked, 0, 0, size, problem)


def describe(statuses: Sequence[FileStatus]) -> str:
    """The result as a table for people."""
    width = max(len(status.file) for status in statuses)
    lines = [f"{'file':<{width}}  {'records':>8}  {'labelled':>8}  {'bytes':>12}  status"]
    for status in statuses:
        state = "ok" if status.ok else f"DAMAGED: {status.problem}"
        if status.ok and not status.manifest:
            state = "ok (no manifest: a cut between two records would not show)"
        lines.append(
            f"{status.file:<{width}}  {status.records:>8}  {status.labeled:>8}  "
            f"{status.bytes:>12}  {state}"
        )
    return "\n".join(lines)
