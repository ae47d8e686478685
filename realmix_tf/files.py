"""Files that appear under their names only when complete, and locks.

Every output of the project goes through this module: written under a temporary name in the same
folder, flushed to the disk, renamed, and the folder flushed too. A reader therefore sees either
the whole file or none, also after a kill or a power cut.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from realmix_tf.errors import DataError, RealmixError, ResourceError

TEMPORARY_PREFIX = ".tmp-"

_RESOURCE_ERRNOS = {
    errno.ENOSPC: "no space left on the disk",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
    errno.EMFILE: "too many open files",
    errno.ENOMEM: "out of memory",
    errno.EFBIG: "the file grew past a size limit",
}


def resource_error(error: OSError, path: object) -> RealmixError:
    """Turns an ``OSError`` into the error a user reads, naming ``path``."""
    if isinstance(error, FileNotFoundError):
        return DataError("there is no such file or folder", path, "check the path")
    reason = _RESOURCE_ERRNOS.get(error.errno or 0, error.strerror or str(error))
    remedy = "free some space or choose another folder" if error.errno == errno.ENOSPC else ""
    return ResourceError(reason, path, remedy)


def temporary_beside(path: Path) -> Path:
    """A name in the same folder as ``path`` that this process alone uses."""
    return path.with_name(f"{TEMPORARY_PREFIX}{path.name}.{os.getpid()}")


def sync_directory(path: Path) -> None:
    """Flushes a folder's entries to the disk, so that a rename survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Opens a binary file that becomes ``path`` when the block ends without an exception.

    Raises:
      ResourceError: the disk is full, read-only, or may not be written; nothing is left behind.
    """
    target = Path(path)
    temporary = temporary_beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        sync_directory(target.parent)
    except OSError as error:
        raise resource_error(error, target) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def open_exclusively(
    path: str | os.PathLike[str], target: object, doing: str = "writing this file"
) -> int:
    """Opens, or makes, a file that only one process has at a time; the kernel's lock decides.

    Args:
      path: usually a temporary name, which its holder may rename.
      target: the file it will become, for the message.
      doing: what the other process does.

    Returns:
      The file descriptor, for reading and writing; the content is left as it is.

    Raises:
      ResourceError: another process has it.
      OSError: it cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        descriptor = os.open(path, flags, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file may have been renamed between opening and locking it.
            if _is_at(descriptor, path):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise ResourceError(
                f"another process is {doing}", target, "wait for it to end"
            ) from error
        os.close(descriptor)


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Opens an existing file for reading, in binary; its caller closes it.

    Opening a pipe would wait for a writer for ever, and a device may have no end.

    Raises:
      DataError: there is no such file, or it is a folder, a pipe, a socket or a device.
      ResourceError: it may not be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):  # a socket, or a device that is not there
            raise _not_regular(path) from error
        raise resource_error(error, path) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular(path)
    return open(descriptor, "rb")


def _not_regular(path: object) -> DataError:
    return DataError("this is not a regular file", path, "check the path")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


def remove(path: str | os.PathLike[str]) -> None:
    """Removes a file, if it is there, so that a power cut does not bring it back.

    Raises:
      ResourceError: it cannot be removed.
    """
    try:
        os.unlink(path)
        sync_directory(Path(path).parent)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise resource_error(error, path) from error


def json_text(value: Any, indent: int | None = 2) -> str:
    """JSON with sorted keys; non-finite numbers become ``null`` (JSON has no NaN)."""
    return json.dumps(_finite(value), indent=indent, sort_keys=True, allow_nan=False)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes ``value`` as JSON atomically, with sorted keys and a final newline."""
    write_text(path, json_text(value) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file.

    Raises:
      DataError: the file is missing, no regular file, cut short or not JSON.
      ResourceError: it may not be read.
    """
    try:
        with open_regular(path) as file:
            return json.loads(file.read().decode("utf-8"))
    except OSError as error:
        raise resource_error(error, path) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"this is not a readable JSON file: {error}", path) from error


def sha256_file(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's content in hexadecimal.

    Raises:
      DataError: the file is missing or no regular file.
      ResourceError: it may not be read.
    """
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise resource_error(error, path) from error
    return digest.hexdigest()


def require_space(folder: str | os.PathLike[str], needed_bytes: int, purpose: str) -> None:
    """Refuses work whose output cannot fit.

    Raises:
      ResourceError: fewer than ``needed_bytes`` are free where ``folder`` is or will be.
    """
    free = free_bytes(folder)
    if free < needed_bytes:
        raise ResourceError(
            f"{purpose} needs about {human_bytes(needed_bytes)}, only {human_bytes(free)} is free",
            folder,
            "free some space or choose another folder",
        )


def require_writable(folder: str | os.PathLike[str]) -> None:
    """Checks, before hours of work, that files can be made where ``folder`` is or will be.

    The folder itself is not made.

    Raises:
      ResourceError: they cannot.
    """
    existing = _existing(folder)
    probe = existing / f"{TEMPORARY_PREFIX}probe.{os.getpid()}"
    try:
        probe.touch()
    except OSError as error:
        raise resource_error(error, folder) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def free_bytes(folder: str | os.PathLike[str]) -> int:
    """Bytes free where ``folder`` is or will be."""
    return shutil.disk_usage(_existing(folder)).free


def human_bytes(count: float) -> str:
    """``1536`` → ``1.5 KiB``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


_HOLDER = b"process "


class FolderLock:
    """One writer per folder: a lock file that names its holder and is removed with its lock.

    The kernel's advisory lock is what counts, so a lock left by a killed process never blocks.

    Args:
      folder: the folder to own; created if missing.

    Raises:
      ResourceError: on entering, when another process holds the lock (it names that process), or
        the lock file cannot be made.
      DataError: on entering, when a file of other content has its name.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._path = Path(folder) / ".lock"
        self._descriptor = -1

    def __enter__(self) -> FolderLock:
        # Neither a link nor a pipe of this name leads or waits anywhere.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            while self._descriptor < 0:
                descriptor = os.open(self._path, flags, 0o666)
                try:
                    self._own(descriptor)
                finally:
                    if self._descriptor < 0:
                        os.close(descriptor)
        except OSError as error:
            self.__exit__()
            raise resource_error(error, self._path) from error
        return self

    def _own(self, descriptor: int) -> None:
        """Locks the file, unless its last holder has removed it meanwhile."""
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _not_regular(self._path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            raise ResourceError(
                f"this folder is in use by {holder or 'another process'}",
                self._path.parent,
                "wait for it to end, or choose another folder",
            ) from error
        if not _is_at(descriptor, self._path):
            return
        # It is going to be removed, so it must be a lock.
        if os.pread(descriptor, len(_HOLDER), 0) not in (b"", _HOLDER):
            raise DataError("a file that is no lock has this name", self._path, "move it away")
        self._descriptor = descriptor
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _HOLDER + f"{os.getpid()} on {socket.gethostname()}\n".encode())

    def __exit__(self, *exception: object) -> None:
        if self._descriptor < 0:
            return
        # Removed while it is held: who opened it before sees that it is gone.
        with contextlib.suppress(OSError):
            if _is_at(self._descriptor, self._path):
                os.unlink(self._path)
        os.close(self._descriptor)
        self._descriptor = -1


def _is_at(descriptor: int, path: str | os.PathLike[str]) -> bool:
    """Whether an open file is the one that has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _existing(folder: str | os.PathLike[str]) -> Path:
    path = Path(folder).absolute()
    while not path.exists():
        path = path.parent
    return path


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    return value
