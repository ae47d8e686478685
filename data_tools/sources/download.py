"""Archives of published datasets: found on the disk or downloaded, and always checked.

An archive is used only when its size and its SHA-256 are the published ones, so it does not matter
which server, mirror or proxy it came through. A download grows under a hidden name, which an
interrupted one keeps, and continues there.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import re
import socket
import ssl
import stat
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from data_tools.progress import Progress
from realmix_tf.errors import DataError, ResourceError, UsageError
from realmix_tf.files import (
    TEMPORARY_PREFIX,
    human_bytes,
    open_exclusively,
    open_regular,
    require_space,
    resource_error,
    sync_directory,
)
from realmix_tf.version import __version__

PROBE_SECONDS = 3.0
LONGEST_PAUSE = 16  # seconds between two attempts

_BLOCK = 1 << 18
_HASH_BLOCK = 1 << 20
# An attempt that brought this much was no failure in a row: long downloads over a bad line end.
_WORTHWHILE = 1 << 20
# A server that sends less than this on average over a whole time limit is taken for stuck.
_LEAST_RATE = 100  # bytes a second
_TEMPORARY_CODES = (408, 425, 429, 500, 502, 503, 504)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_INSTEAD = "--archive_dir=FOLDER with the published file, or --mirror=URL"


@dataclass(frozen=True)
class Archive:
    """A published file.

    Attributes:
      name: its file name.
      urls: where it is published, in the order to try.
      size: in bytes.
      sha256: in hexadecimal.
    """

    name: str
    urls: tuple[str, ...]
    size: int
    sha256: str


def _silent(message: str) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class Access:
    """How archives may be had.

    Attributes:
      offline: the network is not touched.
      archive_dir: a folder with archives that the user has; only read.
      mirror: address of a folder to download from instead of the published addresses.
      retries: attempts after a failed one, in a row, at one address.
      timeout: seconds without a byte after which an attempt has failed.
      note: receives remarks, such as that an attempt failed.
    """

    offline: bool = False
    archive_dir: Path | None = None
    mirror: str = ""
    retries: int = 4
    timeout: float = 30.0
    note: Callable[[str], None] = _silent

    def check(self) -> None:
        """Raises ``UsageError`` or ``DataError`` for values that make no sense."""
        if self.retries < 0 or not 0 < self.timeout <= 3600:
            raise UsageError(
                f"retries is {self.retries} and timeout {self.timeout:g}",
                "",
                "--retries=4 (from 0) and --timeout=30 (up to 3600 seconds)",
            )
        if self.archive_dir is not None and not self.archive_dir.is_dir():
            raise DataError("there is no such folder", self.archive_dir, "check --archive_dir")
        if self.mirror:
            _check_mirror(self.mirror)

    def addresses(self, archive: Archive) -> tuple[str, ...]:
        """The addresses to try, in order."""
        if not self.mirror:
            return archive.urls
        return (f"{self.mirror.rstrip('/')}/{quote(archive.name)}",)


def _check_mirror(mirror: str) -> None:
    try:
        parts = urlsplit(mirror)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError(
            "this is not the address of a mirror",
            "--mirror",
            "http:// or https://, a host, and the folder of the archives there, without a password",
        )


def at_hand(archive: Archive, folder: Path, access: Access) -> Path | None:
    """Where the archive lies, by its size alone; None when it has to be downloaded.

    Args:
      archive: what is wanted.
      folder: where downloads are kept.
      access: names the user's own folder, which comes first.

    Raises:
      DataError: the user's own archive has another size.
    """
    for place in _places(archive, folder, access):
        problem = _size_problem(place, archive)
        if not problem:
            return place
        if place.parent != folder:
            raise DataError(problem, place, _INSTEAD)
    return None


def bytes_to_download(archives: Sequence[Archive], folder: Path, access: Access) -> int:
    """How many bytes ``fetch`` would download, what an interrupted one left taken off.

    Raises:
      DataError: one of the user's own archives has another size.
    """
    total = 0
    for archive in archives:
        if at_hand(archive, folder, access) is None:
            partial = _partial(folder / archive.name)
            begun = partial.stat().st_size if partial.is_file() else 0
            total += archive.size - min(begun, archive.size)
    return total


def require_at_hand(archives: Sequence[Archive], folder: Path, access: Access) -> None:
    """Checks that nothing has to be downloaded, where that is not allowed.

    Raises:
      ResourceError: archives are missing; all are named with address and size.
      DataError: one of the user's own archives has another size.
    """
    missing = [archive for archive in archives if at_hand(archive, folder, access) is None]
    if access.offline and missing:
        names = ", ".join(
            f"{archive.name} ({human_bytes(archive.size)}, {archive.urls[0]})"
            for archive in missing
        )
        raise ResourceError(
            f"not on this machine, and --offline forbids to download: {names}",
            "",
            f"put them into {folder}, or --archive_dir=FOLDER where they are",
        )


def fetch(archives: Sequence[Archive], folder: Path, access: Access) -> dict[str, Path]:
    """Gets archives, verified: from the user's folder, from earlier downloads, from the network.

    Args:
      archives: what is wanted.
      folder: where downloads are kept.
      access: how they may be had.

    Returns:
      The path of every archive, by its name.

    Raises:
      ResourceError: no network, no server that has it, or no room for it.
      DataError: what is there or was downloaded is not the published file.
    """
    access.check()
    found: dict[str, Path] = {}
    for archive in archives:
        path = _verified(archive, folder, access)
        if path is not None:
            found[archive.name] = path
    missing = [archive for archive in archives if archive.name not in found]
    require_at_hand(missing, folder, access)
    require_space(
        folder, bytes_to_download(missing, folder, access), f"{len(missing)} archives"
    )  # fmt: skip
    for archive in missing:
        found[archive.name] = _download(archive, folder, access)
    return found


def discard(archives: Sequence[Archive], folder: Path) -> None:
    """Removes downloaded archives."""
    for archive in archives:
        with contextlib.suppress(FileNotFoundError):
            (folder / archive.name).unlink()


def _places(archive: Archive, folder: Path, access: Access) -> list[Path]:
    folders = [folder] if access.archive_dir is None else [access.archive_dir, folder]
    return [place for each in folders if (place := each / archive.name).exists()]


def _size_problem(path: Path, archive: Archive) -> str:
    try:
        status = path.stat()
    except OSError as error:
        raise resource_error(error, path) from error
    if not stat.S_ISREG(status.st_mode):
        return "this is not a regular file"
    if status.st_size != archive.size:
        return f"the archive has {status.st_size} bytes, the published one {archive.size}"
    return ""


def _verified(archive: Archive, folder: Path, access: Access) -> Path | None:
    for place in _places(archive, folder, access):
        problem = _size_problem(place, archive) or _digest_problem(place, archive)
        if not problem:
            return place
        if place.parent != folder:
            raise DataError(problem, place, _INSTEAD)
        if access.offline:
            raise DataError(problem, place, f"a run without --offline, or {_INSTEAD}")
        # It is a download of ours; the file stays until its replacement is complete.
        access.note(f"{archive.name}: {problem}; it is downloaded again")
    return None


def _digest_problem(path: Path, archive: Archive) -> str:
    found = _sha256(path, archive)
    if found == archive.sha256:
        return ""
    return f"the archive has the SHA-256 {found}, the published one {archive.sha256}"


def _sha256(path: Path, archive: Archive) -> str:
    """As ``sha256_file``, which says nothing meanwhile; gigabytes take their time."""
    digest = hashlib.sha256()
    try:
        with (
            open_regular(path) as file,
            Progress(archive.size, "B", f"verifying {archive.name}") as progress,
        ):
            while block := file.read(_HASH_BLOCK):
                digest.update(block)
                progress.add(len(block))
    except OSError as error:
        raise resource_error(error, path) from error
    return digest.hexdigest()


class _BrokenError(Exception):
    """An attempt failed that may well succeed the next time."""


class _RefusedError(Exception):
    """This address will not give the archive.

    Attributes:
      altered: it gives something else.
    """

    def __init__(self, reason: str, altered: bool = False) -> None:
        super().__init__(reason)
        self.altered = altered


def _partial(target: Path) -> Path:
    return target.with_name(f"{TEMPORARY_PREFIX}{target.name}.part")


def _download(archive: Archive, folder: Path, access: Access) -> Path:
    target = folder / archive.name
    reasons: list[str] = []
    altered = False
    addresses = access.addresses(archive)
    with _open_partial(target) as file:
        download = _Download(archive, file, _partial(target), access)
        for address in addresses:
            try:
                problem = reach(address)
                if problem:
                    raise _RefusedError(problem)
                download.complete(address)
                download.keep(target)
                return target
            except _RefusedError as error:
                reasons.append(f"{address}: {error}")
                altered |= error.altered
                if len(reasons) < len(addresses):
                    access.note(f"{archive.name}: {reasons[-1]}; the next address is tried")
            except KeyboardInterrupt:
                access.note(f"{archive.name}: what arrived is kept, the same command goes on there")
                raise
    if altered:
        raise DataError(
            f"{archive.name} is not what was published (it changed upstream, or a proxy alters "
            f"it): {'; '.join(reasons)}",
            "",
            _INSTEAD,
        )
    raise ResourceError(
        f"{archive.name} cannot be downloaded: {'; '.join(reasons)}", "", f"later, or {_INSTEAD}"
    )


@contextlib.contextmanager
def _open_partial(target: Path) -> Iterator[io.FileIO]:
    """Opens what an earlier download left, or an empty file; no other process writes it.

    What was received stays for the next time, also after an error; an empty file does not.
    """
    temporary = _partial(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = io.FileIO(open_exclusively(temporary, target, "downloading this archive"), "r+")
    except OSError as error:
        raise resource_error(error, target) from error
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):
            if os.fstat(file.fileno()).st_size == 0:
                temporary.unlink()
                temporary.parent.rmdir()  # if nothing else is there
        file.close()


class _Download:
    """One archive on its way.

    Args:
      archive: what is wanted.
      file: receives it; holds what an earlier download left.
      temporary: the path of ``file``.
      access: limits, and where remarks go.
    """

    def __init__(self, archive: Archive, file: io.FileIO, temporary: Path, access: Access) -> None:
        self._archive, self._file, self._temporary = archive, file, temporary
        self._access = access

    def complete(self, address: str) -> None:
        """Fetches what is missing and verifies the whole.

        Raises:
          _RefusedError: the archive cannot be had at this address.
          ResourceError: it cannot be written.
        """
        if self._size() > self._archive.size:
            self._start_over()
        left_over = self._size()
        if left_over:
            self._note(f"continues after {human_bytes(left_over)}")
        self._attempts(address)
        problem = _digest_problem(self._temporary, self._archive)
        if problem and left_over:
            # What was there may have been of another file.
            self._note("the continued download is damaged; it starts again")
            self._start_over()
            self._attempts(address)
            problem = _digest_problem(self._temporary, self._archive)
        if problem:
            self._start_over()
            raise _RefusedError(problem, altered=True)

    def keep(self, target: Path) -> None:
        """Gives the file its final name, safe from a power cut."""
        try:
            os.fsync(self._file.fileno())
            os.replace(self._temporary, target)
            sync_directory(target.parent)
        except OSError as error:
            raise resource_error(error, target) from error

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _start_over(self) -> None:
        self._file.truncate(0)

    def _note(self, message: str) -> None:
        self._access.note(f"{self._archive.name}: {message}")

    def _attempts(self, address: str) -> None:
        failures, most = 0, self._access.retries + 1
        left = self._archive.size - self._size()
        with Progress(left, "B", f"downloading {self._archive.name}") as progress:
            while True:
                before = self._size()
                try:
                    self._attempt(address, progress)
                    return
                except _BrokenError as error:
                    have = self._size()
                    failures = 1 if have - before >= _WORTHWHILE else failures + 1
                    if failures >= most:
                        raise _RefusedError(f"{error} (attempt {failures}, the last)") from error
                    pause = min(2 ** (failures - 1), LONGEST_PAUSE)
                    self._note(
                        f"{error}, at {human_bytes(have)} of {human_bytes(self._archive.size)}; "
                        f"attempt {failures + 1} of {most} in {pause} s"
                    )
                    time.sleep(pause)

    def _attempt(self, address: str, progress: Progress) -> None:
        """Requests what is missing and appends it.

        Raises:
          _BrokenError: the connection ended or stalled, or the server is busy.
          _RefusedError: the server has no such file, or one of another size.
        """
        have = self._size()
        if have == self._archive.size:
            return
        headers = {"User-Agent": f"realmix-tf/{__version__}", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        request = urllib.request.Request(address, headers=headers)  # noqa: S310 (see _opener)
        try:
            with _opener().open(request, timeout=self._access.timeout) as response:
                start = self._start(response, have)
                self._file.truncate(start)
                self._file.seek(start)
                self._copy(response, self._archive.size - start, progress)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:
                self._start_over()
            reason = f"HTTP status {error.code} {error.reason}".strip()
            temporary = error.code in (416, *_TEMPORARY_CODES)
            raise (_BrokenError if temporary else _RefusedError)(reason) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _network_problem(error, self._access.timeout) from error

    def _start(self, response: Any, have: int) -> int:
        """The position in the archive of the first byte of a response's body."""
        length = response.headers.get("Content-Length", "")
        total: int | None = int(length) if re.fullmatch("[0-9]{1,18}", length) else None
        start = 0
        if have and response.status == 206:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
            if match is None or int(match[1]) != have:
                self._start_over()
                raise _BrokenError("the server continues at another place than was asked for")
            start = have
            total = None if match[3] == "*" else int(match[3])
        elif response.status != 200:
            raise _RefusedError(f"HTTP status {response.status}")
        elif have:
            self._note("this server cannot continue a download; from the start")
        if total not in (None, self._archive.size):
            raise _RefusedError(
                f"the server announces {total} bytes, the published file has {self._archive.size}",
                altered=True,
            )
        return start

    def _copy(self, response: Any, left: int, progress: Progress) -> None:
        since, received = time.monotonic(), 0
        while left:
            # Never more than the archive has, whatever is sent.
            block = response.read1(min(left, _BLOCK))
            if not block:
                raise _BrokenError("the connection ended early")
            self._write(block)
            left -= len(block)
            received += len(block)
            progress.add(len(block))
            elapsed = time.monotonic() - since
            if elapsed > self._access.timeout:
                if received < _LEAST_RATE * elapsed:
                    raise _BrokenError(f"only {received} bytes in {elapsed:.0f} s")
                since, received = time.monotonic(), 0

    def _write(self, block: bytes) -> None:
        rest = memoryview(block)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            # A full disk is not kept full.
            self._start_over()
            raise resource_error(error, self._temporary) from error


