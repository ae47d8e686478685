"""The record format: TFRecord files of ``tf.train.Example``, read and written without TensorFlow.

A file is a row of frames: length (uint64), masked CRC-32C of the length, payload, masked CRC-32C
of the payload, all little-endian. A payload is a ``tf.train.Example`` with ``image`` (PNG bytes)
and ``label`` (int64), and where needed ``labeled`` (0 = no true label; ``label`` is then −1),
``source`` (id of the image a copy was made from) and ``name`` (relative file name).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

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
_REBUILD = "build this file again, or fetch it again"
_INT_FEATURES = ("label", "labeled", "source")

Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class Record(NamedTuple):
    """One decoded record; ``label`` is −1 where there is no true label."""

    image: bytes
    label: int
    labeled: bool
    source: int | None
    name: str | None


class Index(NamedTuple):
    """What is known of every record without decoding its image (arrays of length N)."""

    labels: Int64Array
    labeled: BoolArray
    sources: Int64Array
    image_starts: Int64Array
    image_ends: Int64Array


def masked_crc(data: bytes) -> int:
    """The CRC-32C of ``data`` as TFRecord files store it."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame_of(payload: bytes) -> bytes:
    """``payload`` with its length and checksums around it."""
    length = struct.pack("<Q", len(payload))
    return b"".join(
        (length, _WORD.pack(masked_crc(length)), payload, _WORD.pack(masked_crc(payload)))
    )


def encode_example(
    image: bytes,
    label: int,
    *,
    labeled: bool = True,
    source: int | None = None,
    name: str | None = None,
) -> bytes:
    """A serialised ``tf.train.Example``.

    Args:
      image: PNG bytes.
      label: class id, −1 when there is none.
      labeled: whether ``label`` is a true label; stored only when it is not.
      source: id of the image this is a copy of.
      name: relative file name; undecodable bytes as surrogate escapes.
    """
    return encode_with(image, encode_rest(label, labeled=labeled, source=source, name=name))


def encode_rest(
    label: int, *, labeled: bool = True, source: int | None = None, name: str | None = None
) -> bytes:
    """All features of an example but the image, for ``encode_with`` (see ``encode_example``)."""
    parts = [_entry(b"label", _int_feature(label))]
    if not labeled:
        parts.append(_entry(b"labeled", _int_feature(0)))
    if name is not None:
        raw = name.encode("utf-8", "surrogateescape")
        parts.append(_entry(b"name", b"\x0a" + _sized(b"\x0a" + _sized(raw))))
    if source is not None:
        parts.append(_entry(b"source", _int_feature(source)))
    return b"".join(parts)


def encode_with(image: bytes, rest: bytes) -> bytes:
    """A serialised example of PNG bytes and what ``encode_rest`` made of the other features."""
    features = _entry(b"image", b"\x0a" + _sized(b"\x0a" + _sized(image))) + rest
    return b"\x0a" + _sized(features)


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
    labeled = label >= 0 and flag != 0
    return Record(
        image=image,
        label=label if labeled else -1,
        labeled=labeled,
        source=None if source is None or source < 0 else source,
        name=None if name is None else name.decode("utf-8", "surrogateescape"),
    )


