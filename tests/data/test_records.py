from __future__ import annotations

import dataclasses
import json
import os
import struct

import numpy as np
import pytest

from realmix_tf.data import manifest as manifests
from realmix_tf.data.images import encode_png
from realmix_tf.data.manifest import manifest_path, provenance, read_manifest
from realmix_tf.data.records import (
    RecordReader,
    RecordWriter,
    decode_example,
    encode_example,
    frame_of,
)
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


LABEL_PACKED = entry(b"label", field(3, field(1, b"\x02")))
LABEL_PLAIN = entry(b"label", field(3, b"\x08\x02"))
IMAGE = entry(b"image", field(1, field(1, png())))
FLOAT = entry(b"weight", field(2, field(1, b"\0\0\x80\x3f")))


@pytest.mark.parametrize(
    "features",
    [
        field(1, LABEL_PACKED + IMAGE),
        field(1, IMAGE + LABEL_PLAIN),
        field(1, FLOAT + LABEL_PLAIN + IMAGE),
        field(1, LABEL_PLAIN) + field(1, IMAGE),
        field(1, entry(b"label", field(3, field(1, b"\x01"))) + LABEL_PACKED + IMAGE),
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
