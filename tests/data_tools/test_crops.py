from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools.folders import crops
from data_tools.folders.crops import MARK, CropOptions, cropped, plan_crops, preprocess
from realmix_tf.data.images import decode_image, find_images
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


def test_the_middle_is_cut_out_and_resized(tmp_path) -> None:
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    for name in ("wide.png", "tall.png"):
        result = cropped(str(tmp_path / name), (8, 8), "center")
        assert (result.shape, result.dtype) == ((8, 8, 3), np.uint8)
        # The filter reaches a little beyond the edge of the part, as when the whole is resized.
        assert result.min() > 230
        assert result[1:-1, 1:-1].min() > 250
    stretched = cropped(str(tmp_path / "wide.png"), (8, 8), "none")
    np.testing.assert_array_equal(stretched, decode_image(tmp_path / "wide.png", size=(8, 8)))
    half = cropped(str(tmp_path / "wide.png"), (8, 16), "center", channels=1)
    assert half.shape == (8, 16, 1)
    assert half[:, [0, -1]].max() < 30
    assert half[:, 6:10].min() > 250


def test_a_picture_of_the_wanted_shape_is_only_resized(tmp_path) -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (30, 45, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    plain = decode_image(tmp_path / "x.png", size=(10, 15)).astype(int)
    assert np.abs(plain - cropped(str(tmp_path / "x.png"), (10, 15), "center")).max() <= 1
    np.testing.assert_array_equal(cropped(str(tmp_path / "x.png"), (30, 45), "center"), pixels)


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (4096, 1), (31, 33)])
def test_any_shape_to_any_other(tmp_path, size) -> None:
    for source in ((1, 1), (3, 997), (997, 3), (33, 31)):
        path = picture(tmp_path / "x.png", source)
        assert (cropped(str(path), size, "center") == (200, 30, 90)).all()


def test_turned_photos_are_cut_upright(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, :20] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    # A quarter turn to the right: the white end is on top.
    result = cropped(str(tmp_path / "x.png"), (30, 20), "center")
    assert result[0].mean() > result[-1].mean()


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


def _die(problem: str, task: crops._Task) -> crops._Outcome:
    if task.path.endswith("killer.png"):
        os.kill(os.getpid(), signal.SIGKILL)
    return crops._work(problem, task)


@pytest.mark.process
def test_a_file_that_crashes_its_process_costs_one_file(tmp_path, monkeypatch) -> None:
    for name in ("a", "b", "killer", "z"):
        picture(tmp_path / "in" / f"{name}.png")
    monkeypatch.setattr(crops, "_work", _die)
    result = preprocess(CropOptions(tmp_path / "in", tmp_path / "out", (8, 8), workers=2))
    assert result.unreadable == (("killer.png", "the decoder crashed on this file"),)
    assert result.files == 3


def test_what_cannot_be_done_is_refused_beforehand(tmp_path) -> None:
    source = tmp_path / "in"
    picture(source / "a.png")
    for options, error, message in (
        (CropOptions(source, source / "out", (8, 8)), UsageError, "inside an input.*--output"),
        (CropOptions(source, source, (8, 8)), UsageError, "inside an input"),
        (CropOptions(source, tmp_path / "out", (8, 8), crop="top"), UsageError, "center or none"),
        (CropOptions(source, tmp_path / "out", (8, 8), channels=2), UsageError, "channels"),
        (CropOptions(source, tmp_path / "out", (8, 8), workers=0), UsageError, "workers"),
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
