"""The record format: TFRecord files of ``tf.train.Example``, read and written without TensorFlow.

A file is a row of frames: length (uint64), masked CRC-32C of the length, payload, masked CRC-32C
of the payload, all little-endian. A payload is a ``tf.train.Example`` with ``image`` (PNG bytes)
and ``label`` (int64), and where needed

- ``labeled``: 0 = there is no true label, ``label`` is −1; 2 = ``label`` is a pseudo label, which a
  model gave, not a true one. Readers count both as unlabelled: ``labels`` is −1, ``labeled`` false
  and a manifest's ``per_class`` leaves them out; the pseudo label is in ``pseudo_labels`` alone.
- ``source``: the image a copy was made from. In a dataset's own files (train, test, extra,
  unlabeled) it is the position of the original in the same file; in the files of a split (label,
  unlabel, and copies made of them) it is an id of the split's map.
- ``name``: relative file name.

What is read is checked: lengths and their checksums when a file is opened, a record's checksum
whenever it is read or copied, labels and counts against the manifest when they are first asked for.
The SHA-256 of the manifest is compared by ``verify`` (and by training) only: computing it takes
longer than copying the file. A file of the same size, number of records and number of each class
as its manifest says, yet another one, is therefore found by these two.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import mmap
import os
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from realmix_tf.data import manifest as manifests
from realmix_tf.data.manifest import Manifest
from realmix_tf.errors import DataError, ResourceError, UsageError
from realmix_tf.files import TEMPORARY_PREFIX, resource_error, sync_directory

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
FRAME_OVERHEAD = 16

_HEADER = struct.Struct("<QI")
_WORD = struct.Struct("<I")
_PNG_HEAD = 33  # the signature and the IHDR chunk
_SCAN_CHUNK = 1 << 15  # records indexed at once: small enough for the temporaries to stay cached
_SCAN_BYTES = 32 << 20  # and bytes, so that memory does not depend on the size of the images
_KEPT_PAGES = 64 << 20  # bytes of the file that stay mapped into memory
_REGION_BITS = 21  # what the kernel maps at most when one byte is read: 2 MiB
_BLOCK_BYTES = 1 << 20  # copied at once: it stays in the processor's cache
_BLOCKS_WAITING = 8  # blocks between reading them and having them hashed and written
_SYNC_BYTES = 256 << 20  # written between flushes, so that little is left to wait for at the end
_SWITCH_SECONDS = 5e-4
_PSEUDO = 2  # the value of ``labeled`` for a label that a model gave
_REBUILD = "build this file again, or fetch it again"
_WRONG_CHECKSUM = "the checksum is wrong, the record is damaged"
_CRC_MASK = 0xA282EAD8
_INT_FEATURES = ("label", "labeled", "source")

Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class Record(NamedTuple):
    """One decoded record.

    ``label`` is −1 where there is no true label; ``pseudo`` is the label a model gave it then.
    """

    image: bytes
    label: int
    labeled: bool
    source: int | None
    name: str | None
    pseudo: int | None = None


class Index(NamedTuple):
    """What is known of every record without decoding its image (arrays of length N)."""

    labels: Int64Array
    labeled: BoolArray
    sources: Int64Array
    image_starts: Int64Array
    image_ends: Int64Array
    pseudo: Int64Array


class Tags(NamedTuple):
    """What a record says besides its image and name; −1 where there is nothing.

    A record with a ``label`` has no ``pseudo`` label.
    """

    label: int = -1
    pseudo: int = -1
    source: int = -1


class Tagging(NamedTuple):
    """The tags of several records (see ``Tags``), int64 arrays [n]."""

    labels: Int64Array
    pseudo: Int64Array
    sources: Int64Array


def masked_crc(data: bytes) -> int:
    """The CRC-32C of ``data`` as TFRecord files store it."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _CRC_MASK) & 0xFFFFFFFF


def _masked_crcs(data: bytes, begins: Int64Array, ends: Int64Array) -> NDArray[np.uint32]:
    """The stored form of the CRC-32C of many pieces of ``data``, little-endian uint32 [n]."""
    # One piece after the other: a list of them would break up the memory the blocks live in.
    pieces = map(data.__getitem__, map(slice, begins.tolist(), ends.tolist()))
    crcs = np.fromiter(map(google_crc32c.value, pieces), np.dtype("<u4"), len(begins))
    return (crcs >> np.uint32(15) | crcs << np.uint32(17)) + np.uint32(_CRC_MASK)


def frame_of(payload: bytes) -> bytes:
    """``payload`` with its length and checksums around it."""
    return b"".join((_frame_head(len(payload)), payload, _WORD.pack(masked_crc(payload))))


@lru_cache(1 << 14)
def _frame_head(length: int) -> bytes:
    """What stands before a payload of ``length`` bytes."""
    packed = struct.pack("<Q", length)
    return packed + _WORD.pack(masked_crc(packed))


def encode_example(
    image: bytes,
    label: int,
    *,
    labeled: bool = True,
    source: int | None = None,
    name: str | None = None,
    pseudo: int | None = None,
) -> bytes:
    """A serialised ``tf.train.Example``.

    Args:
      image: PNG bytes.
      label: class id, −1 when there is none.
      labeled: whether ``label`` is a true label; stored only when it is not.
      source: id of the image this is a copy of.
      name: relative file name; undecodable bytes as surrogate escapes.
      pseudo: the label a model gave an image without a true label; it is stored in place of
        ``label``, and marked.

    Raises:
      ValueError: both a true and a pseudo label.
    """
    rest = encode_rest(label, labeled=labeled, source=source, name=name, pseudo=pseudo)
    return encode_with(image, rest)


