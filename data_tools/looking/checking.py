"""Verifying record files in full: checksums, records, manifests, origins, maps, leftovers."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.looking.inputs import walk
from data_tools.plan import Plan, estimate_seconds, files, resident_bytes
from data_tools.progress import Progress
from data_tools.records.split_map import map_beside, read_split_map
from realmix_tf.data.manifest import Manifest, is_marked_incomplete, manifest_path, read_manifest
from realmix_tf.data.records import RecordReader
from realmix_tf.errors import DataError, RealmixError, ResourceError, printable
from realmix_tf.files import TEMPORARY_PREFIX, human_bytes, resource_error

_SUFFIX = ".tfrecord"
_PART = re.compile(re.escape(TEMPORARY_PREFIX) + r".+\.tfrecord\.part", re.DOTALL)
_OF_PROCESS = re.compile(re.escape(TEMPORARY_PREFIX) + r".+\.([1-9][0-9]{0,9})", re.DOTALL)
_OLD_SECONDS = 3600.0  # files that only a process id guards may belong to another computer
_SAMPLE_BYTES = 32 << 20


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
      readable: it could be read; where not, the problem is no damage.
      stale: what it was made from is not there any more in that form; empty otherwise.
    """

    file: str
    ok: bool
    manifest: bool
    records: int
    labeled: int
    bytes: int
    problem: str = ""
    stale: str = ""
    readable: bool = True


@dataclass(frozen=True)
class MapStatus:
    """What was found out about the map of a split.

    Attributes:
      problem: why it does not fit the split's files; empty when it does.
      remark: what could not be compared with it.
      readable: as ``FileStatus``.
    """

    file: str
    labeled: int
    unlabeled: int
    problem: str = ""
    remark: str = ""
    readable: bool = True


@dataclass(frozen=True)
class Leftover:
    """A temporary file that a killed run left, its bytes, and whether it was removed."""

    file: str
    bytes: int
    removed: bool = False


@dataclass(frozen=True)
class Verification:
    """Everything ``check`` found out.

    Attributes:
      files, maps, leftovers: what was looked at.
      skipped: links to folders, which were not followed.
    """

    files: tuple[FileStatus, ...]
    maps: tuple[MapStatus, ...]
    leftovers: tuple[Leftover, ...]
    skipped: tuple[str, ...] = ()

    @property
    def damaged(self) -> list[str]:
        """The files that are damaged or do not fit each other."""
        return [status.file for status in self._bad if status.readable]

    @property
    def unreadable(self) -> list[str]:
        """The files that may not be read, of which nothing is known therefore."""
        return [status.file for status in self._bad if not status.readable]

    @property
    def notes(self) -> list[str]:
        """Remarks for people."""
        return [f"{path} is a link to a folder and was skipped" for path in self.skipped]

    @property
    def _bad(self) -> list[FileStatus | MapStatus]:
        statuses: tuple[FileStatus | MapStatus, ...] = (*self.files, *self.maps)
        return [status for status in statuses if status.problem]

    def as_json(self) -> dict[str, Any]:
        """The result as JSON-able data."""
        return {
            "files": [asdict(status) for status in self.files],
            "maps": [asdict(status) for status in self.maps],
            "leftovers": [asdict(leftover) for leftover in self.leftovers],
            "skipped": list(self.skipped),
            "notes": self.notes,
        }


def check(paths: Sequence[str | os.PathLike[str]], clean: bool = False) -> Verification:
    """Verifies record files and what belongs to them.

    Besides each file itself: whether the files it was made from are still the same, where they
    are found beside or above it; whether the map of a split fits its files; and what killed runs
    left in the folders.

    Args:
      paths: record files and folders.
      clean: remove the leftovers.

    Raises:
      DataError: as ``verify``.
      ResourceError: a folder may not be read, or a leftover cannot be removed.
    """
    skipped: list[str] = []
    found = find_record_files(paths, skipped)
    with Progress(sum(map(_size, found)), "B", "verifying") as progress:
        statuses = [verify_file(path, progress.add) for path in found]
    leftovers = [
        _remove(leftover) if clean else leftover
        for folder in map(Path, paths)
        if folder.is_dir()
        for leftover in find_leftovers(folder)
    ]
    return Verification(
        tuple(statuses), tuple(_maps(found)), tuple(leftovers), tuple(dict.fromkeys(skipped))
    )


