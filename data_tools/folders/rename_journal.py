"""The journal of a renaming, and the steps it allows.

No file is ever replaced, and no step is taken that the journal does not know: it is written, all
names included, and flushed to the disk before the first file moves. Whatever ends the work, even
a power cut, every file then has its old name, its new one, or the hidden one the journal gives it,
and the next call completes the renaming or takes it back.

Where new names are also old ones of other files, all files first take hidden names (the journal
calls this staged). Its last mark says which two names a file may have:

| mark | a file has | on its way to |
|---|---|---|
| planned | its old name or its hidden one | hidden |
| placing | its hidden name or its new one (not staged: old or new) | new |
| done | its new name | |
| lifting | its new name or its hidden one | hidden |
| returning | its hidden name or its old one (not staged: new or old) | old |
| undone | its old name | |

The file is JSON lines: a head, a line a file, then the marks, each flushed before what it allows.
Names that are not UTF-8 are in it as surrogate escapes, as Python reads them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_tools.progress import Progress
from realmix_tf.errors import DataError, ResourceError, printable
from realmix_tf.files import TEMPORARY_PREFIX, atomic_write, resource_error, sync_directory

JOURNAL = ".rename_files.journal"
# What a renaming has in the folder besides the pictures, the second only while it runs.
OWN_FILES = (JOURNAL, ".lock")
SCHEMA = 1

PLANNED, PLACING, DONE = "planned", "placing", "done"
LIFTING, RETURNING, UNDONE = "lifting", "returning", "undone"

_MARKS = (PLANNED, PLACING, DONE, LIFTING, RETURNING, UNDONE)
_MAX_BYTES = 1 << 30
# What os.link says where there are no links, or none to files of other people.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_CURRENT_FOLDER = -100  # AT_FDCWD
_REPLACE_NOTHING = 1  # RENAME_NOREPLACE


class Move(NamedTuple):
    """A file and its names.

    Attributes:
      folder: where it lies, relative to the target folder with ``/``; empty for that itself.
      old: its name before.
      new: its name after.
      hidden: its name in between; empty where it needs none.
      inode: the number the file system gives the file; 0 if not known. It tells the file from one
        that somebody else puts under one of the names.
    """

    folder: str
    old: str
    new: str
    hidden: str = ""
    inode: int = 0


class Journal:
    """The journal of the last renaming in a folder.

    Args:
      root: the target folder.
      moves: the files.
      staged: whether they take hidden names in between.
      mark: how far it is.
      end: bytes of the journal file that are valid.
    """

    def __init__(
        self, root: Path, moves: Sequence[Move], staged: bool, mark: str, end: int
    ) -> None:
        self.root, self.moves, self.staged, self.mark = root, moves, staged, mark
        self._end = end

    @property
    def unfinished(self) -> bool:
        """A renaming or an undo was interrupted."""
        return self.mark not in (DONE, UNDONE)

    @property
    def backwards(self) -> bool:
        """An undo was interrupted."""
        return self.mark in (LIFTING, RETURNING)

    @classmethod
    def create(cls, root: Path, moves: Sequence[Move], staged: bool) -> Journal:
        """Writes the journal of a renaming that has not begun.

        Raises:
          ResourceError: it cannot be written.
        """
        _remove_leftovers(root)
        moves = [
            move._replace(inode=_inode(os.path.join(root, move.folder, move.old))) for move in moves
        ]
        head = {"schema": SCHEMA, "files": len(moves), "staged": staged}
        with atomic_write(root / JOURNAL) as file:
            file.write(_line(head))
            for move in moves:
                file.write(_line(move._asdict()))
            file.write(_line({"mark": PLANNED}))
            end = file.tell()
        return cls(root, moves, staged, PLANNED, end)

    @classmethod
    def load(cls, root: Path) -> Journal | None:
        """Reads the journal of a folder; None where there is none.

        Raises:
          DataError: it is damaged, written by a newer version, or would move other files than
            those below the folder.
        """
        path = root / JOURNAL
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise resource_error(error, path) from error
        with open(descriptor, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
        try:
            return _parse(root, data)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(
                f"the journal of the last renaming is damaged: {error}",
                path,
                "delete it; files that the renaming left under hidden names "
                f"({TEMPORARY_PREFIX}rename…) have to be renamed by hand",
            ) from error

    def places(self) -> dict[str, int]:
        """How many files have their ``old``, ``hidden`` and ``new`` name, or are ``missing``."""
        counts = dict.fromkeys(("old", "hidden", "new", "missing"), 0)
        before, after = self._between()
        for move in self.moves:
            inodes = [_inode(self._path(move, kind)) if kind else 0 for kind in (before, after)]
            if all(inodes) and inodes[1] != move.inode:
                counts[before] += 1
            else:
                counts[after if inodes[1] else before if inodes[0] else "missing"] += 1
        return counts

    def forward(self) -> list[str]:
        """Gives every file its new name, from wherever it is.

        Returns:
          Relative names of files that are at none of the places where they may be.

        Raises:
          DataError: a name is taken by another file.
          ResourceError: a file cannot be renamed.
        """
        missing: list[str] = []
        if self.staged and self.mark in (PLANNED, RETURNING, UNDONE):
            self._note(PLANNED)
            missing += self._move("old", "hidden")
            self._note(PLACING)
            missing += self._move("hidden", "new", set(missing))
        else:
            self._note(PLACING)
            missing += self._move("hidden" if self.staged else "old", "new")
        self._note(DONE)
        return missing

    def back(self) -> list[str]:
        """Gives every file its old name, from wherever it is (see ``forward``)."""
        missing: list[str] = []
        if self.staged and self.mark in (DONE, PLACING, LIFTING):
            self._note(LIFTING)
            missing += self._move("new", "hidden")
            self._note(RETURNING)
            missing += self._move("hidden", "old", set(missing))
        else:
            self._note(RETURNING)
            missing += self._move("hidden" if self.staged else "new", "old")
        self._note(UNDONE)
        return missing

    def _between(self) -> tuple[str, str]:
        """The kinds of names a file may have now: the one it leaves, the one it gets."""
        if self.mark in (DONE, UNDONE):
            return "", "new" if self.mark == DONE else "old"
        if not self.staged:
            return ("new", "old") if self.mark == RETURNING else ("old", "new")
        return {
            PLANNED: ("old", "hidden"),
            PLACING: ("hidden", "new"),
            LIFTING: ("new", "hidden"),
            RETURNING: ("hidden", "old"),
        }[self.mark]

    def _path(self, move: Move, kind: str) -> str:
        return os.path.join(self.root, move.folder, getattr(move, kind))

    def _move(self, source: str, target: str, gone: Iterable[str] = ()) -> list[str]:
        missing = []
        with Progress(len(self.moves), "files", "renaming") as progress:
            for move in self.moves:
                if not _step(self._path(move, source), self._path(move, target), move.inode):
                    name = f"{move.folder}/{move.old}".lstrip("/")
                    if name not in gone:
                        missing.append(name)
                progress.add(1)
        for folder in sorted({move.folder for move in self.moves}):
            with contextlib.suppress(FileNotFoundError):
                sync_directory(self.root / folder)
        return missing

    def _note(self, mark: str) -> None:
        """Adds a mark, flushed to the disk, unless it is the last one already."""
        if mark == self.mark:
            return
        path = self.root / JOURNAL
        try:
            with open(path, "r+b") as file:
                file.truncate(self._end)
                file.seek(self._end)
                file.write(_line({"mark": mark}))
                file.flush()
                os.fsync(file.fileno())
                self._end = file.tell()
        except OSError as error:
            raise resource_error(error, path) from error
        self.mark = mark


COMPLETE_OR_UNDO = "--yes completes the renaming, --undo takes it back"


def rename_exclusively(source: str, target: str) -> None:
    """Renames a file (of a link the link) without ever replacing another.

    Ended in the middle, it may leave both names to the one file.

    Raises:
      FileExistsError: there is something of the new name, whatever it is.
      FileNotFoundError: there is no such file.
      ResourceError: the file system cannot do this.
      OSError: anything else.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename_without_links(source, target)
        return
    os.unlink(source)