def encode_rest(
    label: int,
    *,
    labeled: bool = True,
    source: int | None = None,
    name: str | None = None,
    pseudo: int | None = None,
) -> bytes:
    """All features of an example but the image, for ``encode_with`` (see ``encode_example``)."""
    parts = [_label_entries(label, labeled, -1 if pseudo is None else pseudo)]
    if name is not None:
        raw = name.encode("utf-8", "surrogateescape")
        parts.append(_entry(b"name", b"\x0a" + _sized(b"\x0a" + _sized(raw))))
    if source is not None:
        parts.append(_source_entry(source))
    return b"".join(parts)


@lru_cache(1 << 12)
def _label_entries(label: int, labeled: bool, pseudo: int) -> bytes:
    if pseudo >= 0:
        if labeled and label >= 0:
            raise ValueError("a record has a true label or a pseudo label, not both")
        return _entry(b"label", _int_feature(pseudo)) + _entry(b"labeled", _int_feature(_PSEUDO))
    flag = b"" if labeled else _entry(b"labeled", _int_feature(0))
    return _entry(b"label", _int_feature(label)) + flag


def _source_entry(source: int) -> bytes:
    return _entry(b"source", _int_feature(source)) if source >= 0 else b""


def encode_with(image: bytes, rest: bytes) -> bytes:
    """A serialised example of PNG bytes and what ``encode_rest`` made of the other features."""
    head = _image_head(len(image))
    return b"".join((_example_head(len(head) + len(image) + len(rest)), head, image, rest))


@lru_cache(1 << 14)
def _image_head(length: int) -> bytes:
    """What stands before an image of ``length`` bytes within its entry of the features."""
    values = b"\x0a" + _varint(length)
    feature = b"\x0a" + _varint(len(values) + length) + values
    pair = b"\x0a" + _sized(b"image") + b"\x12" + _varint(len(feature) + length) + feature
    return b"\x0a" + _varint(len(pair) + length) + pair


@lru_cache(1 << 14)
def _example_head(length: int) -> bytes:
    """What stands before ``length`` bytes of features."""
    return b"\x0a" + _varint(length)


def _with_tags(payload: bytes, image_end: int, rest: bytes) -> bytes:
    """A serialised example whose features behind the image are others."""
    head = len(_payload_head(len(payload)))
    return b"".join((_example_head(image_end - head + len(rest)), payload[head:image_end], rest))


def _parsed_with_tags(payload: bytes, new: Tags) -> bytes:
    """The same for examples of any layout; features that are none of ours are lost."""
    record = decode_example(payload)
    return encode_example(
        record.image,
        new.label,
        labeled=new.label >= 0,
        source=new.source if new.source >= 0 else None,
        name=record.name,
        pseudo=new.pseudo,
    )


@lru_cache(1 << 12)
def _changed_rest(rest: bytes, old: Tags, new: Tags) -> bytes | None:
    """The features behind the image with other tags; None where they are laid out otherwise."""
    labels = _label_entries(old.label, old.label >= 0, old.pseudo)
    source = _source_entry(old.source)
    if not (rest.startswith(labels) and rest.endswith(source)):
        return None
    between = rest[len(labels) : len(rest) - len(source)]
    # A second feature of the same name would take precedence, so it must not stay behind.
    if b"label" in between or b"source" in between or b"image" in between:
        return None
    return b"".join(
        (_label_entries(new.label, new.label >= 0, new.pseudo), between, _source_entry(new.source))
    )


@lru_cache(1 << 14)
def _payload_head(length: int) -> bytes:
    """What stands before the features in an example of ``length`` bytes in all."""
    features = length - 2
    while len(_example_head(features)) + features > length:
        features -= 1
    return _example_head(features)


def decode_example(payload: bytes | memoryview) -> Record:
    """Parses a serialised ``tf.train.Example``; other features than ours are passed over.

    Raises:
      DataError: this is no such message, ``image`` or ``label`` is missing, or a feature has
        the wrong type or more than one value.
    """
    features = _features(bytes(payload))
    image = features.get("image")
    if not isinstance(image, bytes):
        raise DataError("the record has no image")
    if "label" not in features:
        raise DataError("the record has no label")
    label, flag, source = (features.get(key) for key in _INT_FEATURES)
    if label is None:
        label = -1
    name = features.get("name")
    labeled = label >= 0 and flag not in (0, _PSEUDO)
    return Record(
        image=image,
        label=label if labeled else -1,
        labeled=labeled,
        source=None if source is None or source < 0 else source,
        name=None if name is None else name.decode("utf-8", "surrogateescape"),
        pseudo=label if label >= 0 and flag == _PSEUDO else None,
    )


