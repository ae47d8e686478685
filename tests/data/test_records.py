from __future__ import annotations

import dataclasses
import json
import os
import struct
import sys

import numpy as np
import pytest

from realmix_tf.data import examples, records
from realmix_tf.data import manifest as manifests
from realmix_tf.data.examples import Index, Tagging, decode_example, encode_example
from realmix_tf.data.images import encode_png
from realmix_tf.data.manifest import manifest_path, provenance, read_manifest
from realmix_tf.data.record_writer import RecordWriter
from realmix_tf.data.records import RecordReader, apart, frame_of
from realmix_tf.errors import DataError, ResourceError, UsageError

CLASSES = ("cat", "dog", "owl")


def png(seed: int = 0, shape: tuple[int, int, int] = (4, 5, 3)) -> bytes:
    return encode_png(np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8))


def open_writer(path, **more):
    options = {
        "dataset": "t",
        "role": "train",
        "classes": CLASSES,
        "shape": (4, 5, 3),
        "provenance": provenance("test"),
    }
    return RecordWriter(path, **{**options, **more})


def write(path, count: int = 10, **more) -> None:
    with open_writer(path, **more) as writer:
        for i in range(count):
            label = -1 if i % 4 == 3 else i % 3
            writer.write(
                encode_example(
                    png(i),
                    label,
                    labeled=label >= 0,
                    source=i * 1000 if i % 2 else None,
                    name=f"train/é {i}.png" if i % 5 else None,
                )
            )


def test_what_is_written_is_read(tmp_path) -> None:
    path = tmp_path / "a.tfrecord"
    write(path)
    with RecordReader(path) as reader:
        reader.verify()
        assert len(reader) == 10
        assert reader.labels.tolist() == [0, 1, 2, -1, 1, 2, 0, -1, 2, 0]
        assert reader.labeled.tolist() == [i % 4 != 3 for i in range(10)]
        assert reader.sources.tolist() == [i * 1000 if i % 2 else -1 for i in range(10)]
        for i in range(10):
            record = reader.record(i)
            assert record.image == reader.image(i) == png(i)
            assert record.name == (f"train/é {i}.png" if i % 5 else None)
            assert bytes(reader.frame(i)) == frame_of(bytes(reader.payload(i)))
    manifest = read_manifest(path)
    assert manifest is not None
    assert (manifest.records, manifest.labeled, manifest.per_class) == (10, 8, (3, 2, 3))
    assert manifest.bytes == path.stat().st_size


def test_undecodable_names_survive() -> None:
    name = os.fsdecode(b"a/\xff\n.png")
    assert decode_example(encode_example(png(), 1, name=name)).name == name


def test_examples_equal_tensorflows() -> None:
    tf = pytest.importorskip("tensorflow")

    def feature(value):
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    ours = encode_example(png(), -1, labeled=False, source=2**40, name="é.png")
    features = {
        "name": feature("é.png".encode()),
        "source": feature(2**40),
        "labeled": feature(0),
        "label": feature(-1),
        "image": feature(png()),
    }
    theirs = tf.train.Example(features=tf.train.Features(feature=features))
    assert tf.train.Example.FromString(ours) == theirs
    assert decode_example(theirs.SerializeToString()) == decode_example(ours)


def test_files_equal_tensorflows(tmp_path) -> None:
    tf = pytest.importorskip("tensorflow")
    payloads = [encode_example(png(i), i % 3) for i in range(5)]
    with tf.io.TFRecordWriter(str(tmp_path / "theirs.tfrecord")) as writer:
        for payload in payloads:
            writer.write(payload)
    with open_writer(tmp_path / "ours.tfrecord") as writer:
        for payload in payloads:
            writer.write(payload)
    assert (tmp_path / "ours.tfrecord").read_bytes() == (tmp_path / "theirs.tfrecord").read_bytes()
    with RecordReader(tmp_path / "theirs.tfrecord") as reader:
        assert reader.manifest is None
        assert reader.labels.tolist() == [0, 1, 2, 0, 1]
        assert reader.image_shape == (4, 5, 3)
        reader.verify()


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def entry(key: bytes, feature: bytes) -> bytes:
    return field(1, field(1, key) + field(2, feature))