def _step(source: str, target: str, inode: int) -> bool:
    """Renames one file unless it has been; False if it is nowhere."""
    try:
        rename_exclusively(source, target)
    except FileNotFoundError:
        return os.path.lexists(target)
    except FileExistsError as error:
        if _inode(source) == _inode(target):
            # An interrupted step leaves both names to one file.
            os.unlink(source)
        elif _inode(target) != inode:
            raise DataError(
                f"the name {os.path.basename(target)!r} is taken by another file",
                os.path.dirname(target),
                f"move that file away; then {COMPLETE_OR_UNDO}",
            ) from error
        # Else it has been renamed, and somebody put another file under the name it had.
    except OSError as error:
        raise resource_error(error, source) from error
    return True


def _inode(path: str) -> int:
    """The number of the file, or of the link; 0 if there is none."""
    try:
        return os.lstat(path).st_ino
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _rename_without_links(source: str, target: str) -> None:
    try:
        rename: Callable[..., int] = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        rename = _not_there
    names = os.fsencode(source), os.fsencode(target)
    if rename(_CURRENT_FOLDER, names[0], _CURRENT_FOLDER, names[1], _REPLACE_NOTHING) == 0:
        return
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise ResourceError(
            "this file system cannot rename a file without the risk of replacing another",
            os.path.dirname(target),
            "copy the folder to another disk first",
        )
    raise OSError(number, os.strerror(number), source, None, target)


