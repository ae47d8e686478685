"""Augmented copies of the unlabelled images, streamed: memory does not grow with their number."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data_tools.plan import FileUse, Plan, estimate_seconds, files, resident_bytes
from data_tools.progress import Progress
from data_tools.records.ordering import KeyedPermutation
from realmix_tf.augment.names import POLICY_NAMES
from realmix_tf.data.examples import encode_rest, encode_with
from realmix_tf.data.images import decode_pngs, encode_pngs
from realmix_tf.data.manifest import provenance
from realmix_tf.data.names import DatasetName, read_map
from realmix_tf.data.record_writer import RecordWriter, refuse_existing
from realmix_tf.data.records import RecordReader, frame_of
from realmix_tf.errors import DataError, UsageError
from realmix_tf.files import require_space, require_writable

if TYPE_CHECKING:
    from realmix_tf.augment.policies import Policy

COMMAND = "make_aug_copy"
# Copies made at a time by each thread: enough for TensorFlow's overhead not to count, little
# enough for memory.
BLOCK_BYTES = 2 << 20
# Decoded originals are held in memory up to this size, else decoded again for every copy.
HELD_BYTES = 512 << 20


@dataclass(frozen=True)
class CopyOptions:
    """What to copy and how.

    Attributes:
      data_dir: folder of the datasets.
      name: the split, without copies.
      copies: augmented copies of every unlabelled record, at least 1.
      augment: a weak policy of ``realmix_tf.augment``.
      seed: of the order and of the augmentation.
      unlabel_size: records the unlabelled file must have; None for any.
      overwrite: replace existing copies.
      threads: at work at once; the number of processors when None. The result does not depend
        on it.
    """

    data_dir: Path
    name: DatasetName
    copies: int
    augment: str
    seed: int = 1
    unlabel_size: int | None = None
    overwrite: bool = False
    threads: int | None = None

    @property
    def parent(self) -> Path:
        """The file of the images that are copied."""
        return self.name.unlabel_file(self.data_dir)

    @property
    def output(self) -> Path:
        """The file of the copies."""
        return self.name.with_copies(self.copies).unlabel_file(self.data_dir)


@dataclass(frozen=True)
class CopyResult:
    """What was written: the file, its records and bytes; and the records copied from."""

    file: Path
    records: int
    bytes: int
    sources: int
    notes: tuple[str, ...]


def make_copies(options: CopyOptions) -> CopyResult:
    """Writes ``<ds>_aug<N>.<seed>@<labels>-unlabel.tfrecord`` beside the split.

    Position p of the output holds copy k of record r, where r·copies + k is p under a keyed
    permutation; the random numbers of its augmentation belong to that position too. A copy keeps
    ``label``, ``labeled`` and ``name``, and its ``source`` is the record's id in the split's map
    (its position in the unlabelled file where there is no map), or the record's own ``source``
    where that is a copy already.

    Raises:
      UsageError: unknown policy, impossible numbers, or the copies exist.
      DataError: the split is missing or damaged.
      ResourceError: the copies do not fit on the disk.
    """
    _check(options)
    with RecordReader(options.parent) as reader:
        _check_images(reader, options)
        require_writable(options.output.parent)
        count = len(reader)
        total = count * options.copies
        require_space(options.output.parent, _output_bytes(reader, options), f"{total} copies")
        sources = _sources(reader, options)
        origin = provenance(
            f"{COMMAND} --aug_dataset={options.name.split} --aug_copy={options.copies} "
            f"--augment={options.augment} --seed={options.seed}",
            seed=options.seed,
            parents=[options.parent],
            more={"augment": options.augment, "copies": options.copies},
        )
        with (
            RecordWriter(
                options.output,
                dataset=options.name.dataset,
                role="unlabel",
                classes=reader.classes,
                shape=reader.image_shape,
                provenance=origin,
                overwrite=options.overwrite,
            ) as writer,
            Progress(total, "copies", "copying") as progress,
        ):
            for frames, labels in _blocks(reader, sources, options):
                for frame, label in zip(frames, labels, strict=True):
                    writer.write_frame(frame, label)
                progress.add(len(frames))
        notes = _notes(reader)
    return CopyResult(options.output, writer.records, writer.bytes, count, notes)


def plan_copies(options: CopyOptions) -> Plan:
    """What ``make_copies`` would do; the time comes from making the first copies.

    Raises:
      UsageError, DataError, ResourceError: as ``make_copies``.
    """
    _check(options)
    with RecordReader(options.parent) as reader:
        _check_images(reader, options)
        total = len(reader) * options.copies
        size = _output_bytes(reader, options)
        require_space(options.output.parent, size, f"{total} copies")
        sample = _Sample(reader, options)
        sample()  # the first call also builds what later ones use
        held = min(len(reader) * int(np.prod(reader.image_shape)), HELD_BYTES)
        return Plan(
            reads=files([options.parent]),
            writes=(FileUse(str(options.output), size),),
            memory=resident_bytes() + held + 8 * BLOCK_BYTES * (_threads(options) + 1),
            seconds=estimate_seconds(total, sample) / _threads(options),
            facts={"images": len(reader), "copies": total},
            notes=_notes(reader),
        )


class _Sample:
    """Makes some copies on one thread and forgets them."""

    def __init__(self, reader: RecordReader, options: CopyOptions) -> None:
        self._policy = _policy(reader, options)
        self._rows = np.arange(min(len(reader), 256))
        self._originals = _Originals(reader, self._rows, self._rows)
        self._seed = options.seed

    def __call__(self) -> int:
        _copy_block(self._originals, self._policy, self._rows, 0, self._seed)
        return len(self._rows)


def _check(options: CopyOptions) -> None:
    if options.copies < 1:
        raise UsageError(f"--aug_copy is {options.copies}", "", "at least 1")
    if options.threads is not None and options.threads < 1:
        raise UsageError(f"--threads is {options.threads}", "", "at least 1")
    if options.name.copies is not None:
        raise UsageError(
            "copies are made from a split without copies", str(options.name.split),
            f"--aug_dataset={options.name.without_copies().split}",
        )  # fmt: skip
    if options.augment not in POLICY_NAMES:
        raise UsageError(
            f"there is no augmentation policy {options.augment!r}",
            "--augment",
            " or ".join(POLICY_NAMES),
        )
    if not options.overwrite:
        refuse_existing(options.output)


def _check_images(reader: RecordReader, options: CopyOptions) -> None:
    count = len(reader)
    if options.unlabel_size not in (None, count):
        raise DataError(
            f"--unlabel_size is {options.unlabel_size}, the file has {count} records",
            options.parent,
            f"--unlabel_size={count}, or leave it out",
        )
    if not count:
        raise DataError("there is nothing to copy, the file has no records", options.parent)
    _policy(reader, options)


def _policy(reader: RecordReader, options: CopyOptions) -> Policy:
    from realmix_tf.augment.policies import get_policy

    policy = get_policy(options.augment)
    height, width, _ = reader.image_shape
    if min(height, width) < policy.min_size:
        raise UsageError(
            f"the policy {options.augment!r} needs images of at least {policy.min_size} pixels, "
            f"these are {height}x{width}",
            "--augment",
            "another policy",
        )
    return policy


def _output_bytes(reader: RecordReader, options: CopyOptions) -> int:
    # Augmented pictures compress a little worse than the originals.
    return int(reader.sizes().sum() * 1.1) * options.copies


def _notes(reader: RecordReader) -> tuple[str, ...]:
    if reader.manifest:
        return ()
    return (f"{reader.path.name}: no manifest, so labels are taken as true",)


def _threads(options: CopyOptions) -> int:
    return options.threads or os.cpu_count() or 1


def _sources(reader: RecordReader, options: CopyOptions) -> NDArray[np.int64]:
    """For every record the id, in the split's input, of the picture it comes from."""
    path = options.name.map_file(options.data_dir)
    ids = read_map(path, len(reader)) if path.exists() else np.arange(len(reader))
    return np.where(reader.sources >= 0, reader.sources, ids)