LABEL_ONE = entry(b"label", field(3, field(1, b"\x01")))
LABEL_PACKED = entry(b"label", field(3, field(1, b"\x02")))
LABEL_PLAIN = entry(b"label", field(3, b"\x08\x02"))


def image_entry(i: int) -> bytes:
    return entry(b"image", field(1, field(1, png(i))))


IMAGE = image_entry(0)
FLOAT = entry(b"weight", field(2, field(1, b"\0\0\x80\x3f")))


@pytest.mark.parametrize(
    "features",
    [
        field(1, LABEL_PACKED + IMAGE),
        field(1, IMAGE + LABEL_PLAIN),
        field(1, FLOAT + LABEL_PLAIN + IMAGE),
        field(1, LABEL_PLAIN) + field(1, IMAGE),
        field(1, LABEL_ONE + LABEL_PACKED + IMAGE),
    ],
)
def test_other_encodings_of_the_same_record_are_read(tmp_path, features) -> None:
    record = decode_example(features)
    assert (record.label, record.image) == (2, png())
    path = tmp_path / "x.tfrecord"
    path.write_bytes(frame_of(features) + frame_of(encode_example(png(), 1)))
    with RecordReader(path) as reader:
        assert reader.labels.tolist() == [2, 1]
        assert reader.image(0) == png()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff" * 30,
        b"\x0a\x05ab",
        field(1, IMAGE),
        field(1, LABEL_PLAIN),
        field(1, entry(b"label", field(3, field(1, b"\x01\x02"))) + IMAGE),
        field(1, entry(b"label", field(1, field(1, b"x"))) + IMAGE),
        field(1, LABEL_PLAIN + entry(b"image", field(3, b"\x08\x02"))),
        field(1, LABEL_PLAIN + IMAGE)[:-1],
        encode_example(png(), 1)[:-3],
    ],
)
def test_malformed_examples_are_named(tmp_path, payload) -> None:
    with pytest.raises(DataError):
        decode_example(payload)
    path = tmp_path / "x.tfrecord"
    path.write_bytes(frame_of(encode_example(png(), 1)) + frame_of(payload))
    with RecordReader(path) as reader, pytest.raises(DataError, match="record 1"):
        _ = reader.labels


def test_random_damage_never_escapes_as_another_error(tmp_path) -> None:
    random = np.random.RandomState(0)
    good = encode_example(png(), 1, labeled=False, source=3, name="x")
    path = tmp_path / "x.tfrecord"
    for _ in range(300):
        bad = bytearray(good)
        for _ in range(random.randint(1, 4)):
            bad[random.randint(len(bad))] = random.randint(256)
        path.write_bytes(frame_of(bytes(bad)))
        try:
            expected = decode_example(bytes(bad))
        except DataError:
            expected = None
        try:
            with RecordReader(path) as reader:
                index = reader.index
                assert expected is not None
                assert index.labels[0] == expected.label
                assert index.sources[0] == (-1 if expected.source is None else expected.source)
                assert reader.image(0) == expected.image
        except DataError:
            signature = png()[:8]
            assert (
                expected is None
                or not expected.image.startswith(signature)
                or len(expected.image) < 33
            )


def test_every_cut_of_a_file_is_found(tmp_path) -> None:
    path = tmp_path / "a.tfrecord"
    write(path, 4)
    content, sizes = path.read_bytes(), []
    with RecordReader(path) as reader:
        sizes = np.cumsum(reader.sizes()).tolist()
    for cut in [
        0,
        1,
        11,
        12,
        15,
        sizes[0] - 1,
        sizes[0],
        sizes[0] + 5,
        *sizes[1:3],
        len(content) - 1,
    ]:
        path.write_bytes(content[:cut])
        with pytest.raises(DataError, match=r"a\.tfrecord"):
            RecordReader(path)
    path.write_bytes(content + content)
    with pytest.raises(DataError):
        RecordReader(path)


