"""Folders of many files that appear under their names only when complete."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.pictures.listing import Spill
from realmix_tf.errors import DataError, ResourceError, UsageError
from realmix_tf.files import (
    TEMPORARY_PREFIX,
    atomic_write,
    read_json,
    require_writable,
    resource_error,
    sync_directory,
)

SCHEMA = 1
_MAX_MARK_BYTES = 1 << 30


class StagedFolder:
    """A folder built under a hidden name beside its own, and renamed by ``commit``.

    A JSON file in it, the mark, lists every file, so that ``overwrite`` can tell what it may
    replace: a folder with anything else in it is left alone.

    Args:
      output: the folder; it may exist empty.
      mark: name of the JSON file.
      command: the tool that writes it, for the mark.
      overwrite: replace what the same command wrote.

    Raises:
      UsageError: on entering, when the folder may not be replaced.
      ResourceError: it cannot be written, or another process is writing it.
    """

    def __init__(self, output: Path, mark: str, command: str, overwrite: bool = False) -> None:
        # A link to a folder stays one.
        self.output = Path(os.path.realpath(output))
        self._mark, self._command, self._overwrite = mark, command, overwrite
        self._staging = self.output.with_name(f"{TEMPORARY_PREFIX}{self.output.name}.part")
        self._lock = -1
        self._files = Spill(None)
        self._folders: set[str] = set()
        self._known: set[str] = set()

    def check(self) -> None:
        """Checks that the folder may be written; nothing is changed.

        Raises:
          UsageError: it exists and may not be replaced.
          ResourceError: files cannot be written there.
        """
        if os.path.lexists(self.output) and not self.output.is_dir():
            raise UsageError("this is a file, not a folder", self.output, "another --output")
        require_writable(self.output.parent)
        if not self.output.is_dir() or not os.listdir(self.output):
            return
        if not self._overwrite:
            raise UsageError(
                "this folder is not empty",
                self.output,
                f"--overwrite if {self._command} wrote it, or another --output",
            )
        self._known = self._written()
        for name in _below(self.output):
            if name not in self._known:
                raise UsageError(
                    f"the folder holds {name!r}, which {self._command} did not write",
                    self.output,
                    "another --output",
                )

    def __enter__(self) -> StagedFolder:
        self.check()
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                self._staging.mkdir()
            self._lock = os.open(self._staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # What a killed run left.
            for child in os.scandir(self._staging):
                _remove(child)
        except BlockingIOError as error:
            os.close(self._lock)
            raise ResourceError(
                "another process is writing this folder", self.output, "wait for it to end"
            ) from error
        except OSError as error:
            raise resource_error(error, self.output) from error
        self._files = Spill(self.output.parent)
        return self

    def __exit__(self, *exception: object) -> None:
        self._files.close()
        # After a commit the hidden name is gone, or another process has taken it.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._lock), os.stat(self._staging)):
                shutil.rmtree(self._staging)
        os.close(self._lock)

    def write(self, name: str, data: bytes) -> None:
        """Adds a file.

        Args:
          name: relative, with ``/``, new; undecodable bytes as surrogate escapes.
          data: its bytes.

        Raises:
          ResourceError: it cannot be written.
        """
        path = os.path.join(self._staging, name)
        try:
            parent = os.path.dirname(name)
            if parent not in self._folders:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                self._folders.add(parent)
            with open(path, "xb") as file:
                file.write(data)
        except OSError as error:
            raise resource_error(error, self.output / name) from error
        self._files.append(f"{',' if self._files.size else ''}\n{json.dumps(name)}".encode())

    def commit(self, facts: dict[str, Any]) -> None:
        """Writes the mark, flushes everything to the disk and gives the folder its name.

        Args:
          facts: what the mark says besides ``schema``, ``command`` and ``files``; JSON-able.

        Raises:
          UsageError: somebody put other files into the folder meanwhile.
          ResourceError: the disk is full, or the folder cannot be replaced.
        """
        self.check()
        head = json.dumps({"schema": SCHEMA, "command": self._command, **facts}, indent=2)
        with atomic_write(self._staging / self._mark) as file:
            file.write(head.removesuffix("\n}").encode() + b',\n  "files": [')
            for start in range(0, self._files.size, 1 << 20):
                file.write(self._files.read(start, min(start + (1 << 20), self._files.size)))
            file.write(b"\n  ]\n}\n")
        # One call for everything: as many single ones as there are files would take far longer.
        os.sync()
        try:
            self._take_place()
            sync_directory(self.output.parent)
        except OSError as error:
            raise resource_error(error, self.output) from error

    def _take_place(self) -> None:
        if not self.output.is_dir() or not os.listdir(self.output):
            os.rename(self._staging, self.output)
            return
        aside = self.output.with_name(f"{TEMPORARY_PREFIX}{self.output.name}.old.{os.getpid()}")
        os.rename(self.output, aside)
        try:
            os.rename(self._staging, self.output)
        except BaseException:
            os.rename(aside, self.output)
            raise
        for name in reversed(list(_below(aside))):
            if name in self._known:
                _remove_one(aside / name)
        _remove_one(aside)

    def _written(self) -> set[str]:
        """The files and folders that an earlier run of the command wrote."""
        path = self.output / self._mark
        unknown = UsageError(
            f"the folder is not empty, and {self._command} did not write it",
            self.output,
            "another --output",
        )
        try:
            if path.is_symlink() or path.stat().st_size > _MAX_MARK_BYTES:
                raise unknown
            value = read_json(path)
        except (OSError, DataError) as error:
            raise unknown from error
        names = value.get("files") if isinstance(value, dict) else None
        if not isinstance(names, list) or value.get("command") != self._command:
            raise unknown
        found = {name for name in names if isinstance(name, str)}
        folders = {name[:cut] for name in found for cut in _cuts(name)}
        return found | folders | {self._mark}


def _cuts(name: str) -> Iterator[int]:
    cut = name.find("/")
    while cut >= 0:
        yield cut
        cut = name.find("/", cut + 1)


def _below(folder: Path) -> Iterator[str]:
    """Relative names of all files, links and folders below a folder; folders come first."""
    for path, folders, files in os.walk(folder):
        prefix = os.path.relpath(path, folder) + "/"
        prefix = "" if prefix == "./" else prefix
        for name in sorted(folders) + sorted(files):
            yield prefix + name


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path)
    else:
        os.unlink(entry.path)


def _remove_one(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