def _network_problem(error: Exception, timeout: float) -> Exception:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return _RefusedError(f"the certificate is not valid: {reason.verify_message}")
    if isinstance(reason, TimeoutError):
        return _BrokenError(f"no byte for {timeout:g} s")
    if isinstance(reason, OSError) and reason.strerror:
        return _BrokenError(reason.strerror.lower())
    return _BrokenError(f"{type(reason).__name__}: {reason}")


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections (a bounded number) to web addresses only."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        """Raises ``_RefusedError`` when the redirection leads out of the web."""
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https"):
            raise _RefusedError(f"redirected to an address of the kind {scheme!r}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _opener() -> urllib.request.OpenerDirector:
    """Opens web addresses and nothing else; proxies as the environment says."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _WebRedirects(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


_reached: dict[tuple[str, str, int], str] = {}


def reach(address: str, seconds: float = PROBE_SECONDS) -> str:
    """Connects to the server of a web address, or to the proxy that stands before it.

    Looking up a name cannot be given a time limit, so a thread does it, which is left behind.

    Returns:
      Why there is no connection; empty when there is one. The answer is remembered.
    """
    scheme, host, port = _door(address)
    key = (scheme, host, port)
    if key not in _reached:
        outcome: list[str] = []
        thread = threading.Thread(
            target=lambda: outcome.append(_connect(scheme, host, port, seconds)), daemon=True
        )
        thread.start()
        thread.join(seconds)
        _reached[key] = (outcome or [f"no answer from {host} within {seconds:g} s"])[0]
    return _reached[key]


def _door(address: str) -> tuple[str, str, int]:
    """What to connect to for an address: "tls" or "tcp", host, port."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(host):
        door = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        return "tcp", door.hostname or "", door.port or 80
    secure = parts.scheme == "https"
    return "tls" if secure else "tcp", host, parts.port or (443 if secure else 80)


def _connect(kind: str, host: str, port: int, seconds: float) -> str:
    try:
        with socket.create_connection((host, port), timeout=seconds) as plain:
            if kind == "tls":
                with ssl.create_default_context().wrap_socket(plain, server_hostname=host):
                    pass
    except TimeoutError:
        return f"no answer from {host} within {seconds:g} s"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return f"no connection to {host} ({reason.lower()})"
    return ""