def test_cuts_without_a_manifest_are_found_inside_records_only(tmp_path) -> None:
    path = tmp_path / "a.tfrecord"
    write(path, 3)
    manifest_path(path).unlink()
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match="record 2"):
        RecordReader(path)
    path.write_bytes(content + b"\0" * 7)
    with pytest.raises(DataError, match="record 3"):
        RecordReader(path)


def test_every_flipped_bit_is_found(tmp_path) -> None:
    path = tmp_path / "a.tfrecord"
    write(path, 2)
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(DataError), RecordReader(path) as reader:
            reader.verify()


def test_a_flipped_bit_is_found_when_its_record_is_read(tmp_path) -> None:
    path = tmp_path / "a.tfrecord"
    write(path, 3)
    with RecordReader(path) as reader:
        middle = int(reader.sizes()[:2].sum()) - 60
    content = bytearray(path.read_bytes())
    assert b"IDAT" in content[middle - 120 : middle]
    content[middle - 20] ^= 4
    path.write_bytes(content)
    with RecordReader(path) as reader:
        reader.image(0)
        for read in (reader.record, reader.image, reader.payload, reader.frame):
            with pytest.raises(DataError, match=r"record 1.*try: "):
                read(1)


def test_absurd_lengths_are_refused(tmp_path) -> None:
    from realmix_tf.data.records import masked_crc

    length = struct.pack("<Q", 2**63)
    path = tmp_path / "x.tfrecord"
    path.write_bytes(length + struct.pack("<I", masked_crc(length)) + b"x" * 100)
    with pytest.raises(DataError, match="cut short"):
        RecordReader(path)


def test_images_that_are_no_png_are_named(tmp_path) -> None:
    path = tmp_path / "x.tfrecord"
    path.write_bytes(
        frame_of(encode_example(png(), 0)) + frame_of(encode_example(b"GIF89a" + b"x" * 99, 0))
    )
    with RecordReader(path) as reader, pytest.raises(DataError, match=r"not a PNG .*record 1"):
        _ = reader.index
    with open_writer(tmp_path / "y.tfrecord") as writer:
        writer.write(encode_example(png(shape=(4, 6, 3)), 0))
    with RecordReader(tmp_path / "y.tfrecord") as reader, pytest.raises(DataError, match="4x6"):
        _ = reader.index


def test_labels_and_counts_are_held_against_the_manifest(tmp_path) -> None:
    path = tmp_path / "a.tfrecord"
    write(path)
    value = json.loads(manifest_path(path).read_text())
    manifest_path(path).write_text(
        json.dumps({**value, "classes": ["cat", "dog"], "per_class": [5, 3]})
    )
    with RecordReader(path) as reader, pytest.raises(DataError, match="label 2"):
        _ = reader.labels
    manifest_path(path).write_text(json.dumps({**value, "per_class": [4, 1, 3]}))
    with RecordReader(path) as reader, pytest.raises(DataError, match="each class"):
        _ = reader.labels
    manifest_path(path).write_text(json.dumps({**value, "sha256": "0" * 64}))
    with RecordReader(path) as reader, pytest.raises(DataError, match="SHA-256"):
        reader.verify()


def test_existing_files_are_not_replaced(tmp_path) -> None:
    path = tmp_path / "a.tfrecord"
    write(path, 3)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        write(path, 5)
    assert path.read_bytes() == before
    write(path, 5, overwrite=True)
    with RecordReader(path) as reader:
        assert len(reader) == 5


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path) -> None:
    path = tmp_path / "a.tfrecord"
    write(path, 3)
    before = sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir())

    def fail():
        with open_writer(path, overwrite=True) as writer:
            writer.write(encode_example(png(), 0))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir()) == before


def test_a_kill_between_renaming_and_committing_does_not_look_finished(
    tmp_path, monkeypatch
) -> None:
    path = tmp_path / "a.tfrecord"

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(manifests, "write_manifest", die)
        with pytest.raises(Killed):
            write(path, 3)
    assert path.exists()
    with pytest.raises(DataError, match="interrupted"):
        RecordReader(path)
    write(path, 4)
    with RecordReader(path) as reader:
        assert len(reader) == 4