def _not_there(*arguments: Any) -> int:
    ctypes.set_errno(errno.ENOSYS)
    return -1


def _remove_leftovers(root: Path) -> None:
    """Removes journals that a killed process had not finished writing."""
    for name in os.listdir(root):
        if name.startswith(f"{TEMPORARY_PREFIX}{JOURNAL}."):
            with contextlib.suppress(OSError):
                os.unlink(root / name)


def _line(value: Any) -> bytes:
    # ASCII: names that are not UTF-8 survive as escaped surrogates.
    return json.dumps(value).encode("ascii") + b"\n"


def _parse(root: Path, data: bytes) -> Journal:
    if len(data) > _MAX_BYTES:
        raise ValueError("it is too large")
    lines = data.split(b"\n")
    # What follows the last newline was being written when the power went.
    end = len(data) - len(lines.pop())
    if len(lines) < 2:
        raise ValueError("it is cut short")
    head = json.loads(lines[0])
    if head["schema"] != SCHEMA:
        raise ValueError(f"it has schema version {head['schema']!r}, known is {SCHEMA}")
    count, staged = head["files"], head["staged"]
    if type(count) is not int or type(staged) is not bool or not 0 <= count <= len(lines) - 2:
        raise ValueError("its head is not valid")
    moves = [_parse_move(json.loads(line), staged) for line in lines[1 : count + 1]]
    marks = [json.loads(line)["mark"] for line in lines[count + 1 :]]
    if any(mark not in _MARKS for mark in marks):
        raise ValueError("it has an unknown mark")
    top = os.path.realpath(root)
    for folder in {move.folder for move in moves}:
        if os.path.realpath(os.path.join(top, folder)) != os.path.join(top, folder).rstrip("/"):
            raise ValueError(f"the folder {printable(folder)!r} is a link, or not below this one")
    return Journal(root, moves, staged, marks[-1], end)


def _parse_move(value: Any, staged: bool) -> Move:
    move = Move(**value)
    names = [move.old, move.new, *([move.hidden] if staged else [])]
    parts = [*names, *(move.folder.split("/") if move.folder else [])]
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise ValueError("it has an impossible name")
    if any("/" in name for name in names) or type(move.inode) is not int:
        raise ValueError("it has a path in place of a name, or none in place of a number")
    return move
