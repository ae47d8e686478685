"""The published archives read member by member: nothing is extracted, nothing is unpickled.

Memory is bounded by the size of a block, not by that of an archive. All that is read is checked
against what the published file is known to hold before memory is taken for it.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import posixpath
import struct
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from realmix_tf.errors import DataError
from realmix_tf.files import resource_error

BLOCK_BYTES = 1 << 20
MAX_MEMBERS = 1000
MAX_MEMBER_BYTES = 4 << 30
SMALL_BYTES = 1 << 20  # members up to this size are kept when they are passed

# Before a member stand its headers; a name in them can be long, but not this long.
_HEADER_BYTES = 1 << 20
_CUT = "the archive is cut short or damaged"
_AGAIN = "fetch the archive again"

UInt8Array = NDArray[np.uint8]


def rows_of_block(row_bytes: int) -> int:
    """How many rows of this many bytes are read at once."""
    return max(BLOCK_BYTES // row_bytes, 1)


class _Readable(Protocol):
    def read(self, count: int, /) -> bytes:
        """At most ``count`` bytes; none at the end."""


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns what the decoders raise about a damaged file into the error that names it."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError, struct.error) as error:
        raise DataError(_CUT, path, _AGAIN) from error
    except OSError as error:
        raise resource_error(error, path) from error


def _exactly(stream: _Readable, count: int) -> bytes:
    """``count`` bytes, which must be there."""
    parts: list[bytes] = []
    while count:
        part = stream.read(min(count, BLOCK_BYTES))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _blocks(stream: _Readable, count: int, row_bytes: int) -> Iterator[UInt8Array]:
    """``count`` rows as uint8 [n, row_bytes], some at a time."""
    step = rows_of_block(row_bytes)
    for first in range(0, count, step):
        rows = min(step, count - first)
        yield np.frombuffer(_exactly(stream, rows * row_bytes), np.uint8).reshape(rows, row_bytes)


class TarArchive:
    """A ``.tar.gz`` archive of one folder of files, read as a stream.

    Members are asked for by their names within the folder, best in the archive's own order: going
    back means to decompress from the beginning. Small members are kept when they are passed.
    Names are only compared, never used as paths. Every member that is passed must be a folder or a
    plain file, within the archive's folder and of a sensible size.

    Args:
      path: the archive.
      folder: the folder that all members lie in.

    Raises:
      DataError: the archive is damaged, or has a member that must not be there.
    """

    def __init__(self, path: Path, folder: str) -> None:
        self._path, self._folder = path, folder
        self._small: dict[str, bytes] = {}
        self._gzip: gzip.GzipFile | None = None
        self._tar: tarfile.TarFile | None = None
        self._limit = _Limited(path)
        self._passed = 0

    def __enter__(self) -> TarArchive:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the archive."""
        if self._tar is not None:
            self._tar.close()
        if self._gzip is not None:
            self._gzip.close()
        self._tar = self._gzip = None

    def content(self, name: str) -> bytes:
        """The whole of a small member.

        Raises:
          DataError: there is none, or it is larger than ``SMALL_BYTES``.
        """
        if name not in self._small:
            with _naming(self._path):
                member = self._find(name)
            if name not in self._small:
                raise self._error(f"the member {name!r} has {member.size} bytes")
        return self._small[name]

    def lines(self, name: str) -> tuple[str, ...]:
        """The lines of a small text member, without empty ones.

        Raises:
          DataError: as ``content``, or it is not ASCII.
        """
        try:
            text = self.content(name).decode("ascii")
        except UnicodeDecodeError as error:
            raise self._error(f"the member {name!r} is not a text") from error
        return tuple(line.strip() for line in text.splitlines() if line.strip())

    def rows(self, name: str, count: int, row_bytes: int) -> Iterator[UInt8Array]:
        """A member that is ``count`` rows of ``row_bytes`` bytes, as blocks uint8 [n, row_bytes].

        Raises:
          DataError: there is no such member, or it has another size.
        """
        with _naming(self._path):
            member = self._find(name, streamed=True)
            if member.size != count * row_bytes:
                raise self._error(
                    f"the member {name!r} has {member.size} bytes instead of {count * row_bytes}"
                )
            stream = self._tar.extractfile(member) if self._tar is not None else None
            if stream is None:
                raise self._error(f"the member {name!r} is not a file")
            yield from _blocks(stream, count, row_bytes)

    def _find(self, name: str, streamed: bool = False) -> tarfile.TarInfo:
        """Goes on to a member; from the beginning if it was passed already."""
        fresh = self._tar is None
        while True:
            member = self._next()
            if member is None:
                self.close()
                if fresh:
                    raise self._error(f"the archive has no member {name!r}")
                fresh = True
                continue
            own = self._own_name(member)
            if own and member.size <= SMALL_BYTES and not (streamed and own == name):
                self._remember(own, member)
            if own == name:
                return member

    def _remember(self, name: str, member: tarfile.TarInfo) -> None:
        stream = self._tar.extractfile(member) if self._tar is not None else None
        if stream is not None:
            self._small.setdefault(name, _exactly(stream, member.size))

    def _next(self) -> tarfile.TarInfo | None:
        if self._tar is None:
            self._gzip = gzip.open(self._path, "rb")  # noqa: SIM115 (close() does)
            self._limit.restart(self._gzip)
            self._passed = 0
            self._tar = tarfile.open(  # type: ignore[call-overload] # noqa: SIM115
                fileobj=self._limit, mode="r|"
            )
        member: tarfile.TarInfo | None = self._tar.next()
        if member is not None:
            self._check(member)
        # The content of this member and the headers of the next one.
        self._limit.allowed = self._tar.offset + _HEADER_BYTES
        return member

    def _check(self, member: tarfile.TarInfo) -> None:
        self._passed += 1
        if self._passed > MAX_MEMBERS:
            raise self._error(f"the archive has more than {MAX_MEMBERS} members")
        path = posixpath.normpath(member.name)
        if path.startswith("/") or ".." in member.name.split("/"):
            raise self._error(f"the member {member.name!r} leads out of the archive")
        if not (member.isreg() or member.isdir()):
            raise self._error(f"the member {member.name!r} is a link or a device")
        if not 0 <= member.size <= MAX_MEMBER_BYTES:
            raise self._error(f"the member {member.name!r} has {member.size} bytes")

    def _own_name(self, member: tarfile.TarInfo) -> str:
        """The name within the folder; empty for what is no file directly in it."""
        folder, _, name = posixpath.normpath(member.name).rpartition("/")
        return name if member.isreg() and folder == self._folder else ""

    def _error(self, what: str) -> DataError:
        return DataError(what, self._path, _AGAIN)


