"""One record: a ``tf.train.Example``, encoded, decoded and indexed without TensorFlow.

A payload has ``image`` (PNG bytes) and ``label`` (int64), and where needed

- ``labeled``: 0 = there is no true label, ``label`` is −1; 2 = ``label`` is a pseudo label, which a
  model gave, not a true one. Readers count both as unlabelled: ``labels`` is −1, ``labeled`` false
  and a manifest's ``per_class`` leaves them out; the pseudo label is in ``pseudo_labels`` alone.
- ``source``: the image a copy was made from. In a dataset's own files (train, test, extra,
  unlabeled) it is the position of the original in the same file; in the files of a split (label,
  unlabel, and copies made of them) it is an id of the split's map.
- ``name``: relative file name.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from realmix_tf.errors import DataError

PSEUDO = 2  # the value of ``labeled`` for a label that a model gave

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
    parts = [label_entries(label, labeled, -1 if pseudo is None else pseudo)]
    if name is not None:
        raw = name.encode("utf-8", "surrogateescape")
        parts.append(_entry(b"name", b"\x0a" + _sized(b"\x0a" + _sized(raw))))
    if source is not None:
        parts.append(_source_entry(source))
    return b"".join(parts)


@lru_cache(1 << 12)
def label_entries(label: int, labeled: bool, pseudo: int) -> bytes:
    if pseudo >= 0:
        if labeled and label >= 0:
            raise ValueError("a record has a true label or a pseudo label, not both")
        return _entry(b"label", _int_feature(pseudo)) + _entry(b"labeled", _int_feature(PSEUDO))
    flag = b"" if labeled else _entry(b"labeled", _int_feature(0))
    return _entry(b"label", _int_feature(label)) + flag


def _source_entry(source: int) -> bytes:
    return _entry(b"source", _int_feature(source)) if source >= 0 else b""


def encode_with(image: bytes, rest: bytes) -> bytes:
    """A serialised example of PNG bytes and what ``encode_rest`` made of the other features."""
    head = image_head(len(image))
    return b"".join((_example_head(len(head) + len(image) + len(rest)), head, image, rest))


@lru_cache(1 << 14)
def image_head(length: int) -> bytes:
    """What stands before an image of ``length`` bytes within its entry of the features."""
    values = b"\x0a" + _varint(length)
    feature = b"\x0a" + _varint(len(values) + length) + values
    pair = b"\x0a" + _sized(b"image") + b"\x12" + _varint(len(feature) + length) + feature
    return b"\x0a" + _varint(len(pair) + length) + pair


@lru_cache(1 << 14)
def _example_head(length: int) -> bytes:
    """What stands before ``length`` bytes of features."""
    return b"\x0a" + _varint(length)


def with_tags(payload: bytes, image_end: int, rest: bytes) -> bytes:
    """A serialised example whose features behind the image are others."""
    head = len(payload_head(len(payload)))
    return b"".join((_example_head(image_end - head + len(rest)), payload[head:image_end], rest))


def parsed_with_tags(payload: bytes, new: Tags) -> bytes:
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
def changed_rest(rest: bytes, old: Tags, new: Tags) -> bytes | None:
    """The features behind the image with other tags; None where they are laid out otherwise."""
    labels = label_entries(old.label, old.label >= 0, old.pseudo)
    source = _source_entry(old.source)
    if not (rest.startswith(labels) and rest.endswith(source)):
        return None
    between = rest[len(labels) : len(rest) - len(source)]
    # A second feature of the same name would take precedence, so it must not stay behind.
    if b"label" in between or b"source" in between or b"image" in between:
        return None
    return b"".join(
        (label_entries(new.label, new.label >= 0, new.pseudo), between, _source_entry(new.source))
    )


@lru_cache(1 << 14)
def payload_head(length: int) -> bytes:
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
    labeled = label >= 0 and flag not in (0, PSEUDO)
    return Record(
        image=image,
        label=label if labeled else -1,
        labeled=labeled,
        source=None if source is None or source < 0 else source,
        name=None if name is None else name.decode("utf-8", "surrogateescape"),
        pseudo=label if label >= 0 and flag == PSEUDO else None,
    )


def windows(data: NDArray[np.uint8], places: Int64Array, width: int) -> NDArray[np.uint8]:
    """uint8 [n, width]: the bytes from each place on."""
    steps = np.diff(places)
    if len(steps) and steps[0] > 0 and (steps == steps[0]).all():
        # Records of one length, as they often are: a plain copy is several times faster.
        shape, strides = (len(places), width), (int(steps[0]), 1)
        last = int(places[-1]) + width
        return np.ndarray(shape, np.uint8, data[int(places[0]) : last], strides=strides).copy()
    return np.lib.stride_tricks.sliding_window_view(data, width)[places]


def scan_usual(
    data: NDArray[np.uint8], starts: Int64Array, ends: Int64Array, index: Index, rows: slice
) -> bool:
    """``scan`` for records that are an image, a true label below 128 and maybe a name, as most are.

    Where the payloads begin and end, how long their images are and that these lengths take
    ``width`` bytes each says how every byte around the image must be, so they are compared instead
    of parsed.

    Returns:
      whether all the rows are of that layout; if not, nothing is filled in.
    """
    sizes = ends - starts
    # Lengths of two bytes, or of three; within them also those of the parts, which are shorter.
    width = 2 if sizes.min() >= 256 and sizes.max() < 1 << 14 else 3
    if width == 3 and (sizes.min() < (1 << 14) + 256 or sizes.max() >= 1 << 21):
        return False
    label = np.frombuffer(label_entries(0, True, -1), np.uint8)
    head = 12 + 5 * width
    heads = windows(data, starts, head)
    if sizes.min() == sizes.max() and (heads == heads[0]).all():
        images = _usual_images(heads[:1], sizes[:1], width)
    else:
        images = _usual_images(heads, sizes, width)
    if images is None:
        return False
    image_ends = starts + head + images
    rest = ends - image_ends - len(label)
    if (rest < 0).any():
        return False
    labels = windows(data, image_ends, len(label))
    if (labels[:, :-1] != label[:-1]).any() or (labels[:, -1] > 127).any():
        return False
    named = np.flatnonzero(rest)
    if not _usual_names(data, ends[named] - rest[named], rest[named]):
        return False
    index.labels[rows] = labels[:, -1]
    index.labeled[rows] = True
    index.image_starts[rows] = starts + head
    index.image_ends[rows] = image_ends
    return True


def _usual_images(heads: NDArray[np.uint8], sizes: Int64Array, width: int) -> Int64Array | None:
    """Bytes of each image, int64 [n], if what stands before them is as usual.

    Args:
      heads: uint8 [n, 12 + 5 · width].
      sizes: int64 [n], of the payloads.
      width: bytes that a length takes.
    """
    image = np.zeros(len(heads), np.int64)
    for k in range(width):
        digit = heads[:, k - width].astype(np.int64)
        image |= (digit & 0x7F if k < width - 1 else digit) << 7 * k
    values = image + width + 1
    feature = values + width + 1
    pair = feature + width + 8
    expected, column = np.empty_like(heads), 0
    for constant, length in (
        (b"\x0a", sizes - width - 1),
        (b"\x0a", pair),
        (b"\x0a\x05image\x12", feature),
        (b"\x0a", values),
        (b"\x0a", image),
    ):
        behind = column + len(constant)
        expected[:, column:behind] = np.frombuffer(constant, np.uint8)
        for k in range(width):
            digit = length >> 7 * k
            expected[:, behind + k] = digit & 0x7F | 0x80 if k < width - 1 else digit & 0xFF
        column = behind + width
    return image if (heads == expected).all() else None


def _usual_names(data: NDArray[np.uint8], begins: Int64Array, sizes: Int64Array) -> bool:
    """Whether all of these pieces are the entry of a name whose lengths take a byte each."""
    head = np.frombuffer(_entry(b"name", b"\x0a" + _sized(b"\x0a" + _sized(b""))), np.uint8)
    if not len(begins):
        return True
    if sizes.min() < len(head) or sizes.max() > 127:
        return False
    name = sizes - len(head)
    same = np.broadcast_to(head, (len(name), len(head))).copy()
    # The lengths of the entry, of the pair in it, and so on, each within the one before.
    for column in (1, 9, 11, 13):
        same[:, column] += name.astype(np.uint8)
    return bool((windows(data, begins, len(head)) == same).all())


def scan(
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
    labeled = some & (numbers["labeled"] != 0) & (numbers["labeled"] != PSEUDO)
    index.labeled[rows] = labeled
    index.pseudo[rows] = np.where(some & (numbers["labeled"] == PSEUDO), numbers["label"], -1)
    index.labels[rows] = np.where(labeled, numbers["label"], -1)
    index.sources[rows] = np.where(good & (numbers["source"] >= 0), numbers["source"], -1)
    index.image_starts[rows] = image_starts
    index.image_ends[rows] = image_ends
    return good


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
