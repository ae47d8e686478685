from __future__ import annotations

import json
import os
from pathlib import Path

import hostile_pictures
import numpy as np
import pytest
from PIL import Image

from data_tools.folders.crops import MARK, CropOptions, plan_crops, preprocess
from data_tools.pictures import decoding
from realmix_tf.data.images import decode_image, decode_png, find_images
from realmix_tf.errors import DataError, UsageError


def picture(path: Path, size=(40, 20), kind: str | None = None, color=(200, 30, 90)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, kind)
    return path


def names(folder: Path) -> list[bytes]:
    return sorted(os.fsencode(entry.name) for entry in find_images(folder))


def states(folder: Path) -> dict[Path, tuple[int, ...]]:
    """What would show that a file was touched."""
    found = {path: os.lstat(path) for path in folder.rglob("*")}
    return {
        path: (status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns)
        for path, status in found.items()
    }


@pytest.mark.process
def test_a_tree_of_pictures(tmp_path) -> None:
    source = tmp_path / "in"
    picture(source / "a.png")
    picture(source / "a.jpg")
    picture(source / "a.jpg.png")
    picture(source / "A.gif")
    picture(source / "Sub dir" / "x.JPEG", kind="JPEG")
    picture(source / "Sub dir" / "d.png" / "inside.webp")
    picture(source / "Sub dir" / "d.jpg")
    picture(source / ".hidden.png")
    odd = os.path.join(os.fsencode(source), b"\xff\nodd.bmp")
    picture(source / "odd.bmp")
    os.rename(source / "odd.bmp", odd)
    long = os.path.join(os.fsencode(source), b"n" * 255)
    picture(source / "n", kind="PNG")
    os.rename(source / "n", long)
    (source / "broken.png").write_bytes((source / "a.png").read_bytes()[:60])
    (source / "page.jpg").write_text("<html>")
    (source / "gone.png").symlink_to("nowhere")
    os.mkfifo(source / "pipe")
    before = states(source)
    options = CropOptions(source, tmp_path / "out", (8, 12), workers=2)
    plan = plan_crops(options)
    assert plan.facts == {"files": 13, "left_out": 1}
    assert not (tmp_path / "out").exists()
    result = preprocess(options)
    assert names(tmp_path / "out") == sorted(
        [b"a.png", b"a.jpg.png", b"a.jpg_2.png", b"A.gif.png", b"Sub dir/x.png",
         b"Sub dir/d.png/inside.png", b"Sub dir/d.jpg.png", b"\xff\nodd.png",
         b"n" * 251 + b".png", MARK.encode()]
    )  # fmt: skip
    assert result.files == 9
    assert {name for name, _ in result.unreadable} == {"broken.png", "page.jpg", "gone.png", "pipe"}
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.size == (12, 8)
    report = json.loads((tmp_path / "out" / MARK).read_text())
    assert {item["path"]: item["reason"] for item in report["unreadable"]}["pipe"] == (
        "not a regular file"
    )
    assert {"path": "a.jpg", "file": "a.jpg_2.png"} in report["renamed"]
    assert report["left_out"][0]["path"] == ".hidden.png"
    assert len(report["files"]) == 9
    assert states(source) == before
    # The same again gives the same bytes, whatever the number of processes.
    again = CropOptions(source, tmp_path / "again", (8, 12), workers=1)
    preprocess(again)
    for name in names(tmp_path / "out"):
        paths = [os.path.join(os.fsencode(tmp_path / folder), name) for folder in ("out", "again")]
        contents = [open(path, "rb").read() for path in paths]  # noqa: SIM115
        assert contents[0] == contents[1]
    preprocess(CropOptions(source, tmp_path / "out", (8, 8), crop="none", overwrite=True))
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.size == (8, 8)


