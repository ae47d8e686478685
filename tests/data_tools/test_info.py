"""What info says about data."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import pytest
import squares
from PIL import Image

from data_tools.looking.info import data_facts, describe
from data_tools.records.filters import FilterOptions, filter_dataset
from data_tools.records.splits import SplitOptions, create_split
from realmix_tf.errors import DataError, UsageError


@pytest.fixture
def data(tmp_path) -> Path:
    squares.write(tmp_path / "squares-train.tfrecord", *squares.pictures(60, 1), "train")
    squares.write(tmp_path / "squares-test.tfrecord", *squares.pictures(30, 2), "test")
    create_split(
        SplitOptions(tmp_path / "SSL" / "squares", (tmp_path / "squares-train.tfrecord",), 12, 1)
    )
    return tmp_path


def facts(path: object, data_dir: object = "") -> dict:
    found = data_facts(str(path), str(data_dir))
    assert json.loads(json.dumps(found)) is not None
    assert "\x1b" not in describe(found)
    return found


def test_a_record_file_and_its_manifest(data) -> None:
    found = facts(data / "SSL/squares.1@12-label.tfrecord")
    assert (found["kind"], found["records"], found["role"]) == ("record file", 12, "label")
    assert found["per_class"] == {"red": 4, "green": 4, "blue": 4}
    (parent,) = found["made_from"]
    assert (parent["file"], parent["state"]) == (
        "squares-train.tfrecord",
        "present, the same by its manifest",
    )
    found = facts(data / "SSL/squares.1@12-label.tfrecord.json")
    assert (found["kind"], found["of"]) == ("manifest", "squares.1@12-label.tfrecord")
    assert "red: 4, green: 4, blue: 4" in describe(found)


def test_the_chain_of_origins_is_followed(data) -> None:
    source = data / "SSL/squares.1@12-label.tfrecord"
    filter_dataset(FilterOptions(source, data / "SSL/two.1@12-label.tfrecord", ("0", "2")))
    (parent,) = facts(data / "SSL/two.1@12-label.tfrecord")["made_from"]
    assert parent["file"] == source.name
    assert parent["made_from"][0]["file"] == "squares-train.tfrecord"
    squares.write(data / "squares-train.tfrecord", *squares.pictures(60, 3), "train")
    (parent,) = facts(data / "SSL/two.1@12-label.tfrecord")["made_from"]
    assert parent["made_from"][0]["state"].startswith("CHANGED")
    with open(source, "ab") as file:
        file.write(b"more")
    (parent,) = facts(data / "SSL/two.1@12-label.tfrecord")["made_from"]
    assert parent["state"].startswith("damaged")
    source.unlink()
    (parent,) = facts(data / "SSL/two.1@12-label.tfrecord")["made_from"]
    assert parent["state"].startswith("not found")


def test_a_file_that_names_itself_as_its_parent(tmp_path) -> None:
    squares.write(tmp_path / "a.tfrecord", *squares.pictures(3, 1), "train")
    path = tmp_path / "a.tfrecord.json"
    value = json.loads(path.read_text())
    parents = [{"file": "b.tfrecord", "sha256": value["sha256"]}]
    for name in "ab":
        value["provenance"] = {"parents": parents}
        (tmp_path / f"{name}.tfrecord.json").write_text(json.dumps(value))
        (tmp_path / f"{name}.tfrecord").write_bytes((tmp_path / "a.tfrecord").read_bytes())
        parents = [{"file": "a.tfrecord", "sha256": value["sha256"]}]
    assert len(json.dumps(facts(tmp_path / "a.tfrecord"))) < 5000


def test_names_folders_maps_and_reports(data) -> None:
    found = facts("squares", data)
    assert (found["kind"], found["splits"]) == ("dataset", ["squares.1@12"])
    assert set(found["sets"]) == {"squares-train.tfrecord", "squares-test.tfrecord"}
    found = facts("squares.1@12-10", data)
    assert (found["kind"], found["validation"]) == ("split", 10)
    assert found["map"]["every_id_once"] is True
    assert found["missing"] == []
    found = facts(data)
    assert found["kind"] == "folder of datasets"
    assert len(found["sets"]) == 4
    (data / "squares-train.tfrecord").write_bytes(b"x")
    assert facts(data)["sets"]["squares-train.tfrecord"]["problem"]
    found = facts(data / "SSL/squares.1@12-map.json")
    assert (found["labeled"], found["unlabeled"], found["highest_id"]) == (12, 48, 59)
    (data / "x-report.json").write_text('{"unreadable": [{"path": "a\\u001b"}], "notes": []}')
    assert facts(data / "x-report.json")["entries"] == {"unreadable": 1, "notes": 0}
    (data / "names.json").write_text('{"0": "cat", "1": "dog"}')
    assert facts("names.json", data)["classes"] == {"0": "cat", "1": "dog"}


def test_pictures_and_folders_of_them(tmp_path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "p" / name).mkdir(parents=True)
    image = Image.fromarray(squares.pictures(1, 1)[0][0])
    exif = Image.Exif()
    exif[0x0112] = 6
    image.resize((20, 10)).save(tmp_path / "p/cat/turned.png", "JPEG", exif=exif)
    image.save(tmp_path / "p/dog/a.gif")
    (tmp_path / "p/dog/b.jpg").write_text("no picture")
    os.symlink("nowhere", tmp_path / "p/dog/c.jpg")
    found = facts(tmp_path / "p")
    assert found["by_folder"] == {"cat": 1, "dog": 2}
    assert found["formats"] == {"JPEG": 1, "GIF": 1, "text": 1}
    assert found["problems"] == ["dog/c.jpg: the link leads nowhere"]
    found = facts(tmp_path / "p/cat/turned.png")
    assert (found["format"], found["exif_orientation"]) == ("JPEG", 6)
    assert (found["height"], found["width"], found["decoded"]) == (10, 20, [20, 10, 3])
    cut = (tmp_path / "p/cat/turned.png").read_bytes()[:-30]
    (tmp_path / "cut.jpg").write_bytes(cut)
    assert facts(tmp_path / "cut.jpg")["decoded"].startswith("cannot be used")


def test_a_bomb_is_described_not_decoded(tmp_path, capsys) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    head = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    found = facts(tmp_path / "bomb.png")
    assert found["decoded"] == "cannot be used: 12000x12000 is more than 50000000 pixels"
    assert capsys.readouterr().err == ""


def test_archives_by_their_hash(tmp_path) -> None:
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"\x1f\x8b" + bytes(100))
    found = facts(tmp_path / "cifar-10-binary.tar.gz")
    assert found["looks_like"] == "a gzip archive"
    assert "altered or cut" in found["published_as"]
    (tmp_path / "own.zip").write_bytes(b"PK\x03\x04")
    assert "published_as" not in facts(tmp_path / "own.zip")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "an empty file"),
        (b"\x80\x04\x95", "a Python pickle, which is never loaded here"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"<html>", "a web page"),
        ("grüße".encode(), "text"),
        (bytes(range(256)), "binary data"),
    ],
)
def test_the_unknown_is_told_by_its_look(tmp_path, content, what) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(DataError, match=f"looks like {what}"):
        facts(tmp_path / "x.bin")


def test_what_cannot_be_looked_at(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    os.symlink("nowhere", tmp_path / "link")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "odd.json").write_text('{"a": 1}')
    for name, message in (
        ("pipe", "no regular file"),
        ("empty", "nothing to look at"),
        ("link", "leads nowhere"),
        ("bad.json", "not a readable JSON"),
        ("odd.json", "JSON with 'a'"),
        ("gone.tfrecord", "no such file"),
    ):
        with pytest.raises(DataError, match=message):
            facts(tmp_path / name)
    with pytest.raises(UsageError, match="--data_dir"):
        facts("nothing")