def test_a_second_writer_is_refused(tmp_path) -> None:
    path = tmp_path / "a.tfrecord"
    with open_writer(path) as writer:
        with pytest.raises(ResourceError, match="another process"), open_writer(path):
            pass
        writer.write(encode_example(png(), 0))
    with RecordReader(path) as reader:
        assert len(reader) == 1


def test_a_full_disk_is_one_clear_error(tmp_path) -> None:
    resource = pytest.importorskip("resource")
    import signal

    path = tmp_path / "a.tfrecord"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(ResourceError) as caught:
            write(path, 300)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


def test_labels_outside_the_classes_are_not_written(tmp_path) -> None:
    with pytest.raises(DataError, match="label 3"), open_writer(tmp_path / "a.tfrecord") as writer:
        writer.write(encode_example(png(), 3))
    assert list(tmp_path.iterdir()) == []


def test_empty_files_are_valid(tmp_path) -> None:
    write(tmp_path / "a.tfrecord", 0)
    with RecordReader(tmp_path / "a.tfrecord") as reader:
        reader.verify()
        assert len(reader) == 0
        assert reader.labels.shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "version 2"),
        ({"schema": True}, "schema"),
        ({"records": "10"}, "records"),
        ({"records": -1}, "range"),
        ({"height": 0}, "size"),
        ({"height": 10**9}, "size"),
        ({"channels": 4}, "channels"),
        ({"role": "../x"}, "role"),
        ({"sha256": "zz"}, "sha256"),
        ({"classes": []}, "classes"),
        ({"classes": ["a", "a", "b"]}, "classes"),
        ({"classes": "abc"}, "classes"),
        ({"per_class": [1, 2]}, "per_class"),
        ({"per_class": [-1, 5, 4]}, "per_class"),
        ({"provenance": []}, "provenance"),
        ({"labeled": 11, "per_class": [11, 0, 0]}, "labeled"),
        ({"more": 1}, "unknown more"),
    ],
)
def test_hostile_manifests_are_refused(tmp_path, change, message) -> None:
    path = tmp_path / "a.tfrecord"
    write(path)
    value = json.loads(manifest_path(path).read_text())
    manifest_path(path).write_text(json.dumps({**value, **change}))
    with pytest.raises(DataError, match=message):
        read_manifest(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"schema": 1}', "NaN"])
def test_what_is_no_manifest_is_refused(tmp_path, text) -> None:
    path = tmp_path / "a.tfrecord"
    write(path)
    manifest_path(path).write_text(text)
    with pytest.raises(DataError):
        read_manifest(path)


def test_manifests_survive_a_round_trip(tmp_path) -> None:
    write(tmp_path / "a.tfrecord")
    manifest = read_manifest(tmp_path / "a.tfrecord")
    assert manifest is not None
    manifests.write_manifest(tmp_path / "b.tfrecord", manifest)
    assert dataclasses.asdict(read_manifest(tmp_path / "b.tfrecord")) == dataclasses.asdict(
        manifest
    )


def test_pseudo_labels_are_no_true_labels(tmp_path) -> None:
    payload = encode_example(png(), -1, labeled=False, pseudo=2, name="x")
    record = decode_example(payload)
    assert (record.label, record.labeled, record.pseudo, record.name) == (-1, False, 2, "x")
    assert decode_example(encode_example(png(), 2)).pseudo is None
    with pytest.raises(ValueError, match="not both"):
        encode_example(png(), 1, pseudo=2)
    path = tmp_path / "a.tfrecord"
    with open_writer(path) as writer:
        writer.write(payload)
        writer.write(encode_example(png(), 1))
        # Another order of the features takes the slow way.
        odd = entry(b"labeled", field(3, b"\x08\x02")) + LABEL_PLAIN + FLOAT + IMAGE
        writer.write(field(1, odd))
    with RecordReader(path) as reader:
        reader.verify()
        assert reader.labels.tolist() == [-1, 1, -1]
        assert reader.labeled.tolist() == [False, True, False]
        assert reader.pseudo_labels.tolist() == [2, -1, 2]
        assert reader.manifest is not None
        assert (reader.manifest.labeled, reader.manifest.per_class) == (1, (0, 1, 0))