class RecordReader:
    """Random access to a record file through a memory map.

    Opening walks the framing: a cut, trailing bytes, absurd lengths and damaged length checksums
    are found; with a manifest also a wrong number of records or bytes, which is how a cut exactly
    between two records shows. Reading a record checks its checksum. Records are counted from 0.

    Memory is bounded: some tens of bytes a record once ``index`` is computed, and 64 MiB of the
    file's pages.

    Args:
      path: the file.

    Raises:
      DataError: the file or its manifest is missing or damaged; file and record are named.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._index: Index | None = None
        self._map: mmap.mmap | bytes = b""
        self._touched, self._region = 0, -1
        if not self.path.exists():
            raise DataError("there is no such record file", path, "check the name and --data_dir")
        self.manifest: Manifest | None = manifests.read_manifest(path)
        try:
            with open(path, "rb") as file:
                if os.fstat(file.fileno()).st_size:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise resource_error(error, path) from error
        self._bytes = len(self._map)
        if self.manifest is not None and self.manifest.bytes != self._bytes:
            raise DataError(
                f"the file has {self._bytes} bytes, its manifest says {self.manifest.bytes}",
                path,
                _REBUILD,
            )
        self._starts, self._ends = self._walk()
        if self.manifest is not None and self.manifest.records != len(self):
            raise DataError(
                f"the file has {len(self)} records, its manifest says {self.manifest.records}",
                path,
                _REBUILD,
            )

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmaps the file; arrays and records that were handed out stay valid."""
        if isinstance(self._map, mmap.mmap):
            # An array over the map may live on in the trace of an error, and frees it with itself.
            with contextlib.suppress(BufferError):
                self._map.close()
        self._map = b""

    def __len__(self) -> int:
        return len(self._starts)

    def payload(self, i: int) -> memoryview:
        """The serialised example of record ``i``, its checksum checked."""
        return memoryview(self._payload(i))

    def frame(self, i: int) -> memoryview:
        """Record ``i`` with its framing, for copying it unchanged; its checksum is checked."""
        self._payload(i)
        return memoryview(self._map[self._starts[i] - 12 : self._ends[i] + 4])

    def record(self, i: int) -> Record:
        """Record ``i`` decoded (its image stays PNG bytes)."""
        try:
            return decode_example(self._payload(i))
        except DataError as error:
            if error.where:
                raise
            raise self._error(i, error.what) from error

    def image(self, i: int) -> bytes:
        """The PNG bytes of record ``i``, its checksum checked."""
        index = self.index
        offset = int(self._starts[i])
        payload = self._payload(i)
        return payload[int(index.image_starts[i]) - offset : int(index.image_ends[i]) - offset]

    def blocks(self, ids: Int64Array) -> Iterator[slice]:
        """Cuts ``ids`` into stretches of about 1 MiB of records, for ``frames`` and ``tagged``."""
        yield from _stretches(self.sizes(ids))

    def frames(self, ids: Int64Array) -> bytes:
        """The records ``ids`` (int64 [n]) with their framing, joined; all checksums checked."""
        begins, behind = self._starts[ids] - 12, self._ends[ids] + 4
        if not len(ids):
            return b""
        # Neighbours are read as one piece.
        apart = np.flatnonzero(begins[1:] != behind[:-1]) + 1
        firsts, lasts = begins[np.r_[0, apart]], behind[np.r_[apart - 1, -1]]
        if len(firsts) == 1:
            joined = self._map[int(firsts[0]) : int(lasts[0])]
            self._touch(len(joined))
        else:
            joined = b"".join(self._pieces(firsts, lasts))
        self._check_frames(joined, behind - begins, ids)
        return joined

    def tagged(self, ids: Int64Array, tags: Tagging) -> bytes | list[bytes]:
        """The records ``ids`` with their framing but other tags; all checksums checked.

        Args:
          ids: int64 [n].
          tags: what they shall say, arrays [n].

        Returns:
          the records, joined or apart.
        """
        index = self.index
        old = Tagging(index.labels[ids], index.pseudo[ids], index.sources[ids])
        same = [np.array_equal(a, b) for a, b in zip(old, tags, strict=True)]
        if all(same):
            return self.frames(ids)
        if all(same[1:]):
            patched = self._relabeled(ids, old.labels, tags.labels)
            if patched is not None:
                return patched
        joined = self.frames(ids)
        ends = np.cumsum(self.sizes(ids)) - 4
        shift = ends - self._ends[ids]
        result = []
        for begin, image_begin, image_end, end, before, after in zip(
            (self._starts[ids] + shift).tolist(),
            (index.image_starts[ids] + shift).tolist(),
            (index.image_ends[ids] + shift).tolist(),
            ends.tolist(),
            map(Tags, *(values.tolist() for values in old)),
            map(Tags, *(values.tolist() for values in tags)),
            strict=True,
        ):
            if before == after:
                result.append(joined[begin - 12 : end + 4])
                continue
            # Cut and joined where it is laid out as ``encode_example`` does, else parsed.
            payload = joined[begin:end]
            head, image_head = _payload_head(end - begin), _image_head(image_end - image_begin)
            rest = _changed_rest(joined[image_end:end], before, after)
            usual = image_begin - begin == len(head) + len(image_head) and payload.startswith(head)
            if usual and rest is not None:
                result.append(frame_of(_with_tags(payload, image_end - begin, rest)))
            else:
                result.append(frame_of(_parsed_with_tags(payload, after)))
        return result

    def _relabeled(self, ids: Int64Array, old: Int64Array, new: Int64Array) -> bytes | None:
        """``tagged`` where a byte each changes; None where it takes more than that."""
        # Labels below 128 take one byte, behind the image in what ``encode_example`` makes.
        if min(old.min(), new.min()) < 0 or max(old.max(), new.max()) > 127:
            return None
        head = np.frombuffer(_label_entries(0, True, -1)[:-1], np.uint8)
        joined = self.frames(ids)
        sizes = self.sizes(ids)
        ends = np.cumsum(sizes) - 4
        places = ends - self._ends[ids] + self.index.image_ends[ids]
        labels = places + len(head)
        if (labels >= ends).any():
            return None
        block = np.frombuffer(joined, np.uint8).copy()
        if (block[places[:, None] + np.arange(len(head))] != head).any() or (
            block[labels] != old
        ).any():
            return None
        # A second feature of the same name would take precedence.
        behind = zip((labels + 1).tolist(), ends.tolist(), strict=True)
        if any(a < b and joined.find(b"label", a, b) >= 0 for a, b in behind):
            return None
        block[labels] = new
        joined = block.tobytes()
        begins = ends - sizes + 16
        block[ends[:, None] + np.arange(4)] = _masked_crcs(joined, begins, ends)[:, None].view("u1")
        return block.tobytes()

    def sizes(self, ids: Int64Array | slice = slice(None)) -> Int64Array:
        """Bytes of the records ``ids`` (of all by default) with their framing, int64 [n]."""
        return np.asarray(self._ends[ids] - self._starts[ids] + FRAME_OVERHEAD)

    @property
    def labels(self) -> Int64Array:
        """int64 [N]; −1 where there is no true label."""
        return self.index.labels

    @property
    def labeled(self) -> BoolArray:
        """bool [N]: whether the label is a true one."""
        return self.index.labeled

    @property
    def sources(self) -> Int64Array:
        """int64 [N]: id of the image a copy was made from; −1 where there is none."""
        return self.index.sources

    @property
    def pseudo_labels(self) -> Int64Array:
        """int64 [N]: labels that a model gave; −1 where there is none or a true one."""
        return self.index.pseudo

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels: the manifest's, else those of the first record."""
        if self.manifest is not None:
            return self.manifest.height, self.manifest.width, self.manifest.channels
        if not len(self):
            raise DataError("the file has no records", self.path)
        head = self.image(0)[:_PNG_HEAD]
        channels = {0: 1, 3: 3, 2: 3, 4: 1, 6: 3}.get(head[25], 3)
        return int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big"), channels

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes: the manifest's, else the ids found, as texts."""
        if self.manifest is not None:
            return self.manifest.classes
        return tuple(map(str, range(int(self.labels.max(initial=-1)) + 1)))

    @property
    def index(self) -> Index:
        """Labels, sources and the places of the images, computed at first use.

        Raises:
          DataError: a record is no valid example, its image is no PNG or of another size than
            the manifest says, its label is none of the classes, or counts differ.
        """
        if self._index is None:
            index = self._build_index()
            self._check_labels(index)
            self._index = index
        return self._index

    def verify(self) -> None:
        """Checks everything: all checksums, all records, and the SHA-256 of the manifest.

        Raises:
          DataError: something does not agree; the first such record is named.
        """
        digest = hashlib.sha256()
        ids = np.arange(len(self))
        for rows in self.blocks(ids):
            digest.update(self.frames(ids[rows]))
        _ = self.index
        if self.manifest is not None and digest.hexdigest() != self.manifest.sha256:
            raise DataError("the SHA-256 differs from the manifest's", self.path, _REBUILD)

    def _walk(self) -> tuple[Int64Array, Int64Array]:
        parts = [np.zeros(1, np.int64)]
        count = position = 0
        # Lengths repeat, so most of their checksums are a look-up.
        known: dict[int, int] = {}
        while position < self._bytes:
            part = self._walk_equal(position)
            if len(part) < 2:
                part = self._walk_some(position, count, known)
            parts.append(part)
            self._touch(int(part[-1]) - position)
            count, position = count + len(part), int(part[-1])
        behind = np.concatenate(parts)
        return behind[:-1] + 12, behind[1:] - 4

    def _walk_equal(self, position: int) -> Int64Array:
        """Where frames end that have exactly the first one's header, as many as follow at once."""
        nothing = np.zeros(0, np.int64)
        if self._bytes - position < FRAME_OVERHEAD:
            return nothing
        header = self._map[position : position + 12]
        length, checksum = _HEADER.unpack(header)
        stride = length + FRAME_OVERHEAD
        fitting = (self._bytes - position) // stride
        if not fitting or masked_crc(header[:8]) != checksum:
            return nothing
        data = np.frombuffer(self._map, np.uint8)
        run = 0
        for most in (16, max(min(_SCAN_CHUNK, _SCAN_BYTES // stride), 16)):
            run = min(fitting, most)
            frames = data[position : position + run * stride].reshape(run, stride)
            other = (frames[:, :12] != frames[0, :12]).any(axis=1)
            if other.any():
                return nothing if most == 16 else position + stride * np.arange(
                    1, int(np.argmax(other)) + 1
                )  # fmt: skip
        return position + stride * np.arange(1, run + 1)

    def _walk_some(self, position: int, count: int, known: dict[int, int]) -> Int64Array:
        """Where the next frames end, one after the other."""
        data, size = self._map, self._bytes
        unpack = _HEADER.unpack_from
        behind: list[int] = []
        for _ in range(_SCAN_CHUNK):
            if position > size - FRAME_OVERHEAD:
                break
            length, checksum = unpack(data, position)
            if known.get(length) != checksum:
                if masked_crc(data[position : position + 8]) != checksum:
                    raise self._error(
                        count + len(behind), "the checksum of the record's length is wrong"
                    )
                if len(known) > _SCAN_CHUNK:
                    known.clear()
                known[length] = checksum
            position += length + FRAME_OVERHEAD
            if position > size:
                raise self._error(count + len(behind), "the file is cut short within the record")
            behind.append(position)
        if not behind:
            raise self._error(count, "the file is cut short, or has bytes after its end")
        return np.array(behind, np.int64)

    def _touch(self, count: int) -> None:
        """Keeps the pages of the file that count as this process's memory below a bound.

        They stay in the system's file cache, so reading them again costs little.
        """
        self._touched += count
        if self._touched > _KEPT_PAGES and isinstance(self._map, mmap.mmap):
            self._touched = 0
            if hasattr(mmap, "MADV_DONTNEED"):
                self._map.madvise(mmap.MADV_DONTNEED)

    def _pieces(self, firsts: Int64Array, lasts: Int64Array) -> Iterator[bytes]:
        """Pieces of the file, several joined at a time."""
        view = memoryview(self._map)
        regions = len(np.unique(firsts >> _REGION_BITS)) << _REGION_BITS
        # Pieces from all over the file are read a few at a time, to keep few pages mapped.
        step = len(firsts) if regions <= _KEPT_PAGES else _KEPT_PAGES >> _REGION_BITS
        for begin in range(0, len(firsts), step):
            rows = slice(begin, begin + step)
            places = map(slice, firsts[rows].tolist(), lasts[rows].tolist())
            yield b"".join(map(view.__getitem__, places))
            self._touch(min(regions, _KEPT_PAGES))

    def _check_frames(self, joined: bytes, sizes: Int64Array, ids: Int64Array) -> None:
        ends = np.cumsum(sizes) - 4
        found = _masked_crcs(joined, ends - sizes + 16, ends)
        stored = np.frombuffer(joined, np.uint8)[ends[:, None] + np.arange(4)].view("<u4")[:, 0]
        wrong = found != stored
        if wrong.any():
            raise self._error(int(ids[np.argmax(wrong)]), _WRONG_CHECKSUM)

    def _payload(self, i: int) -> bytes:
        start, end = int(self._starts[i]), int(self._ends[i])
        payload = self._map[start:end]
        if _WORD.unpack_from(self._map, end)[0] != masked_crc(payload):
            raise self._error(i, _WRONG_CHECKSUM)
        if start >> _REGION_BITS != self._region:
            self._region = start >> _REGION_BITS
            self._touch(max(len(payload), 1 << _REGION_BITS))
        return payload

    def _build_index(self) -> Index:
        count = len(self)
        index = Index(
            labels=np.full(count, -1, np.int64),
            labeled=np.zeros(count, np.bool_),
            sources=np.full(count, -1, np.int64),
            image_starts=np.zeros(count, np.int64),
            image_ends=np.zeros(count, np.int64),
            pseudo=np.full(count, -1, np.int64),
        )
        # The array borrows the map, which could not be unmapped while it lives.
        data = np.frombuffer(self._map, np.uint8)
        try:
            for rows in _stretches(self.sizes(), _SCAN_BYTES, _SCAN_CHUNK):
                starts, ends = self._starts[rows], self._ends[rows]
                if not _scan_usual(data, starts, ends, index, rows):
                    good = _scan(data, starts, ends, index, rows)
                    for i in np.flatnonzero(~good) + rows.start:
                        self._index_one(int(i), index)
                self._check_images(data, index, rows)
                self._touch(int(self._ends[rows.stop - 1] - self._starts[rows.start]))
        finally:
            del data
        return index

    def _index_one(self, i: int, index: Index) -> None:
        """The slow way, for layouts that the vectorised scan does not know."""
        record = self.record(i)
        start, end = int(self._starts[i]), int(self._ends[i])
        # Searching for the bytes is exact: they are known to be in the payload.
        place = self._map[start:end].find(record.image)
        index.labels[i], index.labeled[i] = record.label, record.labeled
        index.sources[i] = -1 if record.source is None else record.source
        index.pseudo[i] = -1 if record.pseudo is None else record.pseudo
        index.image_starts[i], index.image_ends[i] = (
            start + place,
            start + place + len(record.image),
        )

    def _check_images(self, data: NDArray[np.uint8], index: Index, rows: slice) -> None:
        starts, ends = index.image_starts[rows], index.image_ends[rows]
        small = ends - starts < _PNG_HEAD
        expected, compared = PNG_SIGNATURE, [*range(8)]
        if self.manifest is not None:
            height, width, channels = self.image_shape
            kind = 0 if channels == 1 else 2
            expected += struct.pack(">II", width, height) + bytes((8, kind))
            compared += [*range(16, 26)]
        heads = _windows(data, np.where(small, 0, starts), min(_PNG_HEAD, len(data)))
        bad = small
        if not small.all():
            wrong = heads[:, compared] != np.frombuffer(expected, np.uint8)
            bad = small | wrong.any(axis=1)
        if not bad.any():
            return
        i = rows.start + int(np.argmax(bad))
        image = self._map[int(index.image_starts[i]) : int(index.image_ends[i])]
        if not image.startswith(PNG_SIGNATURE) or len(image) < _PNG_HEAD:
            raise self._error(i, "the image is not a PNG")
        width, height = struct.unpack(">II", image[16:24])
        raise self._error(
            i, f"the image is {height}x{width}, colour type {image[25]}, depth {image[24]};"
            f" the manifest says {'x'.join(map(str, self.image_shape))}"
        )  # fmt: skip

    def _check_labels(self, index: Index) -> None:
        if self.manifest is None:
            return
        classes = len(self.manifest.classes)
        for what, labels in (("label", index.labels), ("pseudo label", index.pseudo)):
            outside = labels >= classes
            if outside.any():
                i = int(np.argmax(outside))
                raise self._error(i, f"{what} {labels[i]} is none of the {classes} classes")
        counts = np.bincount(index.labels[index.labeled], minlength=classes)
        if counts.tolist() != list(self.manifest.per_class):
            raise DataError(
                "the records of each class are not as many as the manifest says",
                self.path,
                _REBUILD,
            )

    def _error(self, i: int, what: str) -> DataError:
        return DataError(what, f"{self.path}, record {i}", _REBUILD)


class RecordWriter:
    """Writes a record file and its manifest; both appear only when the block ends well.

    The records go to a hidden file in the same folder, which is flushed and renamed; then the
    manifest is written, the commit mark. A second process that writes the same file is refused;
    what a killed one left is used up.

    Args:
      path: the file to write.
      dataset: for the manifest, as are ``role``, ``classes`` (names; position = label), ``shape``
        (height, width, channels) and ``provenance``.
      overwrite: replace a file that exists.

    Raises:
      UsageError: the file exists and ``overwrite`` is false.
      ResourceError: it cannot be written, or another process is writing it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        dataset: str,
        role: str,
        classes: Sequence[str],
        shape: tuple[int, int, int],
        provenance: Mapping[str, Any],
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self.records = 0
        self.labeled = 0
        self.bytes = 0
        self.provenance = dict(provenance)
        self._dataset, self._role, self._classes = dataset, role, tuple(classes)
        self._shape = shape
        self._overwrite = overwrite
        self._per_class = [0] * len(self._classes)
        self._digest = hashlib.sha256()
        self._temporary = self.path.with_name(f"{TEMPORARY_PREFIX}{self.path.name}.part")
        self._made: list[Path] = []
        self._file: int | None = None
        self._unsynced = 0
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._lanes: list[_Lane] = []
        self.manifest: Manifest | None = None

    def __enter__(self) -> RecordWriter:
        if not self._overwrite:
            refuse_existing(self.path)
        try:
            self._made = [folder for folder in self.path.absolute().parents if not folder.exists()]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _open_exclusively(self._temporary, self.path)
        except OSError as error:
            self._remove_made()
            raise resource_error(error, self.path) from error
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        try:
            if kind is None:
                self._commit()
        except OSError as error:
            raise resource_error(error, self.path) from error
        finally:
            self._abandon()

    def write(self, payload: bytes, label: int | None = None) -> None:
        """Appends a serialised example.

        Args:
          payload: from ``encode_example``.
          label: its true label, −1 for none, where the caller knows it; else it is parsed.
        """
        if label is None:
            label = decode_example(payload).label
        self._append(frame_of(payload), label)

    def write_frame(self, frame: bytes | memoryview, label: int | None = None) -> None:
        """Appends a record that is framed already, unchanged (see ``write``)."""
        if label is None:
            label = decode_example(bytes(frame)[12:-4]).label
        self._append(bytes(frame), label)

    def write_frames(self, frames: bytes | Sequence[bytes], labels: Int64Array) -> None:
        """Appends records that are framed already, as ``RecordReader.frames`` gives them.

        Args:
          frames: about a MiB of them, joined or apart.
          labels: int64 [n], the true label of each, −1 for none.
        """
        most = int(labels.max(initial=-1))
        if most >= len(self._per_class):
            place = self.records + int(np.argmax(labels >= len(self._per_class)))
            raise self._outside(most, place)
        self._flush()
        self._put(frames if isinstance(frames, bytes) else b"".join(frames))
        self.records += len(labels)
        counts = np.bincount(labels[labels >= 0], minlength=len(self._per_class))
        self.labeled += int(counts.sum())
        for label in np.flatnonzero(counts).tolist():
            self._per_class[label] += int(counts[label])

    def _append(self, frame: bytes, label: int) -> None:
        if self._file is None:
            raise ValueError("the writer is not open")
        if label >= len(self._per_class):
            raise self._outside(label, self.records)
        self._gathered.append(frame)
        self._gathered_bytes += len(frame)
        if self._gathered_bytes >= _BLOCK_BYTES:
            self._flush()
        self.records += 1
        if label >= 0:
            self.labeled += 1
            self._per_class[label] += 1

    def _outside(self, label: int, record: int) -> DataError:
        return DataError(
            f"label {label} is none of the {len(self._per_class)} classes",
            f"{self.path}, record {record}",
        )

    def _flush(self) -> None:
        """Passes on what was gathered record by record."""
        if self._gathered:
            block = b"".join(self._gathered)
            self._gathered, self._gathered_bytes = [], 0
            self._put(block)

    def _put(self, block: bytes) -> None:
        """Has a block hashed and written, both beside what the caller does meanwhile."""
        if self._file is None:
            raise ValueError("the writer is not open")
        if not self._lanes:
            _quick_switches.begin()
            self._lanes = [_Lane(self._digest.update), _Lane(self._write_block)]
        try:
            for lane in self._lanes:
                lane.put(block)
        except OSError as error:
            raise resource_error(error, self.path) from error
        self.bytes += len(block)

    def _write_block(self, block: bytes) -> None:
        if self._file is None:
            raise ValueError("the writer is not open")
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        self._unsynced += len(block)
        if self._unsynced >= _SYNC_BYTES:
            self._unsynced = 0
            os.fsync(self._file)

    def _commit(self) -> None:
        if self._file is None:
            raise ValueError("the writer is not open")
        self._flush()
        for lane in self._lanes:
            lane.finish()
        os.fsync(self._file)
        height, width, channels = self._shape
        manifest = Manifest(
            schema=manifests.SCHEMA,
            dataset=self._dataset,
            role=self._role,
            classes=self._classes,
            height=height,
            width=width,
            channels=channels,
            records=self.records,
            labeled=self.labeled,
            bytes=self.bytes,
            sha256=self._digest.hexdigest(),
            per_class=tuple(self._per_class),
            provenance=self.provenance,
        )
        # From here until the manifest is written, no reader takes the file for a finished one,
        # neither the old records nor the new.
        manifests.mark_incomplete(self.path)
        os.replace(self._temporary, self.path)
        sync_directory(self.path.parent)
        manifests.write_manifest(self.path, manifest)
        self.manifest = manifest

    def _abandon(self) -> None:
        if self._file is None:
            return
        for lane in self._lanes:
            lane.close()
        if self._lanes:
            self._lanes = []
            _quick_switches.end()
        # After a commit the temporary name is gone; whoever took it since keeps it.
        if self.manifest is None:
            with contextlib.suppress(OSError):
                self._temporary.unlink()
        with contextlib.suppress(OSError):
            os.close(self._file)
        self._file = None
        if self.manifest is None:
            self._remove_made()

    def _remove_made(self) -> None:
        """Removes the folders that were made for the file, as far as nothing else is in them."""
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()


class _Lane:
    """One kind of work on blocks, done in their order by a thread of its own.

    Hashing and writing release the interpreter's lock, so they run beside everything else.
    """

    def __init__(self, work: Callable[[bytes], object]) -> None:
        self._work = work
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future[object]] = deque()

    def put(self, block: bytes) -> None:
        """Hands over a block; waits while many are under way, and raises what went wrong."""
        if len(self._waiting) >= _BLOCKS_WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._work, block))

    def finish(self) -> None:
        """Waits for everything handed over; raises what went wrong."""
        while self._waiting:
            self._waiting.popleft().result()

    def close(self) -> None:
        """Ends the thread without doing what still waits."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class _QuickSwitches:
    """Has Python's threads take turns every half millisecond while lanes are at work.

    Between two blocks a lane needs the interpreter's lock for microseconds, for which it would
    wait up to 5 ms each time; that halves the speed of a copy.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._usual = 0.0

    def begin(self) -> None:
        """Lanes begin their work."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._usual = sys.getswitchinterval()
                sys.setswitchinterval(min(self._usual, _SWITCH_SECONDS))

    def end(self) -> None:
        """They ended; the last one's end restores the usual interval."""
        with self._lock:
            self._users -= 1
            if not self._users:
                sys.setswitchinterval(self._usual)


_quick_switches = _QuickSwitches()


def apart(joined: bytes, sizes: Int64Array) -> list[bytes]:
    """Cuts joined records of these ``sizes`` into single ones."""
    bounds = [0, *np.cumsum(sizes).tolist()]
    return [joined[a:b] for a, b in itertools.pairwise(bounds)]


def refuse_existing(path: str | os.PathLike[str]) -> None:
    """Checks that a record file may be written.

    Raises:
      UsageError: there is one already. One whose writing was interrupted does not count.
    """
    path = Path(path)
    present = path.exists() or manifests.manifest_path(path).exists()
    if present and not manifests.is_marked_incomplete(path):
        raise UsageError("this file exists already", path, "--overwrite, or another name")


def _open_exclusively(temporary: Path, target: Path) -> int:
    """Opens the temporary file empty; the kernel's lock says whether someone else writes it.

    Returns:
      the file descriptor.
    """
    while True:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file may have been renamed between opening and locking it.
            current = os.stat(temporary)
            if os.path.samestat(os.fstat(descriptor), current):
                os.ftruncate(descriptor, 0)
                return descriptor
        except FileNotFoundError:
            pass
        except BlockingIOError as error:
            os.close(descriptor)
            raise ResourceError(
                "another process is writing this file", target, "wait for it to end"
            ) from error
        os.close(descriptor)


def _stretches(
    sizes: Int64Array, most_bytes: int = _BLOCK_BYTES, most: int = _SCAN_CHUNK
) -> Iterator[slice]:
    """Cuts a row of records of these ``sizes`` into stretches of so many bytes and records."""
    behind = np.cumsum(sizes)
    first = before = 0
    while first < len(sizes):
        last = int(np.searchsorted(behind, before + most_bytes, side="right"))
        last = min(max(last, first + 1), first + most)
        yield slice(first, last)
        first, before = last, int(behind[last - 1])


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _sized(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _int_feature(value: int) -> bytes:
    return b"\x1a" + _sized(b"\x0a" + _sized(_varint(value)))


def _entry(key: bytes, feature: bytes) -> bytes:
    return b"\x0a" + _sized(b"\x0a" + _sized(key) + b"\x12" + _sized(feature))


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise DataError("the record is not a readable tf.train.Example")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, position
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Fields of a protocol buffer message: number, varint value, bytes value."""
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position)
        kind = tag & 7
        if kind == 0:
            value, position = _read_varint(data, position)
            yield tag >> 3, value, b""
            continue
        if kind == 2:
            length, position = _read_varint(data, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise DataError("the record is not a readable tf.train.Example")
        if length > len(data) - position:
            raise DataError("the record is not a readable tf.train.Example")
        # Fixed-width fields are none of ours; a negative number tells them from bytes.
        yield (tag >> 3) * (1 if kind == 2 else -1), 0, data[position : position + length]
        position += length


def _features(payload: bytes) -> dict[str, Any]:
    """The features of ours that a payload has: bytes for image and name, int for the others."""
    found: dict[str, Any] = {}
    for number, _, features in _fields(payload):
        if number != 1:
            continue
        for entry_number, _, entry in _fields(features):
            if entry_number != 1:
                continue
            key, feature = b"", b""
            for part, _, value in _fields(entry):
                key, feature = (value, feature) if part == 1 else (key, value)
            name = key.decode("utf-8", "replace")
            if name in _INT_FEATURES:
                found[name] = _single(_int_values(feature, name), name)
            elif name in ("image", "name"):
                found[name] = _single(_bytes_values(feature, name), name)
    return found


def _single(values: list[Any], name: str) -> Any:
    if len(values) != 1:
        raise DataError(f"the feature {name!r} has {len(values)} values instead of one")
    return values[0]


def _bytes_values(feature: bytes, name: str) -> list[bytes]:
    values: list[bytes] = []
    for kind, _, items in _fields(feature):
        if kind != 1:
            raise DataError(f"the feature {name!r} does not hold bytes")
        values += [value for number, _, value in _fields(items) if number == 1]
    return values


def _int_values(feature: bytes, name: str) -> list[int]:
    values: list[int] = []
    for kind, _, items in _fields(feature):
        if kind != 3:
            raise DataError(f"the feature {name!r} does not hold whole numbers")
        for number, value, packed in _fields(items):
            if number != 1:
                continue
            if not packed:
                values.append(_signed(value))
            position = 0
            while position < len(packed):
                value, position = _read_varint(packed, position)
                values.append(_signed(value))
    return values


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _key_code(name: str) -> int:
    return int.from_bytes(name.encode(), "little")


def _windows(data: NDArray[np.uint8], places: Int64Array, width: int) -> NDArray[np.uint8]:
    """uint8 [n, width]: the bytes from each place on."""
    return np.lib.stride_tricks.sliding_window_view(data, width)[places]


def _scan_usual(
    data: NDArray[np.uint8], starts: Int64Array, ends: Int64Array, index: Index, rows: slice
) -> bool:
    """``_scan`` for records that are an image and a true label below 128, as most are.

    Where the payloads begin, where they end and that their lengths take ``width`` bytes each
    says how every byte around the image must be, so they are compared instead of parsed.

    Returns:
      whether all the rows are of that layout; if not, nothing is filled in.
    """
    sizes = ends - starts
    # Lengths of two bytes, or of three; within them also those of the parts, which are shorter.
    width = 2 if sizes.min() >= 256 and sizes.max() < 1 << 14 else 3
    if width == 3 and (sizes.min() < (1 << 14) + 256 or sizes.max() >= 1 << 21):
        return False
    tail = np.frombuffer(_label_entries(0, True, -1), np.uint8)
    head = 12 + 5 * width
    if (sizes < head + len(tail)).any():
        return False
    tails = _windows(data, ends - len(tail), len(tail))
    labels = tails[:, -1]
    if (tails[:, :-1] != tail[:-1]).any() or (labels > 127).any():
        return False
    image = sizes - head - len(tail)
    values = image + width + 1
    feature = values + width + 1
    pair = feature + width + 8
    features = pair + width + 1 + len(tail)
    found, column = _windows(data, starts, head), 0
    for constant, length in (
        (b"\x0a", features),
        (b"\x0a", pair),
        (b"\x0a\x05image\x12", feature),
        (b"\x0a", values),
        (b"\x0a", image),
    ):
        behind = column + len(constant)
        if (found[:, column:behind] != np.frombuffer(constant, np.uint8)).any():
            return False
        for k in range(width):
            byte = length >> 7 * k
            if k < width - 1:
                byte = byte & 0x7F | 0x80
            if (found[:, behind + k] != byte).any():
                return False
        column = behind + width
    index.labels[rows] = labels
    index.labeled[rows] = True
    index.image_starts[rows] = starts + head
    index.image_ends[rows] = ends - len(tail)
    return True


def _scan(
    data: NDArray[np.uint8], starts: Int64Array, ends: Int64Array, index: Index, rows: slice
) -> BoolArray:
    """Parses many payloads at once, a feature a round, and fills ``rows`` of ``index``.

    Returns:
      bool [n]: the rows that have the usual layout (each feature once, one value) and are filled;
      the others are left to ``decode_example``.
    """
    count = len(starts)
    last = max(len(data) - 1, 0)
    if not len(data):
        return np.zeros(count, np.bool_)
    good = np.ones(count, np.bool_)

    def byte(position: Int64Array) -> Int64Array:
        return data[np.minimum(position, last)].astype(np.int64)

    def varint(position: Int64Array, width: int = 5) -> tuple[Int64Array, Int64Array]:
        value = np.zeros(count, np.int64)
        more = np.ones(count, np.bool_)
        position = position.copy()
        for k in range(width):
            current = byte(position)
            value |= np.where(more, (current & 0x7F) << (7 * k), 0)
            position += more
            more &= current >= 0x80
            if not more.any():
                break
        good[more] = False
        return value, position

    position = starts
    good &= byte(position) == 0x0A
    length, position = varint(position + 1)
    good &= position + length == ends
    numbers = {name: np.full(count, -2, np.int64) for name in _INT_FEATURES}
    image_starts, image_ends = np.zeros(count, np.int64), np.zeros(count, np.int64)
    while True:
        active = good & (position < ends)
        if not active.any():
            break
        fine = byte(position) == 0x0A
        length, inner = varint(position + 1)
        entry_end = inner + length
        fine &= (entry_end <= ends) & (byte(inner) == 0x0A)
        key_length = byte(inner + 1)
        fine &= (key_length > 0) & (key_length < 8)
        code = np.zeros(count, np.int64)
        for k in range(7):
            code |= np.where(k < key_length, byte(inner + 2 + k) << (8 * k), 0)
        inner = inner + 2 + key_length
        fine &= byte(inner) == 0x12
        length, inner = varint(inner + 1)
        fine &= inner + length == entry_end
        kind = byte(inner)
        length, inner = varint(inner + 1)
        fine &= inner + length == entry_end
        tag = byte(inner)
        known = np.zeros(count, np.bool_)

        length, value_start = varint(inner + 1)
        for name in ("image", "name"):
            chosen = active & (code == _key_code(name))
            known |= chosen
            fine &= ~chosen | ((kind == 0x0A) & (tag == 0x0A) & (value_start + length == entry_end))
            if name == "image":
                fine &= ~chosen | (image_ends == 0)
                image_starts = np.where(chosen, value_start, image_starts)
                image_ends = np.where(chosen, entry_end, image_ends)

        whole = active & np.isin(code, [_key_code(name) for name in _INT_FEATURES])
        # Unpacked values follow their tag at once, packed ones their length.
        packed = tag == 0x0A
        value, value_end = varint(np.where(whole, np.where(packed, value_start, inner + 1), 0), 10)
        fine &= ~whole | (
            (kind == 0x1A)
            & (packed | (tag == 0x08))
            & (value_end == entry_end)
            & (~packed | (value_start + length == entry_end))
        )
        for name, values in numbers.items():
            chosen = whole & (code == _key_code(name))
            fine &= ~chosen | (values == -2)
            numbers[name] = np.where(chosen, value, values)
        known |= whole
        good &= ~active | (fine & known)
        position = np.where(active, entry_end, position)
    good &= (image_ends > 0) & (numbers["label"] != -2) & (position == ends)
    some = good & (numbers["label"] >= 0)
    labeled = some & (numbers["labeled"] != 0) & (numbers["labeled"] != _PSEUDO)
    index.labeled[rows] = labeled
    index.pseudo[rows] = np.where(some & (numbers["labeled"] == _PSEUDO), numbers["label"], -1)
    index.labels[rows] = np.where(labeled, numbers["label"], -1)
    index.sources[rows] = np.where(good & (numbers["source"] >= 0), numbers["source"], -1)
    index.image_starts[rows] = image_starts
    index.image_ends[rows] = image_ends
    return good
