from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools.file_names import alike, folder_names
from data_tools.folders.export import MARK, ExportOptions, export, plan_export
from data_tools.folders.staging import StagedFolder
from data_tools.pictures.class_folders import scan_labeled
from realmix_tf.data.examples import encode_example
from realmix_tf.data.images import encode_png
from realmix_tf.data.manifest import manifest_path
from realmix_tf.data.record_writer import RecordWriter
from realmix_tf.data.records import RecordReader
from realmix_tf.errors import DataError, ResourceError, UsageError

HOSTILE = ("../x", "a/b", "cat", "Cat", "..", "", ".hidden", "unlabeled", "CON", "nul.txt", "tab\t",
           "=1+1", "é", "e\u0301", "x" * 300, "-rf", "a\\b", "dot.", "Thumbs.db")  # fmt: skip


def records(path: Path, classes: tuple[str, ...], labels: list[int], pseudo: int = -1) -> Path:
    """A record file whose image i has pixels of value i."""
    with RecordWriter(
        path, dataset="d", role="train", classes=classes, shape=(4, 6, 3), provenance={}
    ) as writer:
        for i, label in enumerate(labels):
            png = encode_png(np.full((4, 6, 3), i % 256, np.uint8))
            guess = pseudo if label < 0 <= pseudo else None
            payload = encode_example(png, label, labeled=label >= 0, pseudo=guess)
            writer.write(payload, label)
    return path


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_files_are_the_stored_bytes_in_class_folders(tmp_path) -> None:
    source = records(tmp_path / "d-train.tfrecord", ("cat", "dog"), [1, 0, -1, 1] * 3, pseudo=1)
    result = export(ExportOptions(source, tmp_path / "out"))
    assert result.folders == {"cat": 3, "dog": 6, "unlabeled": 3}
    with RecordReader(source) as reader:
        for i, folder in enumerate(["dog", "cat", "unlabeled", "dog"] * 3):
            assert (tmp_path / "out" / folder / f"{i:02}.png").read_bytes() == reader.image(i)
    mark = json.loads((tmp_path / "out" / MARK).read_text())
    assert mark["schema"] == 1
    assert mark["classes"][1] == {"id": 1, "name": "dog", "folder": "dog", "records": 6}
    assert mark["unlabeled"] == {"folder": "unlabeled", "records": 3}
    assert sorted([*mark["files"], MARK]) == files(tmp_path / "out")
    scanned = scan_labeled(tmp_path / "out")
    assert scanned.names == ("cat", "dog", "unlabeled")


def test_first_records_and_grid(tmp_path) -> None:
    source = records(tmp_path / "d-train.tfrecord", ("cat", "dog"), [1, 0, -1, 1] * 30)
    result = export(ExportOptions(source, tmp_path / "out", first=5, grid=tmp_path / "g.png"))
    assert sum(result.folders.values()) == 5
    assert "cat/5.png" not in files(tmp_path / "out")
    assert "dog/3.png" in files(tmp_path / "out")
    with Image.open(tmp_path / "g.png") as image:
        assert image.height > 100
    with pytest.raises(UsageError, match="--first"):
        export(ExportOptions(source, tmp_path / "more", first=0))


def test_where_a_grid_may_lie(tmp_path) -> None:
    source = records(tmp_path / "d-train.tfrecord", ("cat", "dog"), [1, 0])
    (tmp_path / "file").touch()
    (tmp_path / "old.png").write_text("mine")
    for grid, error, message in (
        ("out/g.png", UsageError, "--grid outside"),
        ("g.jpg", UsageError, "a PNG file"),
        ("old.png", UsageError, "exists already"),
        ("file/g.png", ResourceError, "file"),
    ):
        options = ExportOptions(source, tmp_path / "out", grid=tmp_path / grid)
        for work in (plan_export, export):
            with pytest.raises(error, match=message):
                work(options)
    assert (tmp_path / "old.png").read_text() == "mine"
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".tmp*"))