def test_pseudo_labels_are_held_against_the_classes(tmp_path) -> None:
    path = tmp_path / "a.tfrecord"
    with open_writer(path) as writer:
        writer.write(encode_example(png(), -1, labeled=False, pseudo=3))
    with RecordReader(path) as reader, pytest.raises(DataError, match=r"pseudo label 3 .*record 0"):
        _ = reader.labels


def test_many_frames_are_those_of_the_single_records(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.tfrecord"
    write(path, 50)
    with RecordReader(path) as reader:
        for ids in ([*range(50)], [*range(3, 9)], [7, 8, 2, 3, 40, 2], []):
            ids = np.array(ids, np.int64)
            expected = b"".join(bytes(reader.frame(i)) for i in ids.tolist())
            assert reader.frames(ids) == expected
            assert b"".join(apart(expected, reader.sizes(ids))) == expected
        assert [part for rows in reader.blocks(np.arange(50)) for part in range(50)[rows]] == [
            *range(50)
        ]
        # Pages that are given back are read again.
        monkeypatch.setattr(records, "_KEPT_PAGES", 1 << 21)
        monkeypatch.setattr(records, "_REGION_BITS", 10)
        ids = np.random.RandomState(0).permutation(50)
        assert apart(reader.frames(ids), reader.sizes(ids))[7] == bytes(reader.frame(int(ids[7])))


def test_damage_is_named_when_many_records_are_copied(tmp_path) -> None:
    path = tmp_path / "a.tfrecord"
    write(path, 20)
    with RecordReader(path) as reader:
        place = int(reader.sizes()[:13].sum()) - 30
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with RecordReader(path) as reader:
        reader.frames(np.arange(12))
        for ids in (np.arange(20), np.array([3, 12, 5])):
            with pytest.raises(DataError, match=r"checksum.*record 12"):
                reader.frames(ids)


@pytest.mark.parametrize("equal", [True, False])
def test_long_files_are_walked(tmp_path, equal, monkeypatch) -> None:
    monkeypatch.setattr(records, "_SCAN_CHUNK", 20)
    path = tmp_path / "x.tfrecord"
    frames = [frame_of(encode_example(png(0 if equal else i), 1)) for i in range(90)]
    frames[50] = frame_of(encode_example(png(), 1, name="longer"))
    content = b"".join(frames)
    path.write_bytes(content)
    with RecordReader(path) as reader:
        assert reader.sizes().tolist() == [len(frame) for frame in frames]
        assert reader.labels.tolist() == [1] * 90
    starts = np.cumsum([0, *map(len, frames)])
    for cut in (starts[89] + 3, starts[70] + 20, starts[30] + 14, starts[51] - 1):
        path.write_bytes(content[:cut])
        last = int(np.searchsorted(starts, cut, side="right")) - 1
        with pytest.raises(DataError, match=f"cut short.*record {last}\\b"):
            RecordReader(path)
    for record in (0, 16, 17, 33, 50, 89):
        damaged = bytearray(content)
        damaged[starts[record] + 9] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=f"length is wrong.*record {record}\\b"):
            RecordReader(path)