class RecordReader:
    """Random access to a record file through a memory map.

    Opening walks the framing: a cut, trailing bytes, absurd lengths and damaged length checksums
    are found; with a manifest also a wrong number of records or bytes, which is how a cut exactly
    between two records shows. Reading a record checks its checksum. Records are counted from 0.

    Args:
      path: the file.

    Raises:
      DataError: the file or its manifest is missing or damaged; file and record are named.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._index: Index | None = None
        self._map: mmap.mmap | bytes = b""
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

    def sizes(self) -> Int64Array:
        """Bytes of every record with its framing, int64 [N]."""
        return np.asarray(self._ends - self._starts + FRAME_OVERHEAD)

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
            self._check_images(index)
            self._check_labels(index)
            self._index = index
        return self._index

    def verify(self) -> None:
        """Checks everything: all checksums, all records, and the SHA-256 of the manifest.

        Raises:
          DataError: something does not agree; the first such record is named.
        """
        for i in range(len(self)):
            self._payload(i)
        _ = self.index
        if self.manifest is not None:
            digest = hashlib.sha256(self._map).hexdigest()
            if digest != self.manifest.sha256:
                raise DataError("the SHA-256 differs from the manifest's", self.path, _REBUILD)

    def _walk(self) -> tuple[Int64Array, Int64Array]:
        starts: list[int] = []
        lengths: list[int] = []
        data, size = self._map, self._bytes
        unpack = _HEADER.unpack_from
        # Lengths repeat, so most of their checksums are a look-up.
        checksums: dict[int, int] = {}
        position = 0
        while position < size:
            if size - position < FRAME_OVERHEAD:
                raise self._error(len(starts), "the file is cut short, or has bytes after its end")
            length, checksum = unpack(data, position)
            if checksums.get(length) != checksum:
                if masked_crc(data[position : position + 8]) != checksum:
                    raise self._error(len(starts), "the checksum of the record's length is wrong")
                checksums[length] = checksum
            position += 12
            if length > size - position - 4:
                raise self._error(len(starts), "the file is cut short within the record")
            starts.append(position)
            lengths.append(length)
            position += length + 4
        begin = np.array(starts, np.int64)
        return begin, begin + np.array(lengths, np.int64)

    def _payload(self, i: int) -> bytes:
        start, end = int(self._starts[i]), int(self._ends[i])
        payload = self._map[start:end]
        if _WORD.unpack_from(self._map, end)[0] != masked_crc(payload):
            raise self._error(i, "the checksum is wrong, the record is damaged")
        return payload

    def _build_index(self) -> Index:
        count = len(self)
        index = Index(
            labels=np.full(count, -1, np.int64),
            labeled=np.zeros(count, np.bool_),
            sources=np.full(count, -1, np.int64),
            image_starts=np.zeros(count, np.int64),
            image_ends=np.zeros(count, np.int64),
        )
        # The array borrows the map, which could not be unmapped while it lives.
        data = np.frombuffer(self._map, np.uint8)
        try:
            for first in range(0, count, _SCAN_CHUNK):
                rows = slice(first, min(first + _SCAN_CHUNK, count))
                good = _scan(data, self._starts[rows], self._ends[rows], index, rows)
                for i in np.flatnonzero(~good) + first:
                    self._index_one(int(i), index)
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
        index.image_starts[i], index.image_ends[i] = (
            start + place,
            start + place + len(record.image),
        )

    def _check_images(self, index: Index) -> None:
        for first in range(0, len(self), _SCAN_CHUNK):
            rows = slice(first, min(first + _SCAN_CHUNK, len(self)))
            bad = self._bad_images(index.image_starts[rows], index.image_ends[rows])
            if bad.any():
                i = first + int(np.argmax(bad))
                image = self._map[int(index.image_starts[i]) : int(index.image_ends[i])]
                if not image.startswith(PNG_SIGNATURE) or len(image) < _PNG_HEAD:
                    raise self._error(i, "the image is not a PNG")
                width, height = struct.unpack(">II", image[16:24])
                raise self._error(
                    i, f"the image is {height}x{width}, colour type {image[25]}, depth {image[24]};"
                    f" the manifest says {'x'.join(map(str, self.image_shape))}"
                )  # fmt: skip

    def _bad_images(self, starts: Int64Array, ends: Int64Array) -> BoolArray:
        data = np.frombuffer(self._map, np.uint8)
        small = ends - starts < _PNG_HEAD
        heads = data[np.where(small, 0, starts)[:, None] + np.arange(_PNG_HEAD)]
        expected = PNG_SIGNATURE
        compared = [*range(8)]
        if self.manifest is not None:
            height, width, channels = self.image_shape
            kind = 0 if channels == 1 else 2
            expected += struct.pack(">II", width, height) + bytes((8, kind))
            compared += [*range(16, 26)]
        wrong = heads[:, compared] != np.frombuffer(expected, np.uint8)
        return np.asarray(small | wrong.any(axis=1))

    def _check_labels(self, index: Index) -> None:
        if self.manifest is None:
            return
        classes = len(self.manifest.classes)
        outside = index.labels >= classes
        if outside.any():
            i = int(np.argmax(outside))
            raise self._error(i, f"label {index.labels[i]} is none of the {classes} classes")
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
        self._file: IO[bytes] | None = None
        self.manifest: Manifest | None = None

    def __enter__(self) -> RecordWriter:
        if not self._overwrite:
            refuse_existing(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _open_exclusively(self._temporary, self.path)
        except OSError as error:
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
        self._append(frame, label)

    def _append(self, frame: bytes | memoryview, label: int) -> None:
        if self._file is None:
            raise ValueError("the writer is not open")
        if label >= len(self._per_class):
            raise DataError(
                f"label {label} is none of the {len(self._per_class)} classes",
                f"{self.path}, record {self.records}",
            )
        try:
            self._file.write(frame)
        except OSError as error:
            raise resource_error(error, self.path) from error
        self._digest.update(frame)
        self.records += 1
        self.bytes += len(frame)
        if label >= 0:
            self.labeled += 1
            self._per_class[label] += 1

    def _commit(self) -> None:
        if self._file is None:
            raise ValueError("the writer is not open")
        self._file.flush()
        os.fsync(self._file.fileno())
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
        # After a commit the temporary name is gone; whoever took it since keeps it.
        if self.manifest is None:
            with contextlib.suppress(OSError):
                self._temporary.unlink()
        with contextlib.suppress(OSError):
            self._file.close()
        self._file = None


def refuse_existing(path: str | os.PathLike[str]) -> None:
    """Checks that a record file may be written.

    Raises:
      UsageError: there is one already. One whose writing was interrupted does not count.
    """
    path = Path(path)
    present = path.exists() or manifests.manifest_path(path).exists()
    if present and not manifests.is_marked_incomplete(path):
        raise UsageError("this file exists already", path, "--overwrite, or another name")


def _open_exclusively(temporary: Path, target: Path) -> IO[bytes]:
    """Opens the temporary file empty; the kernel's lock says whether someone else writes it."""
    while True:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file may have been renamed between opening and locking it.
            current = os.stat(temporary)
            if os.path.samestat(os.fstat(descriptor), current):
                os.ftruncate(descriptor, 0)
                return open(descriptor, "wb", buffering=1 << 20)
        except FileNotFoundError:
            pass
        except BlockingIOError as error:
            os.close(descriptor)
            raise ResourceError(
                "another process is writing this file", target, "wait for it to end"
            ) from error
        os.close(descriptor)


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
    labeled = good & (numbers["label"] >= 0) & (numbers["labeled"] != 0)
    index.labeled[rows] = labeled
    index.labels[rows] = np.where(labeled, numbers["label"], -1)
    index.sources[rows] = np.where(good & (numbers["source"] >= 0), numbers["source"], -1)
    index.image_starts[rows] = image_starts
    index.image_ends[rows] = image_ends
    return good
