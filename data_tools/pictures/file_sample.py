"""A few of many files, decoded to see how long that takes and what it gives."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from data_tools.pictures.decoding import Decoder, Item
from realmix_tf.errors import printable

_FILES = 64
_MOST_DECODED = 4096
_SECONDS = 0.25


class Files(Protocol):
    """Files in an order, such as ``data_tools.pictures.work.Work``."""

    def __len__(self) -> int:
        """How many there are."""

    def items(self, start: int, stop: int) -> list[Item]:
        """The items start … stop − 1."""


class FileSample:
    """Some of the files, decoded to see how long that takes and what it gives.

    Args:
      decoder: for the format that is wanted.
      works: what is to be decoded in all.
    """

    def __init__(self, decoder: Decoder, works: Sequence[Files]) -> None:
        self._decoder = decoder
        ends = np.cumsum([len(work) for work in works])
        total = int(ends[-1])
        self._items: list[Item] = []
        for place in np.linspace(0, total - 1, min(total, _FILES)).astype(np.int64).tolist():
            part = int(np.searchsorted(ends, place, side="right"))
            at = place - int(ends[part]) + len(works[part])
            self._items += works[part].items(at, at + 1)
        self._good = self._bytes = self._tried = self._bad = 0
        self._first_bad = ""
        # Starting the processes and filling them takes longer than a few files; what is timed
        # later comes after that, and takes a moment. All of the sample is tried once.
        self._count, elapsed = 16, 0.0
        while self._tried < len(self._items) or (
            elapsed < _SECONDS and self._count < _MOST_DECODED
        ):
            self._count *= 4
            begin = time.monotonic()
            self.run()
            elapsed = time.monotonic() - begin

    def run(self) -> int:
        """Decodes for a moment; returns how many files that were."""
        items, done = self._items, 0

        def fetch(start: int, stop: int) -> list[Item]:
            return [items[i % len(items)] for i in range(start, stop)]

        for batch in self._decoder.encode(self._count, fetch):
            for place, reason in batch.problems:
                # Each file counts once, however often it is decoded.
                if self._tried <= done + place < len(items):
                    path = items[done + place].path
                    self._first_bad = self._first_bad or f"{printable(path)}: {reason}"
                    self._bad += 1
            done += batch.items
            self._good += len(batch.good)
            self._bytes += len(batch.frames)
        self._tried = max(self._tried, min(done, len(items)))
        return self._count

    @property
    def bytes_a_record(self) -> float:
        """The mean; 0 when no file could be read."""
        return self._bytes / self._good if self._good else 0.0

    def notes(self) -> list[str]:
        """What the sample showed."""
        if not self._bad:
            return []
        return [
            f"{self._bad} of {self._tried} sampled files cannot be read, such as {self._first_bad}"
        ]