LAYOUTS = {
    "ours": lambda i: encode_example(png(i), i % 3),
    "named": lambda i: encode_example(png(i), i % 3, name=f"train/{i}"),
    "named label": lambda i: encode_example(png(i), i % 3, name="label/labeled"),
    "copies": lambda i: encode_example(png(i), i % 3, source=i, name="x" if i % 2 else None),
    "unlabeled": lambda i: encode_example(png(i), -1, labeled=False, source=i or None),
    "pseudo": lambda i: encode_example(png(i), -1, labeled=False, pseudo=i % 3, name="a"),
    "large labels": lambda i: encode_example(png(i), 100 + 40 * i),
    "label first": lambda i: field(1, LABEL_PACKED + image_entry(i)),
    "plain label": lambda i: field(1, IMAGE + LABEL_PLAIN),
    "two labels": lambda i: field(1, IMAGE + LABEL_ONE + LABEL_PACKED),
    "others": lambda i: field(1, FLOAT + LABEL_PLAIN + IMAGE),
    "two images": lambda i: field(1, IMAGE + LABEL_PACKED + image_entry(i + 1)),
}  # fmt: skip
NEW_TAGS = {
    "labels": lambda n: Tagging(np.arange(n) % 2, np.full(n, -1), np.full(n, -1)),
    "large": lambda n: Tagging(np.arange(n) * 90, np.full(n, -1), np.full(n, -1)),
    "none": lambda n: Tagging(*np.full((3, n), -1)),
    "sources": lambda n: Tagging(np.zeros(n, int), np.full(n, -1), np.arange(n) * 1000),
    "pseudo": lambda n: Tagging(np.full(n, -1), np.arange(n) % 3, np.arange(n) - 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", NEW_TAGS)
def test_other_tags_leave_the_rest(tmp_path, layout, kind) -> None:
    path = tmp_path / "x.tfrecord"
    payloads = [LAYOUTS[layout](i) for i in range(5)]
    path.write_bytes(b"".join(map(frame_of, payloads)))
    ids = np.array([0, 1, 4, 3, 2])
    tags = NEW_TAGS[kind](5)
    with RecordReader(path) as reader:
        frames = reader.tagged(ids, tags)
        (tmp_path / "y.tfrecord").write_bytes(
            frames if isinstance(frames, bytes) else b"".join(frames)
        )
        own = reader.tagged(
            ids, Tagging(reader.labels[ids], reader.pseudo_labels[ids], reader.sources[ids])
        )
        assert own == reader.frames(ids)
    with RecordReader(tmp_path / "y.tfrecord") as reader:
        reader.verify()
        assert reader.labels.tolist() == tags.labels.tolist()
        assert reader.pseudo_labels.tolist() == tags.pseudo.tolist()
        assert reader.sources.tolist() == np.maximum(tags.sources, -1).tolist()
        for k, i in enumerate(ids.tolist()):
            before, after = decode_example(payloads[i]), reader.record(k)
            assert (after.image, after.name) == (before.image, before.name)
            usual = encode_example(
                before.image,
                int(tags.labels[k]),
                labeled=bool(tags.labels[k] >= 0),
                source=int(tags.sources[k]) if tags.sources[k] >= 0 else None,
                name=before.name,
                pseudo=int(tags.pseudo[k]),
            )
            if layout in ("ours", "named", "named label", "copies", "unlabeled", "pseudo"):
                assert bytes(reader.payload(k)) == usual


def test_a_failed_writer_leaves_no_folder(tmp_path) -> None:
    with pytest.raises(KeyError), open_writer(tmp_path / "a" / "b" / "x.tfrecord"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    with pytest.raises(KeyError), open_writer(tmp_path / "a" / "b" / "x.tfrecord"):
        raise KeyError
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_blocks_and_single_records_keep_their_order(tmp_path) -> None:
    payloads = [encode_example(png(i, (40, 40, 3)), i % 3) for i in range(40)]
    single, blocks = tmp_path / "a.tfrecord", tmp_path / "b.tfrecord"
    with open_writer(single, shape=(40, 40, 3)) as writer:
        for payload in payloads * 10:
            writer.write(payload)
    with open_writer(blocks, shape=(40, 40, 3)) as writer:
        for k in range(10):
            writer.write(payloads[0], 0)
            frames = [frame_of(payload) for payload in payloads[1:]]
            labels = np.arange(1, 40) % 3
            writer.write_frames(frames if k % 2 else b"".join(frames), labels)
    assert single.read_bytes() == blocks.read_bytes()
    assert manifest_path(single).read_bytes() == manifest_path(blocks).read_bytes()
    with RecordReader(blocks) as reader:
        reader.verify()
    with (
        pytest.raises(DataError, match=r"label 3 .*record 2\b"),
        open_writer(tmp_path / "c.tfrecord") as writer,
    ):
        writer.write_frames([frame_of(payload) for payload in payloads[:3]], np.array([0, 1, 3]))
    assert not (tmp_path / "c.tfrecord").exists()


@pytest.mark.parametrize("length", [300, 3000, 20_000])
@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("names", ["none", "some", "all", "long"])
def test_the_usual_layout_is_indexed_as_any_other(length, equal, names) -> None:
    random = np.random.default_rng(length)
    payloads = []
    for i in range(40):
        image = random.bytes(length + (0 if equal else int(random.integers(200))))
        name = None if names == "none" or (names == "some" and i % 3) else f"train/{i:04}.jpg"
        if names == "long":
            name = "n" * int(random.integers(105, 130))
        payloads.append(encode_example(image, i % 7, name=name))
    data = np.frombuffer(b"".join(payloads), np.uint8)
    ends = np.cumsum([len(payload) for payload in payloads])
    starts = np.concatenate([[0], ends[:-1]])
    usual, other = (Index(*(np.full(40, -1, kind) for kind in "q?qqqq")) for _ in range(2))
    assert examples.scan_usual(data, starts, ends, usual, slice(0, 40)) == (names != "long")
    good = examples.scan(data, starts, ends, other, slice(0, 40))
    assert good.sum() > 20
    if names != "long":
        for a, b in zip(usual, other, strict=True):
            assert (a[good] == b[good]).all()
    # Whatever byte around the image is another one, it is not of that layout.
    if names == "some" and not equal:
        image_begin, image_end = int(usual.image_starts[3]), int(usual.image_ends[3])
        for place in {*range(starts[3], image_begin), *range(image_end, image_end + 15)}:
            damaged = data.copy()
            damaged[place] ^= 0x81
            index = Index(*(np.full(40, -1, kind) for kind in "q?qqqq"))
            assert not examples.scan_usual(damaged, starts, ends, index, slice(0, 40)), place
            assert (index.labels == -1).all()


def test_records_in_a_table_are_read_like_others(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.tfrecord"
    payloads = [encode_example(bytes([i]) * 400, 1) for i in range(40)]
    path.write_bytes(b"".join(map(frame_of, payloads)))
    random = np.random.default_rng(0)
    with RecordReader(path) as reader:
        orders = [random.permutation(40)[:n] for n in (1, 2, 17, 40)] + [np.array([5, 5, 3])]
        expected = [b"".join(frame_of(payloads[i]) for i in ids) for ids in orders]
        assert [reader.frames(ids) for ids in orders] == expected
        monkeypatch.setattr(records, "_KEPT_PAGES", 1 << 10)
        monkeypatch.setattr(records, "_REGION_BITS", 7)
        assert [reader.frames(ids) for ids in orders] == expected


def test_threads_switch_as_usual_after_writing(tmp_path) -> None:
    usual = sys.getswitchinterval()
    frame = frame_of(encode_example(b"x" * 100_000, 1))

    def fill() -> None:
        with (
            open_writer(tmp_path / "a.tfrecord") as one,
            open_writer(tmp_path / "b.tfrecord") as two,
        ):
            for _ in range(60):
                one.write_frame(frame, 1)
                two.write_frame(frame, 1)
            assert sys.getswitchinterval() < usual
            raise KeyError

    with pytest.raises(KeyError):
        fill()
    assert sys.getswitchinterval() == usual


def test_a_full_disk_is_found_by_the_thread_that_writes(tmp_path) -> None:
    resource = pytest.importorskip("resource")

    frame = frame_of(encode_example(b"x" * 100_000, 1))

    def fill() -> None:
        with open_writer(tmp_path / "a.tfrecord") as writer:
            for _ in range(100):
                writer.write_frame(frame, 1)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, hard))
    try:
        with pytest.raises(ResourceError, match="size limit"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
