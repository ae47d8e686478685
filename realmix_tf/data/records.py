"""Record files: TFRecord files of examples, read without TensorFlow.

A file is a row of frames: length (uint64), masked CRC-32C of the length, payload, masked CRC-32C
of the payload, all little-endian. ``examples`` says what a payload is.

What is read is checked: lengths and their checksums when a file is opened, a record's checksum
whenever it is read or copied, labels and counts against the manifest when they are first asked for.
The SHA-256 of the manifest is compared by ``verify`` (and by training) only: computing it takes
longer than copying the file. A file of the same size, number of records and number of each class
as its manifest says, yet another one, is therefore found by these two.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from realmix_tf.data import manifest as manifests
from realmix_tf.data.checksums import intact, masked_crc, masked_crcs, with_last_byte
from realmix_tf.data.examples import (
    BoolArray,
    Index,
    Int64Array,
    Record,
    Tagging,
    Tags,
    changed_rest,
    decode_example,
    image_head,
    label_entries,
    parsed_with_tags,
    payload_head,
    scan,
    scan_usual,
    windows,
    with_tags,
)
from realmix_tf.data.manifest import Manifest
from realmix_tf.errors import DataError
from realmix_tf.files import open_regular, resource_error

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
FRAME_OVERHEAD = 16

_HEADER = struct.Struct("<QI")
_WORD = struct.Struct("<I")
_PNG_HEAD = 33  # the signature and the IHDR chunk
_SCAN_CHUNK = 1 << 15  # records indexed at once: small enough for the temporaries to stay cached
_SCAN_BYTES = 32 << 20  # and bytes, so that memory does not depend on the size of the images
_KEPT_PAGES = 64 << 20  # bytes of the file that stay mapped into memory
_REGION_BITS = 21  # what the kernel maps at most when one byte is read: 2 MiB
BLOCK_BYTES = 1 << 20  # copied at once: it stays in the processor's cache
_REBUILD = "build this file again, or fetch it again"
_WRONG_CHECKSUM = "the checksum is wrong, the record is damaged"


def frame_of(payload: bytes) -> bytes:
    """``payload`` with its length and checksums around it."""
    return b"".join((_frame_head(len(payload)), payload, _WORD.pack(masked_crc(payload))))


@lru_cache(1 << 14)
def _frame_head(length: int) -> bytes:
    """What stands before a payload of ``length`` bytes."""
    packed = struct.pack("<Q", length)
    return packed + _WORD.pack(masked_crc(packed))


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
            with open_regular(path) as file:
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
        sizes = behind - begins
        block = self._alike(begins, sizes)
        if block is None:
            joined = self._joined(begins, behind)
            block = np.frombuffer(joined, np.uint8).copy()
        else:
            joined = block.tobytes()
        if not intact(block, np.cumsum(sizes)):
            self._check_frames(joined, sizes, ids)
        return joined

    def _alike(self, begins: Int64Array, sizes: Int64Array) -> NDArray[np.uint8] | None:
        """Frames of one length that lie as in a table, joined; None where they do not."""
        stride, first = int(sizes[0]), int(begins.min())
        rows, over = np.divmod(begins - first, stride)
        spread = (int(rows.max()) + 1) * stride
        if (sizes != stride).any() or over.any() or spread > _KEPT_PAGES:
            return None
        table = np.frombuffer(self._map, np.uint8, spread, first).reshape(-1, stride)
        block = table.take(rows, axis=0).reshape(-1)
        self._touch(min(spread, len(rows) << _REGION_BITS))
        return block

    def _joined(self, begins: Int64Array, behind: Int64Array) -> bytes:
        """Pieces of the file, joined."""
        # Neighbours are read as one piece.
        apart = np.flatnonzero(begins[1:] != behind[:-1]) + 1
        firsts, lasts = begins[np.r_[0, apart]], behind[np.r_[apart - 1, -1]]
        if len(firsts) == 1:
            joined = self._map[int(firsts[0]) : int(lasts[0])]
            self._touch(len(joined))
        else:
            joined = b"".join(self._pieces(firsts, lasts))
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
            head, inner = payload_head(end - begin), image_head(image_end - image_begin)
            rest = changed_rest(joined[image_end:end], before, after)
            usual = image_begin - begin == len(head) + len(inner) and payload.startswith(head)
            if usual and rest is not None:
                result.append(frame_of(with_tags(payload, image_end - begin, rest)))
            else:
                result.append(frame_of(parsed_with_tags(payload, after)))
        return result

    def _relabeled(self, ids: Int64Array, old: Int64Array, new: Int64Array) -> bytes | None:
        """``tagged`` where a byte each changes; None where it takes more than that."""
        # Labels below 128 take one byte, behind the image in what ``encode_example`` makes.
        if min(old.min(), new.min()) < 0 or max(old.max(), new.max()) > 127:
            return None
        head = np.frombuffer(label_entries(0, True, -1)[:-1], np.uint8)
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
        more = np.flatnonzero(labels + 1 < ends)
        behind = zip((labels[more] + 1).tolist(), ends[more].tolist(), strict=True)
        if any(joined.find(b"label", a, b) >= 0 for a, b in behind):
            return None
        block[labels] = new
        words = np.ndarray((len(block) - 3,), np.dtype("<u4"), block, strides=(1,))
        if len(more):
            words[ends] = masked_crcs(block.tobytes(), ends - sizes + 16, ends)
        else:
            words[ends] = with_last_byte(words[ends], old.astype(np.uint8), new.astype(np.uint8))
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

    def verify(self, progress: Callable[[int], None] | None = None) -> None:
        """Checks everything: all checksums, all records, and the SHA-256 of the manifest.

        Args:
          progress: called with the bytes read since the last call.

        Raises:
          DataError: something does not agree; the first such record is named.
        """
        digest = hashlib.sha256()
        ids = np.arange(len(self))
        for rows in self.blocks(ids):
            frames = self.frames(ids[rows])
            digest.update(frames)
            if progress is not None:
                progress(len(frames))
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
        """Raises ``DataError`` for the first record whose payload has another checksum."""
        ends = np.cumsum(sizes) - 4
        found = masked_crcs(joined, ends - sizes + 16, ends)
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
                if not scan_usual(data, starts, ends, index, rows):
                    good = scan(data, starts, ends, index, rows)
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
        heads = windows(data, np.where(small, 0, starts), min(_PNG_HEAD, len(data)))
        bad = small
        if not small.all():
            wrong = np.take(heads, compared, axis=1) != np.frombuffer(expected, np.uint8)
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


def apart(joined: bytes, sizes: Int64Array) -> list[bytes]:
    """Cuts joined records of these ``sizes`` into single ones."""
    bounds = [0, *np.cumsum(sizes).tolist()]
    return [joined[a:b] for a, b in itertools.pairwise(bounds)]


def _stretches(
    sizes: Int64Array, most_bytes: int = BLOCK_BYTES, most: int = _SCAN_CHUNK
) -> Iterator[slice]:
    """Cuts a row of records of these ``sizes`` into stretches of so many bytes and records."""
    behind = np.cumsum(sizes)
    first = before = 0
    while first < len(sizes):
        last = int(np.searchsorted(behind, before + most_bytes, side="right"))
        last = min(max(last, first + 1), first + most)
        yield slice(first, last)
        first, before = last, int(behind[last - 1])