class _Limited:
    """A stream that ends with an error when more is read of it than was allowed.

    The header of a member may say that its name is gigabytes long; the tar reader would take that
    much memory for it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: _Readable | None = None
        self._read = 0
        self.allowed = 0

    def restart(self, stream: _Readable) -> None:
        """Begins a new stream, of which the first headers may be read."""
        self._stream, self._read, self.allowed = stream, 0, _HEADER_BYTES

    def read(self, count: int) -> bytes:
        """At most ``count`` bytes."""
        data = b"" if self._stream is None else self._stream.read(count)
        self._read += len(data)
        if self._read > self.allowed:
            raise DataError("the header of a member is too long", self._path, _AGAIN)
        return data


def idx_rows(path: Path, shape: tuple[int, ...]) -> Iterator[UInt8Array]:
    """A gzipped IDX file of bytes, as MNIST introduced it, as blocks uint8 [n, bytes of a row].

    Args:
      path: the file.
      shape: what it must hold: rows, and the sizes of a row.

    Raises:
      DataError: it holds something else, is damaged, or has more bytes than it announces.
    """
    with _naming(path), gzip.open(path, "rb") as stream:
        # Two zeros, the type (8 is bytes), the number of dimensions.
        if _exactly(stream, 4) != bytes((0, 0, 8, len(shape))):
            raise DataError("this is no IDX file of the expected kind", path, _AGAIN)
        found = struct.unpack(f">{len(shape)}I", _exactly(stream, 4 * len(shape)))
        if found != shape:
            raise DataError(f"the file holds {found} values, expected {shape}", path, _AGAIN)
        yield from _blocks(stream, shape[0], int(np.prod(shape[1:], dtype=np.int64)))
        if stream.read(1):
            raise DataError("the file has bytes after its end", path, _AGAIN)


# MATLAB 5 files: https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
_MI_MATRIX, _MI_COMPRESSED = 14, 15
_MI_DTYPES = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8"}
_MX_DOUBLE, _MX_UINT8 = 6, 9
_COMPLEX = 0x0800
_MAX_VARIABLES = 100
_MAX_DIMENSIONS = 8


@dataclass(frozen=True)
class _Variable:
    """Where a variable of a .mat file stands: its element's place, compressed or not; its shape."""

    start: int
    size: int
    compressed: bool
    kind: int
    shape: tuple[int, ...]