def test_pngs_that_cannot_be_decoded_are_named(tmp_path) -> None:
    source = tmp_path / "d-train.tfrecord"
    bomb = bytearray(encode_png(np.zeros((4, 4, 3), np.uint8)))
    bomb[16:24] = struct.pack(">II", 60_000, 60_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    good = encode_png(np.zeros((4, 4, 3), np.uint8))
    for bad in (bytes(bomb), good[:-30]):
        with RecordWriter(
            source, dataset="d", role="train", classes=("a",), shape=(4, 4, 3), provenance={},
            overwrite=True,
        ) as writer:  # fmt: skip
            for png in (good, bad):
                writer.write(encode_example(png, 0), 0)
        options = ExportOptions(source, tmp_path / "out", grid=tmp_path / "g.png")
        for work in (plan_export, export):
            with pytest.raises(DataError, match=r"d-train\.tfrecord, record 1"):
                work(options)
    assert sorted(os.listdir(tmp_path)) == [source.name, f"{source.name}.json"]


def test_class_names_become_harmless_folders(tmp_path) -> None:
    names = folder_names(HOSTILE, ("unlabeled",))
    assert len({alike(name) for name in names}) == len(HOSTILE)
    assert names[2:4] == ["cat", "Cat_2"]
    assert "unlabeled" not in names
    for name in names:
        assert name == name.strip(" .")
        assert not name.startswith((".", "-"))
        assert not set(name) & set('/\\:*?"<>|\t')
        assert 0 < len(name.encode()) <= 204
    classes = HOSTILE
    source = records(tmp_path / "d-train.tfrecord", classes, list(range(len(classes))))
    result = export(ExportOptions(source, tmp_path / "in" / "out"))
    assert len(result.folders) == len(classes)
    assert [item["name"] for item in result.classes] == list(classes)
    assert sorted(os.listdir(tmp_path)) == ["d-train.tfrecord", "d-train.tfrecord.json", "in"]
    assert sorted(os.listdir(tmp_path / "in")) == ["out"]
    assert len(scan_labeled(tmp_path / "in" / "out").names) == len(classes)


def test_an_old_unlabelled_pool_has_no_labels(tmp_path) -> None:
    source = records(tmp_path / "d-unlabeled.tfrecord", ("0",), [0, 0])
    manifest_path(source).unlink()
    result = export(ExportOptions(source, tmp_path / "out"))
    assert result.folders == {"unlabeled": 2}
    assert "ignored" in result.notes[0]


def test_existing_folders(tmp_path) -> None:
    source = records(tmp_path / "d-train.tfrecord", ("cat", "dog"), [0, 1, 1])
    output = tmp_path / "out"
    output.mkdir()
    options = ExportOptions(source, output)
    export(options)
    before = files(output)
    with pytest.raises(UsageError, match=r"not empty.*--overwrite"):
        export(options)
    with pytest.raises(UsageError, match="not empty"):
        plan_export(options)
    again = ExportOptions(source, output, first=2, overwrite=True)
    (output / "mine.txt").write_text("precious")
    with pytest.raises(UsageError, match=r"'mine\.txt', which tfrecord_to_image did not write"):
        export(again)
    os.rename(output / "mine.txt", output / "cat" / "mine.txt")
    with pytest.raises(UsageError, match=r"'cat/mine\.txt'"):
        export(again)
    assert (output / "cat" / "mine.txt").read_text() == "precious"
    (output / "cat" / "mine.txt").unlink()
    assert files(output) == before
    export(again)
    assert files(output) == ["cat/0.png", MARK, "dog/1.png"]
    other = tmp_path / "other"
    (other / "sub").mkdir(parents=True)
    with pytest.raises(UsageError, match="did not write it"):
        export(ExportOptions(source, other, overwrite=True))
    (other / MARK).write_text(json.dumps({"command": "tfrecord_to_image", "files": ["../d", 3]}))
    with pytest.raises(UsageError, match="'sub', which"):
        export(ExportOptions(source, other, overwrite=True))
    with pytest.raises(UsageError, match="a file, not a folder"):
        export(ExportOptions(source, source, overwrite=True))
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".tmp")]


def test_a_link_as_output_stays_one(tmp_path) -> None:
    source = records(tmp_path / "d-train.tfrecord", ("cat", "dog"), [0, 1])
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    export(ExportOptions(source, tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "cat" / "0.png").exists()


def test_damage_and_full_disks_leave_nothing(tmp_path, monkeypatch) -> None:
    source = records(tmp_path / "d-train.tfrecord", ("cat",), [0] * 9)
    with RecordReader(source) as reader:
        place = int(reader.index.image_ends[7]) - 20
    content = bytearray(source.read_bytes())
    content[place] ^= 1
    source.write_bytes(content)
    with pytest.raises(DataError, match=r"record 7"):
        export(ExportOptions(source, tmp_path / "out"))
    monkeypatch.setattr("realmix_tf.files.free_bytes", lambda folder: 1000)
    with pytest.raises(ResourceError, match="9 files needs about"):
        export(ExportOptions(source, tmp_path / "out"))
    assert sorted(os.listdir(tmp_path)) == ["d-train.tfrecord", "d-train.tfrecord.json"]
    empty = records(tmp_path / "e-train.tfrecord", ("cat",), [])
    with pytest.raises(DataError, match="no records"):
        plan_export(ExportOptions(empty, tmp_path / "out"))


def test_plan(tmp_path) -> None:
    source = records(tmp_path / "d-train.tfrecord", ("cat", "dog"), [0, 1, -1])
    plan = plan_export(ExportOptions(source, tmp_path / "out")).as_json()
    assert plan["facts"] == {"files": 3, "folders": {"cat": 1, "dog": 1, "unlabeled": 1}}
    assert plan["writes"][0]["bytes"] >= 3 * 4096
    options = ExportOptions(source, tmp_path / "out", grid=tmp_path / "g.png")
    use = plan_export(options).writes[1]
    export(options)
    assert (tmp_path / "g.png").stat().st_size <= use.bytes
    shutil.rmtree(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_writers_and_leftovers(tmp_path) -> None:
    with (
        StagedFolder(tmp_path / "out", MARK, "x"),
        pytest.raises(ResourceError, match="another process"),
        StagedFolder(tmp_path / "out", MARK, "x"),
    ):
        pass
    leftover = tmp_path / ".tmp-out.part" / "deep"
    leftover.mkdir(parents=True)
    (leftover / "file").write_text("x")
    (leftover.parent / "link").symlink_to(tmp_path)
    with StagedFolder(tmp_path / "out", MARK, "x") as staged:
        staged.write("a/\udcff.png", b"1")
        staged.commit({"n": 1})
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(os.fsencode(tmp_path / "out" / "a")) == [b"\xff.png"]
    with StagedFolder(tmp_path / "out", MARK, "x", overwrite=True) as staged:
        staged.write("b.png", b"1")
        staged.commit({})
    assert files(tmp_path / "out") == ["b.png", MARK]