def _blocks(
    reader: RecordReader, sources: NDArray[np.int64], options: CopyOptions
) -> Iterator[tuple[list[bytes], list[int]]]:
    """Frames and labels of the copies in the order of the output, a block at a time."""
    policy = _policy(reader, options)
    total = len(reader) * options.copies
    permutation = KeyedPermutation(total, options.seed, "make_aug_copy/order")
    block = max(BLOCK_BYTES // int(np.prod(reader.image_shape)), 1)
    originals = _Originals(reader, np.arange(len(reader)), sources)
    workers = _threads(options)
    waiting: deque[Future[tuple[list[bytes], list[int]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for first in range(0, total, block):
                positions = np.arange(first, min(first + block, total))
                rows = permutation(positions) // options.copies
                waiting.append(
                    pool.submit(_copy_block, originals, policy, rows, first, options.seed)
                )
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class _Originals:
    """The images that are copied, decoded once where they fit, and the rest of their records.

    What it holds grows with the number of images, not with the number of copies.
    """

    def __init__(
        self, reader: RecordReader, rows: NDArray[np.int64], sources: NDArray[np.int64]
    ) -> None:
        self._reader = reader
        self.labels = reader.labels
        self.rests: list[bytes] = []
        for i, source in zip(rows.tolist(), sources[rows].tolist(), strict=True):
            record = reader.record(i)
            self.rests.append(
                encode_rest(
                    record.label,
                    labeled=record.labeled,
                    source=source,
                    name=record.name,
                    pseudo=record.pseudo,
                )
            )
        self._held: NDArray[np.uint8] | None = None
        shape = (len(rows), *reader.image_shape)
        if int(np.prod(shape)) <= HELD_BYTES:
            self._held = np.empty(shape, np.uint8)
            for first in range(0, len(rows), 1024):
                part = rows[first : first + 1024]
                self._held[part] = self._decode(part)

    def images(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 [n, height, width, channels]."""
        return self._decode(rows) if self._held is None else self._held[rows]

    def _decode(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        try:
            images = decode_pngs([self._reader.image(i) for i in rows.tolist()])
        except DataError as error:
            if not error.where.isdigit():
                raise
            where = f"{self._reader.path}, record {rows[int(error.where)]}"
            raise DataError(error.what, where, "build this file again") from error
        if images.shape[1:] != self._reader.image_shape:
            raise DataError("images of different sizes", self._reader.path, "build it again")
        return images


def _copy_block(
    originals: _Originals, policy: Policy, rows: NDArray[np.int64], first: int, seed: int
) -> tuple[list[bytes], list[int]]:
    import tensorflow as tf

    from realmix_tf.randomness import uniforms

    with tf.device("/CPU:0"):
        numbers = uniforms(seed, f"{COMMAND}/augment", first, len(rows), policy.width)
        augmented = policy(tf.constant(originals.images(rows)), numbers).numpy()
    frames = [
        frame_of(encode_with(png, originals.rests[i]))
        for png, i in zip(encode_pngs(augmented), rows.tolist(), strict=True)
    ]
    return frames, originals.labels[rows].tolist()
