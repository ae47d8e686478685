"""The files of a folder in a few bytes each, so that the number of pictures hardly costs memory.

A list of a million paths is some 300 MB of Python objects. Here the names lie one after the other
in a file without a name on the disk (in memory while they are few), and 2 bytes each say where.
"""

from __future__ import annotations

import io
import itertools
import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from realmix_tf.data.images import ImageEntry
from realmix_tf.files import resource_error

IN_MEMORY = 1 << 20
_BUFFER = 1 << 16
_STRIDE = 64
_TOGETHER = 1024
_LONGEST = (1 << 16) - 1

Rows = Sequence[int] | NDArray[np.integer]


class Spill:
    """Bytes appended and read back; beyond ``IN_MEMORY`` they lie in a file without a name.

    Such a file cannot be left behind, not even by a killed process.

    Args:
      folder: where the file would be made, along with the folder itself; None: never.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._file: IO[bytes] = io.BytesIO()
        self._on_disk = folder is None
        self._buffer = bytearray()
        self.size = 0

    def append(self, data: bytes) -> None:
        """Adds bytes at the end.

        Raises:
          ResourceError: the disk is full or may not be written.
        """
        self._buffer += data
        self.size += len(data)
        if len(self._buffer) >= _BUFFER:
            self._flush()

    def read(self, start: int, stop: int) -> bytes:
        """The bytes start … stop − 1."""
        if self._buffer:
            self._flush()
        self._file.seek(start)
        return self._file.read(stop - start)

    def close(self) -> None:
        """Gives the bytes up."""
        self._file.close()

    def _flush(self) -> None:
        try:
            if not self._on_disk and self.size > IN_MEMORY and self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
                # Unbuffered: what is read lies far apart.
                file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
                _write_all(file, self._file.getvalue())  # type: ignore[attr-defined]
                self._file, self._on_disk = file, True
            self._file.seek(0, os.SEEK_END)
            _write_all(self._file, self._buffer)
        except OSError as error:
            raise resource_error(error, self._folder or "") from error
        self._buffer.clear()


class Listing:
    """Files of one folder (``ImageEntry``) in the order they were added, readable by position.

    Args:
      root: the folder.
      spill: the folder that may hold the names; None keeps them in memory.
    """

    def __init__(self, root: str | os.PathLike[str], spill: Path | None = None) -> None:
        self.root = os.fsdecode(root)
        self._prefix = os.path.join(self.root, "")
        self._names = Spill(spill)
        self._lengths = array("H")
        # Where every 64th name begins; the lengths say the rest.
        self._starts = array("q")

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[ImageEntry]:
        for start in range(0, len(self), _TOGETHER):
            yield from self.entries(range(start, min(start + _TOGETHER, len(self))))

    def add(self, entry: ImageEntry) -> None:
        """Appends a file.

        Raises:
          ResourceError: the names do not fit on the disk.
        """
        # No name and no reason has a NUL.
        text = f"{entry.name}\0{entry.problem}" if entry.problem else entry.name
        # (A name of more bytes than systems allow could not be opened, however it ends.)
        data = os.fsencode(text)[:_LONGEST]
        if len(self) % _STRIDE == 0:
            self._starts.append(self._names.size)
        self._lengths.append(len(data))
        self._names.append(data)

    def entries(self, rows: Rows) -> list[ImageEntry]:
        """The files at some positions, in the order of these."""
        if not len(rows):
            return []
        first, last = int(rows[0]), int(rows[-1])
        if last - first + 1 == len(rows) and (np.diff(rows) == 1).all():
            lengths = self._lengths[first : last + 1]
            start = self._start(first)
            block = self._names.read(start, start + sum(lengths))
            cuts = itertools.accumulate(lengths, initial=0)
            return [self._entry(block[a:b]) for a, b in itertools.pairwise(cuts)]
        starts = ((self._start(row), self._lengths[row]) for row in map(int, rows))
        return [self._entry(self._names.read(start, start + n)) for start, n in starts]

    def entry(self, row: int) -> ImageEntry:
        """The file at one position."""
        return self.entries([row])[0]

    def close(self) -> None:
        """Gives the names up."""
        self._names.close()

    def _start(self, row: int) -> int:
        before = row % _STRIDE
        return self._starts[row // _STRIDE] + sum(self._lengths[row - before : row])

    def _entry(self, text: bytes) -> ImageEntry:
        name, _, problem = os.fsdecode(text).partition("\0")
        return ImageEntry(f"{self._prefix}{name}", name, problem)


def _write_all(file: IO[bytes], data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