@pytest.mark.process
@pytest.mark.parametrize("crop", ["center", "none"])
def test_the_pictures_are_those_of_decode_image(tmp_path, crop) -> None:
    source = tmp_path / "in"
    source.mkdir()
    random = np.random.RandomState(0)
    for i, (height, width) in enumerate(((30, 50), (50, 30), (8, 12), (400, 900))):
        Image.fromarray(random.randint(0, 256, (height, width, 3)).astype(np.uint8)).save(
            source / f"{i}.jpg"
        )
    preprocess(CropOptions(source, tmp_path / "out", (8, 12), crop=crop, channels=1, min_side=9))
    report = json.loads((tmp_path / "out" / MARK).read_text())
    assert [item["path"] for item in report["unreadable"]] == ["2.jpg"]
    for i in (0, 1, 3):
        expected = decode_image(
            source / f"{i}.jpg", size=(8, 12), crop=crop == "center", channels=1
        )
        pixels = decode_png((tmp_path / "out" / f"{i}.png").read_bytes())
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.process
def test_a_file_that_hangs_or_kills_its_process_costs_one_file(tmp_path, monkeypatch) -> None:
    for name in ("a.png", "b.png", hostile_pictures.KILLER, "z.png"):
        picture(tmp_path / "in" / name)
    (tmp_path / "in" / "slow.jpg").write_bytes(hostile_pictures.scan_bomb(900, 60_000))
    monkeypatch.setattr(decoding, "_work", hostile_pictures.work)
    options = CropOptions(tmp_path / "in", tmp_path / "out", (8, 8), workers=2, file_timeout=1)
    result = preprocess(options)
    assert result.files == 3
    assert dict(result.unreadable) == {
        "killer.png": "the decoder crashed on this file (exit code 139)",
        "slow.jpg": "not decoded after 1 seconds",
    }
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "b.png", MARK, "z.png"]


@pytest.mark.process
def test_what_cannot_be_read_can_end_the_work(tmp_path) -> None:
    picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_text("x")
    options = CropOptions(tmp_path / "in", tmp_path / "out", (8, 8), on_bad="error")
    assert "1 of 2 sampled files cannot be read" in plan_crops(options).notes[0]
    with pytest.raises(DataError, match=r"1 of 2 files cannot be read: b\.png: not an image.*skip"):
        preprocess(options)
    assert os.listdir(tmp_path) == ["in"]


def test_what_cannot_be_done_is_refused_beforehand(tmp_path) -> None:
    source = tmp_path / "in"
    picture(source / "a.png")
    for options, error, message in (
        (CropOptions(source, source / "out", (8, 8)), UsageError, "inside an input.*--output"),
        (CropOptions(source, source, (8, 8)), UsageError, "inside an input"),
        (CropOptions(source, tmp_path / "out", (8, 8), crop="top"), UsageError, "center or none"),
        (CropOptions(source, tmp_path / "out", (8, 8), channels=2), UsageError, "channels"),
        (CropOptions(source, tmp_path / "out", (8, 8), workers=0), UsageError, "workers"),
        (CropOptions(source, tmp_path / "out", (8, 8), min_side=0), UsageError, "min_side"),
        (CropOptions(source, tmp_path / "out", (8, 8), on_bad="x"), UsageError, "on_bad"),
        (CropOptions(source, tmp_path / "out", (8, 8), file_timeout=0), UsageError, "timeout"),
        (CropOptions(tmp_path / "x", tmp_path / "out", (8, 8)), DataError, "no such folder"),
    ):
        for work in (preprocess, plan_crops):
            with pytest.raises(error, match=message):
                work(options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        preprocess(CropOptions(tmp_path / "empty", tmp_path / "out", (8, 8)))
    assert sorted(os.listdir(tmp_path)) == ["empty", "in"]


@pytest.mark.process
def test_nothing_readable_is_an_error(tmp_path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_text("x")
    with pytest.raises(DataError, match=r"none of 1 files can be read: a\.png: not an image"):
        preprocess(CropOptions(tmp_path / "in", tmp_path / "out", (8, 8)))
    assert os.listdir(tmp_path) == ["in"]
