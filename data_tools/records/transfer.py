"""Copying records from files to files in blocks: what splits, filters, merges and samples share."""

from __future__ import annotations

import difflib
import hashlib
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.plan import estimate_seconds
from data_tools.progress import Progress
from realmix_tf.data.examples import Tagging
from realmix_tf.data.manifest import ROLES
from realmix_tf.data.names import check_dataset
from realmix_tf.data.pixels import RecordHashes
from realmix_tf.data.record_writer import RecordWriter, refuse_existing
from realmix_tf.data.records import BLOCK_BYTES, RecordReader, apart
from realmix_tf.errors import DataError, UsageError
from realmix_tf.files import require_writable

Int64Array = NDArray[np.int64]

# Records of these files say by ``source`` which id of the split's map a copy was made from.
SPLIT_ROLES = ("label", "unlabel")
_TAGS_BYTES = 64  # that other tags may add to a record
_SAMPLE_SECONDS = 0.2
_WAITING_BYTES = 64 << 20  # blocks on their way to the disk, and the pages they are read from


class RecordPool:
    """Several record files as one; ids count through all of them, in the order given.

    Args:
      paths: at least one file.

    Attributes:
      readers: one a file.
      tags: labels, pseudo labels and sources of all records; the sources are ids of the pool
        where they are positions of originals in the same file.
      changed: ``tags`` are not what the files say, so records cannot be copied as they are.
      notes: what is worth telling about the files.

    Raises:
      DataError: a file is missing, damaged or empty, sizes of images differ, or a copy's original
        is not in its file.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.notes: list[str] = []
        with ExitStack() as stack:
            self.readers = [stack.enter_context(RecordReader(path)) for path in paths]
            self._check_shapes()
            self.firsts = np.cumsum([0, *(len(reader) for reader in self.readers)])
            self.tags = Tagging(
                np.concatenate([self._labels(reader) for reader in self.readers]),
                np.concatenate([reader.pseudo_labels for reader in self.readers]),
                np.concatenate([self._sources(k) for k in range(len(self.readers))]),
            )
            self._files = stack.pop_all()
        self.changed = any(
            (self.tags.labels[self._rows(k)] != reader.labels).any()
            or (self.tags.sources[self._rows(k)] != reader.sources).any()
            for k, reader in enumerate(self.readers)
        )
        without = [reader.path.name for reader in self.readers if reader.manifest is None]
        if without:
            self.notes.insert(
                0, f"{', '.join(without)}: no manifest, so every label is taken as true"
            )

    def __enter__(self) -> RecordPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self._files.close()

    def __len__(self) -> int:
        return int(self.firsts[-1])

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return [reader.path for reader in self.readers]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of all images."""
        return self.readers[0].image_shape

    def same_classes(self, remedy: str = "") -> tuple[str, ...]:
        """The names of the classes, on which the files must agree.

        Files without a manifest have no names; their labels must be among the others'.

        Raises:
          DataError: they do not agree.
        """
        named = [reader for reader in self.readers if reader.manifest]
        for other in named:
            if other.classes != named[0].classes:
                raise DataError(
                    f"the classes are not those of {named[0].path.name}", other.path, remedy
                )
        classes = max((reader.classes for reader in named or self.readers), key=len)
        for reader in self.readers:
            if len(reader.classes) > len(classes):
                most = int(reader.labels.max())
                raise DataError(
                    f"label {most} is none of the {len(classes)} classes",
                    f"{reader.path}, record {int(np.argmax(reader.labels))}",
                    remedy,
                )
        return classes

    def sizes(self, ids: Int64Array) -> Int64Array:
        """Bytes of the records ``ids`` with their framing, int64 [n]."""
        sizes = np.empty(len(ids), np.int64)
        for k, rows in self.by_file(ids):
            sizes[rows] = self.readers[k].sizes(ids[rows] - self.firsts[k])
        return sizes

    def most_bytes(self, ids: Int64Array, changed: bool = False) -> int:
        """Bytes that a copy of the records ``ids`` takes at most.

        Args:
          changed: the copy gets other tags.
        """
        extra = _TAGS_BYTES * len(ids) if changed or self.changed else 0
        return int(self.sizes(ids).sum()) + extra

    def frames(self, ids: Int64Array, tags: Tagging | None) -> bytes | list[bytes]:
        """The records ``ids`` with their framing, and with other tags where some are given."""
        files = list(self.by_file(ids))
        if len(files) == 1:
            k, rows = files[0]
            local = ids - self.firsts[k]
            if tags is None:
                return self.readers[k].frames(local)
            return self.readers[k].tagged(local, tags)
        frames: list[bytes] = [b""] * len(ids)
        for k, rows in files:
            reader, local = self.readers[k], ids[rows] - self.firsts[k]
            part: bytes | list[bytes]
            if tags is None:
                part = reader.frames(local)
            else:
                part = reader.tagged(local, Tagging(*(values[rows] for values in tags)))
            if isinstance(part, bytes):
                part = apart(part, reader.sizes(local))
            for row, frame in zip(rows.tolist(), part, strict=True):
                frames[row] = frame
        return frames

    def copy_to(
        self,
        writer: RecordWriter,
        ids: Int64Array,
        tags: Tagging | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Appends the records ``ids`` (int64 [n], in this order) to a file.

        Args:
          tags: what they shall say; by default what ``self.tags`` says of them.
        """
        if tags is None and self.changed:
            tags = Tagging(*(values[ids] for values in self.tags))
        labels = self.tags.labels[ids] if tags is None else tags.labels
        for rows in self.blocks(ids):
            part = None if tags is None else Tagging(*(values[rows] for values in tags))
            writer.write_frames(self.frames(ids[rows], part), labels[rows])
            if progress is not None:
                progress.add(rows.stop - rows.start)

    def blocks(self, ids: Int64Array) -> Iterator[slice]:
        """Cuts ``ids`` into stretches of about 1 MiB of records."""
        if len(self.readers) == 1:
            yield from self.readers[0].blocks(ids)
            return
        mean = max(int(self.sizes(ids).mean()) if len(ids) else 1, 1)
        step = max(BLOCK_BYTES // mean, 1)
        for first in range(0, len(ids), step):
            yield slice(first, min(first + step, len(ids)))

    def seconds(self, ids: Int64Array) -> float:
        """An estimate of what copying the records ``ids`` takes, from copying some of them."""

        def sample() -> int:
            done, digest = 0, hashlib.sha256()
            end = time.perf_counter() + _SAMPLE_SECONDS
            for rows in self.blocks(ids):
                frames = self.frames(ids[rows], None)
                block = frames if isinstance(frames, bytes) else b"".join(frames)
                digest.update(block)
                done += len(block)
                if time.perf_counter() > end:
                    break
            return done

        return estimate_seconds(int(self.sizes(ids).sum()), sample)

    def _rows(self, k: int) -> slice:
        return slice(int(self.firsts[k]), int(self.firsts[k + 1]))

    def by_file(self, ids: Int64Array) -> Iterator[tuple[int, Int64Array]]:
        """Which of ``ids`` are in which file."""
        if len(self.readers) == 1:
            yield 0, np.arange(len(ids))
            return
        files = np.searchsorted(self.firsts, ids, side="right") - 1
        for k in np.unique(files).tolist():
            yield k, np.flatnonzero(files == k)

    def _check_shapes(self) -> None:
        first = self.readers[0]
        for other in self.readers:
            if not len(other):
                raise DataError("the file has no records", other.path)
            if other.image_shape != first.image_shape:
                raise DataError(
                    f"images of {'x'.join(map(str, other.image_shape))} do not fit those of "
                    f"{'x'.join(map(str, first.image_shape))} in {first.path.name}",
                    other.path,
                )

    def _labels(self, reader: RecordReader) -> Int64Array:
        """The labels; the original tools gave unlabelled pools the dummy label 0."""
        if reader.manifest is None and reader.path.name.endswith("-unlabeled.tfrecord"):
            self.notes.append(
                f"{reader.path.name}: an unlabelled pool by its name, its labels are ignored"
            )
            return np.full(len(reader), -1, np.int64)
        return reader.labels

    def _sources(self, k: int) -> Int64Array:
        reader = self.readers[k]
        sources = reader.sources
        copies = np.flatnonzero(sources >= 0)
        if not len(copies) or role_of(reader) in SPLIT_ROLES:
            return sources
        found = sources[copies]
        known = found < len(reader)
        known[known] = sources[found[known]] < 0
        if not known.all():
            i = int(copies[np.argmin(known)])
            raise DataError(
                f"the record is a copy of record {sources[i]}, which is no original of this file",
                f"{reader.path}, record {i}",
                "build this file again",
            )
        return np.where(sources >= 0, sources + self.firsts[k], -1)


class PoolHashes:
    """Hashes of the pixels of a pool's records (see ``realmix_tf.data.pixels``)."""

    def __init__(self, pool: RecordPool) -> None:
        self._pool = pool
        self._files = [RecordHashes(reader) for reader in pool.readers]

    def __call__(self, ids: Int64Array) -> NDArray[np.uint64]:
        """uint64 [n] of the records ``ids`` (int64 [n])."""
        hashes = np.empty(len(ids), np.uint64)
        for k, rows in self._pool.by_file(ids):
            hashes[rows] = self._files[k](ids[rows] - self._pool.firsts[k])
        return hashes


def role_of(reader: RecordReader) -> str:
    """What a record file is for, by its manifest or else by its name."""
    return reader.manifest.role if reader.manifest else role_by_name(reader.path) or "train"


def role_by_name(path: Path) -> str:
    """``cifar6.1@250-label.tfrecord`` → ``label``; empty where the name does not say."""
    ending = path.name.removesuffix(".tfrecord").rpartition("-")[2]
    return ending if ending in ROLES else ""


def dataset_by_name(path: Path) -> str:
    """``cifar6.1@250-label.tfrecord`` → ``cifar6``."""
    stem = path.name.removesuffix(".tfrecord")
    base, _, ending = stem.rpartition("-")
    if ending in ROLES and base:
        stem = base
    before, _, sizes = stem.rpartition("@")
    if before and sizes.isdigit():
        stem = before.rpartition(".")[0] or before
    return check_dataset(stem)


def check_output(output: Path, inputs: Sequence[Path], overwrite: bool, flag: str) -> None:
    """Checks the name and place of a record file that is to be written.

    Args:
      flag: how the user named the output, for the messages.

    Raises:
      UsageError: it would replace an input or an existing file, or its name does not fit.
      ResourceError: files cannot be written there.
    """
    if not output.name.endswith(".tfrecord"):
        raise UsageError("the output's name must end in .tfrecord", output, flag)
    dataset_by_name(output)
    check_not_input(output, inputs, f"another {flag}")
    if not overwrite:
        refuse_existing(output)
    require_writable(output.parent)


def check_not_input(output: Path, inputs: Sequence[Path], remedy: str) -> None:
    """Raises ``UsageError`` if an output would replace an input."""
    for path in inputs:
        same = output.exists() and path.exists() and os.path.samefile(output, path)
        if same or output.resolve() == path.resolve():
            raise UsageError("the output would replace the source", path, remedy)


def memory_now() -> int:
    """Bytes a copy would take: the peak until now, with everything prepared, and the blocks."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit + _WAITING_BYTES


def class_counts(labels: Int64Array, classes: Sequence[str]) -> dict[str, int]:
    """Labelled records of each class, by name."""
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def class_id(text: str, classes: Sequence[str], flag: str) -> int:
    """The class that a text names: an id where it is a number in range, else a name.

    Raises:
      UsageError: there is no such class; the message shows the nearest.
    """
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text) < len(classes):
        return int(text)
    if text in classes:
        return classes.index(text)
    nearest = difflib.get_close_matches(text, classes, n=1, cutoff=0.5)
    known = ", ".join(classes[:20]) + (", …" if len(classes) > 20 else "")
    remedy = nearest[0] if nearest else f"0..{len(classes) - 1} or {known}"
    raise UsageError(f"there is no class {text!r}", flag, remedy)


def kept_sources(pool: RecordPool, ids: Int64Array) -> tuple[Int64Array, Int64Array, int]:
    """What becomes of copies when only some records of a single file are kept.

    In a dataset's own file a copy says where its original is: it stays if that stays, and gets
    its new position. In the files of a split the sources are ids of the map and stay as they are.

    Args:
      pool: the file.
      ids: int64, the records to keep, ascending.

    Returns:
      ids: int64 [n], without the copies whose originals are gone.
      sources: int64 [n], their sources.
      lost: how many copies were left out.
    """
    sources = pool.tags.sources[ids]
    if role_of(pool.readers[0]) in SPLIT_ROLES or not (sources >= 0).any():
        return ids, sources, 0
    chosen = np.zeros(len(pool), np.bool_)
    chosen[ids] = True
    stays = (sources < 0) | chosen[np.maximum(sources, 0)]
    kept, sources = ids[stays], sources[stays]
    positions = np.full(len(pool), -1, np.int64)
    positions[kept] = np.arange(len(kept))
    return kept, np.where(sources >= 0, positions[sources], -1), int((~stays).sum())