class MatFile:
    """A MATLAB 5 ``.mat`` file of plain numeric arrays, compressed or not, read as a stream.

    Only what SVHN's files have is understood: little-endian real arrays of bytes and doubles.

    Args:
      path: the file.

    Raises:
      DataError: it is no such file, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _naming(path), open(path, "rb") as file:
            self._variables = self._scan(file)

    def rows(self, name: str, shape: tuple[int, ...]) -> Iterator[UInt8Array]:
        """A byte array along its last dimension: blocks uint8 [n, ...] of its slices.

        MATLAB stores arrays with the first dimension running fastest, so the slices of the last
        one follow each other, and a slice comes with its dimensions reversed: an array of shape
        [32, 32, 3, N] gives blocks [n, 3, 32, 32].

        Args:
          name: of the variable.
          shape: the shape it must have.

        Raises:
          DataError: there is no such variable, it has another type or shape, or is damaged.
        """
        variable = self._variable(name, shape, _MX_UINT8)
        row = int(np.prod(shape[:-1], dtype=np.int64))
        with _naming(self._path), open(self._path, "rb") as file:
            dtype, size, stream = self._content(self._opened(file, variable))
            if dtype != "u1" or size != row * shape[-1]:
                raise self._error(f"the variable {name!r} is not stored as bytes")
            for block in _blocks(stream, shape[-1], row):
                yield block.reshape(-1, *shape[-2::-1])

    def column(self, name: str, count: int) -> NDArray[np.int64]:
        """A column [count, 1] of whole numbers, as int64 [count].

        Raises:
          DataError: there is no such variable, or it holds something else.
        """
        variable = self._variable(name, (count, 1), _MX_UINT8, _MX_DOUBLE)
        with _naming(self._path), open(self._path, "rb") as file:
            # Doubles that are whole numbers are stored in fewer bytes.
            dtype, size, stream = self._content(self._opened(file, variable))
            if size != count * np.dtype(dtype).itemsize:
                raise self._error(f"the variable {name!r} has {size} bytes")
            values = np.frombuffer(_exactly(stream, size), dtype)
        with np.errstate(invalid="ignore"):
            whole = values.astype(np.int64)
        if (whole != values).any():
            raise self._error(f"the variable {name!r} has values that are not whole numbers")
        return whole

    def _scan(self, file: IO[bytes]) -> dict[str, _Variable]:
        header = _exactly(file, 128)
        if header[124:128] != b"\x00\x01IM":
            raise self._error("this is not a MATLAB 5 file")
        variables: dict[str, _Variable] = {}
        while head := file.read(8):
            if len(head) < 8:
                raise EOFError
            kind, size = struct.unpack("<II", head)
            start = file.tell()
            if kind not in (_MI_MATRIX, _MI_COMPRESSED) or len(variables) >= _MAX_VARIABLES:
                raise self._error("the file has elements other than arrays")
            where = _Variable(start, size, kind == _MI_COMPRESSED, 0, ())
            stream = self._element(file, where)
            name, number_type, shape = self._heads(stream)
            variables[name] = _Variable(start, size, where.compressed, number_type, shape)
            file.seek(start + size)
        return variables

    def _element(self, file: IO[bytes], variable: _Variable) -> _Readable:
        """The inside of an array's element."""
        file.seek(variable.start)
        if not variable.compressed:
            return file
        stream = _Inflated(file, variable.size)
        kind, _ = struct.unpack("<II", _exactly(stream, 8))
        if kind != _MI_MATRIX:
            raise self._error("the file has elements other than arrays")
        return stream

    def _heads(self, stream: _Readable) -> tuple[str, int, tuple[int, ...]]:
        """Reads what stands before an array's numbers: name, type of numbers, shape."""
        flags = struct.unpack("<II", self._small(stream, 6, 8))[0]
        dimensions = self._small(stream, 5, 4 * _MAX_DIMENSIONS)
        shape = struct.unpack(f"<{len(dimensions) // 4}i", dimensions)
        name = self._small(stream, 1, 64).decode("ascii", "replace")
        kind = flags & 0xFF
        return name, kind if not flags & _COMPLEX else -kind, shape

    def _small(self, stream: _Readable, kind: int, most: int) -> bytes:
        """The data of a sub-element of the header, with its padding passed."""
        found, size, data = self._tag(stream)
        if found != kind or size > most:
            raise self._error("the head of an array is damaged")
        return data or _exactly(stream, -(-size // 8) * 8)[:size]

    def _tag(self, stream: _Readable) -> tuple[int, int, bytes]:
        """Type and size of the next sub-element, and its data where they stand in the tag."""
        head = _exactly(stream, 8)
        first, size = struct.unpack("<II", head)
        if first >> 16:
            size = first >> 16
            if size > 4:
                raise self._error("the head of an array is damaged")
            return first & 0xFFFF, size, head[4 : 4 + size]
        return first, size, b""

    def _variable(self, name: str, shape: tuple[int, ...], *kinds: int) -> _Variable:
        variable = self._variables.get(name)
        if variable is None:
            raise self._error(f"the file has no variable {name!r}")
        if variable.kind not in kinds or variable.shape != shape:
            raise self._error(
                f"the variable {name!r} has the shape {variable.shape}, expected {shape}, or "
                "another type of numbers than expected"
            )
        return variable

    def _opened(self, file: IO[bytes], variable: _Variable) -> _Readable:
        """A stream that stands before an array's numbers."""
        stream = self._element(file, variable)
        self._heads(stream)
        return stream

    def _content(self, stream: _Readable) -> tuple[str, int, _Readable]:
        """How the numbers that follow are stored, in how many bytes, and the stream of them."""
        kind, size, data = self._tag(stream)
        if kind not in _MI_DTYPES:
            raise self._error("the numbers of an array are stored in an unknown way")
        return _MI_DTYPES[kind], size, io.BytesIO(data) if data else stream

    def _error(self, what: str) -> DataError:
        return DataError(what, self._path, _AGAIN)


class _Inflated:
    """The decompressed content of ``size`` bytes of a file, a bounded piece at a time."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size
        self._inflate = zlib.decompressobj()

    def read(self, count: int) -> bytes:
        """At most ``count`` bytes; none at the end."""
        while not self._inflate.eof:
            source = self._inflate.unconsumed_tail
            if not source:
                source = self._file.read(min(self._left, 1 << 16))
                self._left -= len(source)
                if not source:
                    raise EOFError
            data = self._inflate.decompress(source, count)
            if data:
                return data
        return b""