def plan_check(paths: Sequence[str | os.PathLike[str]], clean: bool = False) -> Plan:
    """What ``check`` would do.

    Raises:
      DataError: as ``verify``.
      ResourceError: a folder may not be read.
    """
    skipped: list[str] = []
    found = [path for path in find_record_files(paths, skipped) if os.path.exists(path)]
    sizes = [*map(_size, found)]

    def sample() -> int:
        path = max(found, key=_size)
        try:
            with RecordReader(path) as reader:
                ids = np.arange(len(reader))
                done = 0
                for block in reader.blocks(ids):
                    done += len(reader.frames(ids[block]))
                    if done >= _SAMPLE_BYTES:
                        break
                return done
        except RealmixError:
            return 0

    gone = [
        leftover.file
        for folder in map(Path, paths)
        if folder.is_dir()
        for leftover in find_leftovers(folder)
    ]
    return Plan(
        reads=files(found),
        writes=(),
        memory=resident_bytes() + (max(sizes) // 8 if sizes else 0),
        seconds=2 * estimate_seconds(sum(sizes), sample) if sizes else 0.0,
        facts={"would remove" if clean else "leftovers": [printable(name) for name in gone]},
        notes=tuple(Verification((), (), (), tuple(skipped)).notes),
    )


def verify(paths: Sequence[str | os.PathLike[str]]) -> list[FileStatus]:
    """Checks record files, and all record files below folders.

    Without a manifest the framing, the checksums and the records are checked; a file that was cut
    exactly between two records cannot be told then.

    Raises:
      DataError: a path does not exist, or a folder has no record files and nothing that is left
        of them.
      ResourceError: a folder may not be read.
    """
    return [verify_file(path) for path in find_record_files(paths)]


def find_record_files(
    paths: Sequence[str | os.PathLike[str]], skipped: list[str] | None = None
) -> list[Path]:
    """The record files that the paths name, those below folders sorted by name.

    Whatever has the name of a record file is listed, so that nothing of that name is passed over.

    Args:
      paths: record files and folders.
      skipped: links to folders, which are not followed, are added here.

    Raises:
      DataError, ResourceError: as ``verify``.
    """
    found: list[Path] = []
    skipped = [] if skipped is None else skipped
    for path in map(Path, paths):
        if not path.is_dir():
            if not path.exists() and not path.with_name(path.name + ".json").exists():
                raise DataError("there is no such file or folder", path, "check the path")
            found.append(path)
            continue
        below: set[Path] = set()
        for folder, folders, names in walk(path, skipped):
            for name in (*folders, *names):
                if name.startswith("."):
                    continue
                # A manifest alone shows that the records beside it are gone.
                if name.endswith(_SUFFIX + ".json"):
                    name = name.removesuffix(".json")
                if name.endswith(_SUFFIX):
                    below.add(folder / name)
        if not below and path.name.endswith(_SUFFIX):
            below = {path}
        if not below and next(find_leftovers(path), None) is None:
            raise DataError("there are no record files in this folder", path, "check the path")
        found += sorted(below)
    return found


def _size(path: Path) -> int:
    """Bytes of a file; 0 of what is no file, or cannot be looked at."""
    try:
        status = path.stat()
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def verify_file(path: Path, progress: Callable[[int], None] | None = None) -> FileStatus:
    """Checks one file; what is wrong is in the result.

    Args:
      path: the file.
      progress: called with the bytes that were read since the last call; their sum is the file's
        size, also of a damaged file.
    """
    size, done = _size(path), 0

    def count(read: int) -> None:
        nonlocal done
        done += read
        if progress is not None:
            progress(read)

    try:
        return _verified(path, size, count)
    except OSError as error:
        return _bad_status(path, size, resource_error(error, path))
    except RealmixError as error:
        return _bad_status(path, size, error)
    finally:
        count(size - done)


def _verified(path: Path, size: int, progress: Callable[[int], None]) -> FileStatus:
    with RecordReader(path) as reader:
        reader.verify(progress)
        return FileStatus(
            file=str(path),
            ok=True,
            manifest=reader.manifest is not None,
            records=len(reader),
            labeled=int(reader.labeled.sum()),
            bytes=size,
            stale=_stale(path, reader.manifest),
        )


def _bad_status(path: Path, size: int, error: RealmixError) -> FileStatus:
    if isinstance(error, ResourceError):
        return FileStatus(str(path), False, False, 0, 0, size, error.what, readable=False)
    marked = is_marked_incomplete(path)
    problem = "its writing was interrupted" if marked else error.what
    of_manifest = error.where == str(manifest_path(path))
    if of_manifest and not marked and not problem.startswith("the manifest"):
        problem = f"its manifest: {problem}"
    place = error.where.rpartition(", ")[2]
    if not marked and place.startswith("record "):
        problem = f"{place}: {problem}"
    return FileStatus(str(path), False, not marked, 0, 0, size, problem)


def find_leftovers(folder: Path) -> Iterator[Leftover]:
    """Temporary files of this project below a folder that no process writes any more.

    Unfinished record files are told by the lock of their writer; other temporary files by the
    process in their name, which must be gone, and their age.

    Raises:
      ResourceError: a folder may not be read.
    """
    for place, _, names in walk(folder, []):
        for name in sorted(names):
            path = place / name
            try:
                status = path.lstat()
            except OSError:
                continue
            if not stat.S_ISREG(status.st_mode):
                continue
            process = _OF_PROCESS.fullmatch(name)
            if _PART.fullmatch(name):
                left = not _locked(path)
            elif process:
                old = time.time() - status.st_mtime > _OLD_SECONDS
                left = old and not _alive(int(process[1]))
            else:
                continue
            if left:
                yield Leftover(str(path), status.st_size)


def _locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _remove(leftover: Leftover) -> Leftover:
    try:
        os.unlink(leftover.file)
    except OSError as error:
        raise resource_error(error, leftover.file) from error
    return Leftover(leftover.file, leftover.bytes, removed=True)


def parents_of(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """(file name, SHA-256) of what a record file was made from, as far as its manifest says."""
    parents = manifest.provenance.get("parents")
    for parent in parents if isinstance(parents, list) else ():
        if isinstance(parent, dict):
            name, digest = parent.get("file"), parent.get("sha256")
            # Only plain file names: a manifest may come from anywhere.
            plain = isinstance(name, str) and name not in ("", ".", "..") and "/" not in name
            if plain and isinstance(digest, str):
                yield str(name), digest


def find_parent(path: Path, name: str) -> Path | None:
    """A file that a record file was made from, beside it or in the folder above."""
    for folder in (path.parent, path.absolute().parent.parent):
        if (folder / name).is_file() and folder / name != path:
            return folder / name
    return None


def _stale(path: Path, manifest: Manifest | None) -> str:
    """Which of the files that this one was made from have changed since; empty for none."""
    changed = []
    for name, digest in parents_of(manifest) if manifest else ():
        parent = find_parent(path, name)
        try:
            described = None if parent is None else read_manifest(parent)
        except RealmixError:
            continue  # that file is reported by itself
        if described is not None and described.sha256 != digest:
            changed.append(name)
    return f"made from another {' and '.join(changed)}" if changed else ""


def _maps(paths: Iterable[Path]) -> Iterator[MapStatus]:
    """The maps of the splits among these files, each checked once."""
    seen = set()
    for path in paths:
        try:
            manifest = read_manifest(path)
        except RealmixError:
            continue
        if manifest is None or not isinstance(manifest.provenance.get("map_file"), str):
            continue
        map_file = map_beside(path, manifest)
        if map_file is None:
            name = manifest.provenance["map_file"]
            map_file = path.with_name(Path(name).name)
            if map_file not in seen:
                yield MapStatus(str(map_file), 0, 0, remark="the map of this split is missing")
        elif map_file not in seen:
            yield _map_status(map_file, path, manifest)
        seen.add(map_file)


def _map_status(map_file: Path, path: Path, manifest: Manifest) -> MapStatus:
    try:
        label, unlabel = read_split_map(map_file)
    except RealmixError as error:
        readable = not isinstance(error, ResourceError)
        return MapStatus(str(map_file), 0, 0, error.what, readable=readable)
    counts = len(label), len(unlabel)
    together = np.concatenate([label, unlabel])
    if len(np.unique(together)) != len(together):
        return MapStatus(str(map_file), *counts, "it lists an id twice")
    problem, remark = _against_files(map_file, counts)
    problem = problem or _against_input(path, manifest, together)
    return MapStatus(str(map_file), *counts, problem, remark)


def _against_files(map_file: Path, counts: tuple[int, int]) -> tuple[str, str]:
    """What is wrong with the number of ids, and which file is missing."""
    missing = ""
    stem = map_file.name.removesuffix("-map.json")
    for role, count in zip(("label", "unlabel"), counts, strict=True):
        file = map_file.with_name(f"{stem}-{role}{_SUFFIX}")
        try:
            manifest = read_manifest(file)
        except RealmixError:
            continue  # that file is reported by itself
        if not file.exists():
            missing = f"there is no {file.name}"
        elif manifest is not None and manifest.records != count:
            problem = f"it lists {count} ids of {file.name}, which has {manifest.records} records"
            return problem, missing
    return "", missing


def _against_input(path: Path, manifest: Manifest, ids: np.ndarray) -> str:
    """Whether each record of the split's input is listed; unknown where the input changed."""
    total = 0
    for name, digest in parents_of(manifest):
        parent = find_parent(path, name)
        try:
            described = None if parent is None else read_manifest(parent)
        except RealmixError:
            return ""
        if described is None or described.sha256 != digest:
            return ""
        total += described.records
    if not total:
        return ""
    if len(ids) != total or ids.max(initial=-1) >= total:
        return f"it lists {len(ids)} ids up to {ids.max(initial=-1)}, the input has {total} records"
    return ""


def describe(result: Verification) -> str:
    """The result as a table for people."""
    statuses = result.files
    width = max((len(printable(status.file)) for status in statuses), default=4)
    lines = [f"{'file':<{width}}  {'records':>8}  {'labelled':>8}  {'bytes':>12}  status"]
    for status in statuses:
        state = "ok" if status.ok else _problem(status)
        if status.ok and not status.manifest:
            state = "ok (no manifest: a cut between two records would not show)"
        if status.stale:
            state = f"STALE: {status.stale}"
        lines.append(
            f"{printable(status.file):<{width}}  {status.records:>8}  {status.labeled:>8}  "
            f"{status.bytes:>12}  {printable(state)}"
        )
    for item in result.maps:
        if item.problem or item.remark:
            state = _problem(item) if item.problem else f"({item.remark})"
            lines.append(printable(f"{item.file}  {state}"))
    for leftover in result.leftovers:
        what = "removed" if leftover.removed else "left by a run that was killed (--clean)"
        lines.append(printable(f"{leftover.file}  {human_bytes(leftover.bytes)}  {what}"))
    return "\n".join(lines)


def _problem(status: FileStatus | MapStatus) -> str:
    return f"{'DAMAGED' if status.readable else 'UNREADABLE'}: {status.problem}"
