"""Renaming a user's own pictures to ``{number}_{class}.ext``: a plan, a journal, an undo."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data_tools.file_names import alike
from data_tools.folders.rename_journal import (
    COMPLETE_OR_UNDO,
    DONE,
    JOURNAL,
    OWN_FILES,
    UNDONE,
    Journal,
    Move,
)
from data_tools.pictures.class_folders import EXPECTED, FLAT_NAME
from data_tools.plan import FileUse, Plan, resident_bytes
from realmix_tf.data.images import is_junk, walk_images
from realmix_tf.errors import DataError, ResourceError, UsageError, printable
from realmix_tf.files import TEMPORARY_PREFIX, FolderLock, require_space, resource_error

FILE_TYPES = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff")
SHOWN = 8

_MAX_NAME_BYTES = 255
_JOURNAL_LINE = 100  # bytes of a line of the journal beside the names
_HEAD_BYTES = 16
_LABELED_PARTS = frozenset({"train", "test", "valid", "extra"})
_UNLABELED_PARTS = frozenset({"unlabeled", "unlabelled"})
_FORMAT_OF = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".webp": "WEBP",
}


@dataclass(frozen=True)
class RenameOptions:
    """What to rename.

    Attributes:
      folder: a folder of class folders or of files named ``{number}_{class}.ext``, or one that
        holds such folders as train, test and unlabeled.
      index: the first number, at least 0.
      filetype: how to write the extension of files of this format, one of ``FILE_TYPES``; files
        of other formats have that of theirs. Empty: all have that of theirs.
    """

    folder: Path
    index: int = 0
    filetype: str = ""


@dataclass(frozen=True)
class Renaming:
    """What would be renamed.

    Attributes:
      folder: the target folder.
      moves: the files whose name changes, in the order of the numbers.
      unchanged: how many have their new name already.
      classes: files of each class.
      left_out: relative name and reason of what is left as it is.
      notes: remarks.
      staged: whether the files take hidden names in between.
    """

    folder: Path
    moves: tuple[Move, ...]
    unchanged: int
    classes: dict[str, int]
    left_out: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    staged: bool


@dataclass(frozen=True)
class RenameResult:
    """What was done.

    Attributes:
      action: ``renamed``, ``completed`` (an interrupted renaming), ``undone`` or ``nothing``.
      moves: the files that were renamed, or taken back.
      missing: relative names of files that somebody else took away.
      renaming: the plan, where there was one.
    """

    action: str
    moves: Sequence[Move] = ()
    missing: tuple[str, ...] = ()
    renaming: Renaming | None = None


class _Picture(NamedTuple):
    """A picture that gets a new name."""

    path: str
    folder: str
    name: str
    label: str
    format: str


def preview(options: RenameOptions) -> Renaming:
    """Looks at the files and finds their new names; changes nothing.

    Files in a class folder stay where they are and get the class folder's name; others keep the
    class their own name states, all of it. Numbers count through all folders, and in each in the
    order of the names. The extension follows the content: a JPEG never becomes ``.png``. Links are
    renamed, not what they lead to. Hidden files, and what is no picture, are left as they are.

    Raises:
      UsageError: a number or a file type that cannot be.
      DataError: there is nothing to rename, a name gives no class, a new name is taken or too
        long, or a renaming in a folder below was interrupted.
      ResourceError: a folder may not be written.
    """
    if options.index < 0:
        raise UsageError(f"--index is {options.index}", "", "at least 0")
    if options.filetype and options.filetype not in FILE_TYPES:
        raise UsageError(
            f"there is no file type {options.filetype!r}", "--filetype", ", ".join(FILE_TYPES)
        )
    left_out: list[tuple[str, str]] = []
    # Folder by folder, so that the order stays the same under the new names.
    pictures = sorted(
        _pictures(options.folder, left_out),
        key=lambda picture: (os.fsencode(picture.folder), os.fsencode(picture.name)),
    )
    if not pictures:
        raise DataError("there are no pictures to rename in this folder", options.folder, EXPECTED)
    _check_folders(options.folder, {picture.folder for picture in pictures})
    width = len(str(options.index + len(pictures) - 1))
    moves = []
    for number, picture in enumerate(pictures, options.index):
        new = f"{number:0{width}}_{picture.label}{_extension(picture, options.filetype)}"
        if len(os.fsencode(new)) > _MAX_NAME_BYTES:
            raise DataError(
                f"the new name of {picture.name!r} would be longer than {_MAX_NAME_BYTES} bytes",
                options.folder / picture.folder,
                "a shorter class name",
            )
        moves.append(Move(picture.folder, picture.name, new))
    changed = [move for move in moves if move.old != move.new]
    staged = _require_free(options.folder, changed)
    if staged:
        prefix = _hidden_prefix(options.folder, {move.folder for move in changed})
        changed = [move._replace(hidden=f"{prefix}{i}") for i, move in enumerate(changed)]
    return Renaming(
        folder=options.folder,
        moves=tuple(changed),
        unchanged=len(moves) - len(changed),
        classes=dict(sorted(Counter(printable(picture.label) for picture in pictures).items())),
        left_out=tuple(left_out),
        notes=tuple(_notes(options, pictures, left_out)),
        staged=staged,
    )


def plan_of(renaming: Renaming) -> Plan:
    """A preview as a plan, for ``--dry_run``."""
    files = len(renaming.moves) + renaming.unchanged
    return Plan(
        reads=(FileUse(str(renaming.folder), files * _HEAD_BYTES),),
        writes=(FileUse(str(renaming.folder / JOURNAL), _journal_bytes(renaming)),),
        memory=resident_bytes(),
        facts={
            "files": len(renaming.moves),
            "unchanged": renaming.unchanged,
            "classes": renaming.classes,
            "left_out": len(renaming.left_out),
        },
        notes=renaming.notes,
    )


def rename(options: RenameOptions) -> RenameResult:
    """Renames the files, or completes a renaming that was interrupted.

    Raises:
      UsageError, DataError, ResourceError: as ``preview``; or an undo was interrupted, another
        process renames here, or a file cannot be renamed.
    """
    _require_folder(options.folder)
    with FolderLock(options.folder):
        journal = Journal.load(options.folder)
        if journal is not None and journal.unfinished:
            if journal.backwards:
                raise DataError(
                    "an undo of the last renaming was interrupted", options.folder, "--undo"
                )
            return RenameResult("completed", journal.moves, tuple(journal.forward()))
        renaming = preview(options)
        if not renaming.moves:
            return RenameResult("nothing", renaming=renaming)
        require_space(options.folder, _journal_bytes(renaming), "the journal")
        journal = Journal.create(options.folder, renaming.moves, renaming.staged)
        return RenameResult("renamed", renaming.moves, tuple(journal.forward()), renaming)


def undo(folder: Path) -> RenameResult:
    """Gives the files of the last renaming their old names back, byte for byte.

    Raises:
      UsageError: nothing was renamed here, or it is undone already.
      DataError: an old name is taken by another file.
      ResourceError: another process renames here, or a file cannot be renamed.
    """
    _require_folder(folder)
    with FolderLock(folder):
        journal = _undoable(folder)
        return RenameResult("undone", journal.moves, tuple(journal.back()))


def plan_undo(folder: Path) -> Plan:
    """What ``undo`` would do, for ``--dry_run`` (see ``undo``)."""
    _require_folder(folder)
    journal = _undoable(folder)
    journal_file = FileUse(str(folder / JOURNAL), os.path.getsize(folder / JOURNAL))
    return Plan(
        reads=(journal_file,),
        writes=(journal_file,),
        memory=resident_bytes(),
        facts={"files": len(journal.moves), "names": journal.places()},
    )


def pending(folder: Path) -> Journal | None:
    """The journal of a renaming or an undo that was interrupted; None if there is none.

    Raises:
      DataError: there is no such folder, or its journal is damaged.
    """
    _require_folder(folder)
    journal = Journal.load(folder)
    return journal if journal is not None and journal.unfinished else None


def names_json(moves: Sequence[Move]) -> list[dict[str, str]]:
    """Old and new names as JSON-able data; odd characters are escaped."""
    return [
        {"folder": printable(m.folder), "old": printable(m.old), "new": printable(m.new)}
        for m in moves
    ]


def left_out_json(renaming: Renaming) -> list[dict[str, str]]:
    """What is left as it is, as JSON-able data."""
    return [
        {"path": printable(name), "reason": printable(reason)} for name, reason in renaming.left_out
    ]


def describe(renaming: Renaming) -> str:
    """A preview for people."""
    lines = [
        f"{len(renaming.moves)} files get new names, {renaming.unchanged} have theirs already, "
        f"{len(renaming.left_out)} are left as they are"
    ]
    lines += [
        f"  {printable(os.path.join(move.folder, move.old))} → {printable(move.new)}"
        for move in renaming.moves[:SHOWN]
    ]
    if len(renaming.moves) > SHOWN:
        lines.append(f"  and {len(renaming.moves) - SHOWN} more")
    counts = ", ".join(f"{name} {count}" for name, count in renaming.classes.items())
    return "\n".join([*lines, f"classes: {counts}"])


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise DataError("there is no such folder", folder, "check the path")


def _refuse_pending(journal: Journal | None) -> None:
    if journal is not None and journal.unfinished:
        raise DataError("a renaming in this folder was interrupted", journal.root, COMPLETE_OR_UNDO)


def _undoable(folder: Path) -> Journal:
    journal = Journal.load(folder)
    if journal is None or journal.mark == UNDONE:
        state = "nothing was renamed here" if journal is None else "that is undone already"
        raise UsageError(f"there is no renaming to undo, {state}", folder)
    new = {(move.folder, move.new) for move in journal.moves}
    taken = [
        move.old
        for move in journal.moves
        if not journal.unfinished
        and (move.folder, move.old) not in new
        and os.path.lexists(os.path.join(folder, move.folder, move.old))
    ]
    if taken:
        raise DataError(
            f"{len(taken)} of the old names are taken by other files, such as {taken[0]!r}",
            folder,
            "move these away",
        )
    return journal


def _pictures(folder: Path, left_out: list[tuple[str, str]]) -> Iterator[_Picture]:
    """The pictures below a folder, each with its class."""
    _require_folder(folder)
    parts = _parts(folder)
    class_folders = {part: _folders(folder / part) for part in parts}

    def leave_out(name: str, reason: str) -> None:
        if name not in OWN_FILES:
            left_out.append((name, reason))

    for entry in walk_images(folder, leave_out):
        file_format = "" if entry.problem else _format(entry.path)
        if not file_format:
            left_out.append((entry.name, entry.problem or "no picture of a known format"))
            continue
        part, inside = _split(entry.name, parts)
        if part not in class_folders:
            left_out.append((entry.name, "beside the folders " + ", ".join(parts)))
            continue
        label = _label(inside, part, class_folders[part], folder)
        if not label:
            left_out.append((entry.name, "not in a class folder"))
            continue
        where, _, name = entry.name.rpartition("/")
        yield _Picture(entry.path, where, name, label, file_format)


def _parts(folder: Path) -> tuple[str, ...]:
    """The folders of a data set (train, test, unlabeled) where it is one; else one empty text.

    Raises:
      UsageError: it seems to be one, but has other folders too.
    """
    found = _folders(folder)
    others = found - _LABELED_PARTS - _UNLABELED_PARTS
    if found & {"train", "test"} and others and any(_folders(folder / p) for p in found - others):
        # Its parts would be taken for classes, and their classes be lost.
        raise UsageError(
            f"{', '.join(sorted(found - others))} look like the parts of a data set, but there is "
            f"{min(others)!r} beside them",
            folder,
            f"--targetdir={folder / min(found - others)}, a part at a time",
        )
    return tuple(sorted(found)) if found & {"train", "test"} and not others else ("",)


def _folders(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as scan:
            return frozenset(
                child.name
                for child in scan
                if child.is_dir(follow_symlinks=False) and not is_junk(child.name)
            )
    except OSError as error:
        raise resource_error(error, folder) from error


def _split(name: str, parts: Sequence[str]) -> tuple[str, str]:
    """The part of the data set a file belongs to, and its name below that."""
    if parts == ("",):
        return "", name
    part, separator, inside = name.partition("/")
    return (part, inside) if separator else ("/", name)


def _label(inside: str, part: str, class_folders: frozenset[str], folder: Path) -> str:
    """The class of a picture; empty where it lies beside the class folders."""
    first, separator, _ = inside.partition("/")
    if separator:
        return first
    numbered = FLAT_NAME.fullmatch(inside)
    name = part or os.path.basename(os.path.realpath(folder))
    unlabeled = name in _UNLABELED_PARTS
    if class_folders and not unlabeled:
        if numbered:
            raise DataError(
                f"the file {inside!r} lies beside the class folders",
                folder / part,
                EXPECTED + ", not both",
            )
        return ""
    if numbered:
        return numbered["name"]
    if unlabeled:
        return name
    raise DataError(f"the file name {inside!r} gives no class", folder / part, EXPECTED)


def _format(path: str) -> str:
    """The format of a picture by its first bytes; empty if they are of none."""
    try:
        # Without O_NONBLOCK, opening a pipe that took the file's place would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            head = file.read(_HEAD_BYTES) or b""
    except OSError:
        return ""
    for start, name in (
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"\xff\xd8\xff", "JPEG"),
        (b"GIF8", "GIF"),
        (b"BM", "BMP"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"II+\0", "TIFF"),
        (b"MM\0+", "TIFF"),
    ):
        if head.startswith(start):
            return name
    return "WEBP" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else ""


def _extension(picture: _Picture, filetype: str) -> str:
    wanted = f".{filetype}"
    if _FORMAT_OF.get(wanted) == picture.format:
        return wanted
    own = os.path.splitext(picture.name)[1].lower()
    if _FORMAT_OF.get(own) == picture.format:
        return own
    return next(usual for usual, name in _FORMAT_OF.items() if name == picture.format)


def _notes(
    options: RenameOptions, pictures: Sequence[_Picture], left_out: Sequence[tuple[str, str]]
) -> Iterator[str]:
    journal = Journal.load(options.folder)
    if journal is not None and journal.mark == DONE:
        yield "only the last renaming can be taken back, after this one no longer the one before"
    wanted = _FORMAT_OF.get(f".{options.filetype}")
    if wanted:
        others = Counter(p.format for p in pictures if p.format != wanted)
        for name, count in sorted(others.items()):
            yield f"{count} files are {name} pictures and have the extension of these"
    wrong = [
        picture.name
        for picture in pictures
        if _FORMAT_OF.get(os.path.splitext(picture.name)[1].lower()) != picture.format
    ]
    if wrong:
        yield f"{len(wrong)} files are of another format than their names say, such as {wrong[0]!r}"
    shown = [item for item in left_out if not is_junk(item[0].rpartition("/")[2])]
    if shown:
        yield (
            f"{len(shown)} files or folders are left as they are, such as {shown[0][0]!r}: "
            f"{shown[0][1]}"
        )


def _check_folders(root: Path, folders: set[str]) -> None:
    """Checks that the folders may be written and that none has an interrupted renaming."""
    for folder in sorted(folders):
        path = root / folder
        # Asked, not tried as ``require_writable`` does: a preview touches nothing of the user's.
        if not os.access(path, os.W_OK | os.X_OK):
            raise ResourceError("this folder may not be written", path, "another user, or a copy")
        above = path
        while above != root:
            if os.path.lexists(above / JOURNAL):
                _refuse_pending(Journal.load(above))
            above = above.parent


def _require_free(root: Path, moves: Sequence[Move]) -> bool:
    """Whether new names are old ones of other files, so that hidden names are needed.

    Raises:
      DataError: new names are taken by files that keep theirs.
    """
    old = {(move.folder, alike(move.old)) for move in moves}
    moving = {(move.folder, move.old) for move in moves}
    others = {
        (folder, alike(name))
        for folder in {move.folder for move in moves}
        for name in _listed(root / folder)
        if (folder, name) not in moving
    }
    new = [(move.folder, alike(move.new)) for move in moves]
    taken = [os.path.join(m.folder, m.new) for m, key in zip(moves, new, strict=True)
             if key in others]  # fmt: skip
    if taken:
        raise DataError(
            f"{len(taken)} of the new names are taken by files that are not renamed, such as "
            f"{taken[0]!r}",
            root,
            "move these away, or another --index",
        )
    return not old.isdisjoint(new)


def _hidden_prefix(root: Path, folders: set[str]) -> str:
    """The beginning of names that no file has."""
    names = {name for folder in folders for name in _listed(root / folder)}
    attempt = 0
    while True:
        prefix = f"{TEMPORARY_PREFIX}rename{attempt}-"
        if not any(name.startswith(prefix) for name in names):
            return prefix
        attempt += 1


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise resource_error(error, folder) from error


def _journal_bytes(renaming: Renaming) -> int:
    # Characters that are not ASCII take up to six bytes there.
    return sum(_JOURNAL_LINE + 6 * sum(map(len, move[:4])) for move in renaming.moves)
