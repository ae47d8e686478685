"""Hostile and odd folders through the real command: create_datasets custom."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from commands import files_up_to, mortal, need_permissions
from PIL import Image

from realmix_tf.data.images import MAX_DEPTH, decode_png
from realmix_tf.data.records import RecordReader

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 2  # seconds a file may take in these tests

pytestmark = pytest.mark.process


def start(folder: Path, *words: object, source: str = "custom", **more) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable, str(ROOT / "scripts" / "create_datasets.py"), source, "--name=d",
            f"--traindir={folder / 'train'}", f"--testdir={folder / 'test'}",
            f"--data_dir={folder / 'data'}", "--img_size=16", "--workers=2", *map(str, words),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more,
    )  # fmt: skip


def run(folder: Path, *words: object, code: int = 0, **more) -> tuple[str, str]:
    process = start(folder, *words, **more)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    if code:
        assert err.strip().splitlines()[-1].startswith("error: "), err
    return out, err


def report_of(folder: Path) -> dict:
    report = json.loads((folder / "data" / "d-report.json").read_text())
    assert report["schema"] == 1
    return report


def written(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "data")) if (folder / "data").exists() else []


FINISHED = [
    "d-report.json", "d-test.tfrecord", "d-test.tfrecord.json", "d-train.tfrecord",
    "d-train.tfrecord.json", "d_class_mappings.json",
]  # fmt: skip


def saved(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def noise(seed: int, side: int = 24) -> Image.Image:
    pixels = np.random.RandomState(seed).randint(0, 256, (side, side, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def labelled(folder: Path, classes=("cat", "dog"), count: int = 3) -> Path:
    """Fills folder/train and folder/test with good pictures, all different."""
    for k, part in enumerate(("train", "test")):
        for c, name in enumerate(classes):
            for i in range(count):
                put(folder / part / name / f"{i}.png", saved(noise(100 * k + 10 * c + i), "PNG"))
    return folder


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def scan_bomb(side: int = 1200, scans: int = 100_000) -> bytes:
    """A progressive JPEG with very many empty scans, each of which visits every block."""

    def segment(marker: int, content: bytes) -> bytes:
        return bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2, "big") + content

    quantization = segment(0xDB, bytes(1) + bytes([1]) * 64)
    frame = segment(0xC2, b"\x08" + 2 * side.to_bytes(2, "big") + b"\x01\x01\x11\x00")
    huffman = segment(0xC4, b"\x10\x01" + bytes(15) + b"\x00")
    scan = segment(0xDA, b"\x01\x01\x00\x01\x3f\x00")
    return b"\xff\xd8" + quantization + frame + huffman + scan * scans + b"\xff\xd9"


ANIMATED = "animated, only the first frame is used"
RED, GREEN = (250, 10, 10), (10, 250, 10)
CORNERS = np.zeros((24, 24, 3), np.uint8)
CORNERS[:12, :12], CORNERS[:12, 12:] = (255, 0, 0), (0, 255, 0)
CORNERS[12:, :12] = (0, 0, 255)
UPRIGHT = Image.fromarray(CORNERS)
TURNED = {
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}  # fmt: skip

STRANGE_NAMES = [
    b"\xff\xfe.png", b"line\nbreak.png", b"-rf.png", b"n" * 251 + b".png", b" a  b .png",
    b"[x]*?.png", b"=cmd|' !A0.png", b"a,b.png", b"say \"hi\".png", "né.png".encode(), b"x.PNG",
]  # fmt: skip

USED = {
    "animated.gif": ANIMATED, "animated.webp": ANIMATED, "animated.png": ANIMATED,
    "grey16.png": "", "cmyk.jpg": "", "palette.png": "", "la.png": "", "rgba.png": "",
    "UPPER.JPG": "", "x.jpeg": "", "phone.jpg": "", "plain": "",
    "png.jpg": "a PNG named .jpg", "gif.png": "a GIF named .png",
    "long.png": "one side is more than 20 times the other",
    "dot.png": "a side is shorter than 4 pixels",
    "exif_damaged.jpg": "the EXIF data are damaged, the orientation is not applied",
    "folder.png/inside.png": "", "linked.png": "",
    "leak.png": "a link to a picture in another input folder",
    **{f"exif{k}.jpg": "" for k in TURNED},
}  # fmt: skip

UNUSABLE = {
    "empty.jpg": "empty file", "page.jpg": "not an image", "drawing.jpg": "not an image",
    "text.png": "not an image", "cut.jpg": "truncated", "cut.png": "", "cut.gif": "",
    "bomb.png": "more than 50000000 pixels", "header.png": "more than 50000000 pixels",
    "slow.jpg": f"not decoded after {TIMEOUT} seconds", "float.tiff": "32-bit",
    "dangling.png": "the link leads nowhere", "self.png": "symbolic links",
    "pipe.png": "not a regular file", "socket.png": "not a regular file",
}  # fmt: skip

PASSED_OVER = {
    ".DS_Store": "hidden", "Thumbs.db": "hidden", "._x.png": "hidden", "__MACOSX": "hidden",
    ".ipynb_checkpoints": "hidden", "loop": "a link to a folder",
}  # fmt: skip


def bad_bytes() -> dict[str, bytes]:
    good = noise(7, 64)
    half = {f: saved(good, f)[: len(saved(good, f)) // 2] for f in ("JPEG", "PNG", "GIF")}
    return {
        "empty.jpg": b"", "page.jpg": b"<!doctype html><html></html>",
        "drawing.jpg": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "text.png": b"words\n" * 99,
        "cut.jpg": half["JPEG"], "cut.png": half["PNG"], "cut.gif": half["GIF"],
        "bomb.png": bomb(40_000, 40_000), "header.png": bomb(9_000, 9_000),
        "slow.jpg": scan_bomb(),
        "float.tiff": saved(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"),
    }  # fmt: skip


def good_bytes() -> dict[str, bytes]:
    frames = [Image.new("RGB", (9, 9), color) for color in (RED, GREEN)]
    several = {"save_all": True, "append_images": frames[1:]}
    palette = Image.new("P", (8, 8))
    palette.putpalette([250, 10, 10, 10, 250, 10])
    damaged = saved(UPRIGHT, "JPEG", exif=b"Exif\0\0no TIFF at all")
    content = {
        "animated.gif": saved(frames[0], "GIF", **several),
        "animated.webp": saved(frames[0], "WEBP", lossless=True, **several),
        "animated.png": saved(frames[0], "PNG", **several),
        "grey16.png": saved(Image.fromarray(np.full((9, 9), 32896, np.uint16)), "PNG"),
        "cmyk.jpg": saved(Image.new("RGB", (16, 16), RED).convert("CMYK"), "JPEG", quality=100),
        "palette.png": saved(palette, "PNG", transparency=0),
        "la.png": saved(Image.new("LA", (9, 9), (9, 0)), "PNG"),
        "rgba.png": saved(Image.new("RGBA", (9, 9), (200, 0, 0, 0)), "PNG"),
        "UPPER.JPG": saved(noise(1), "JPEG"), "x.jpeg": saved(noise(2), "JPEG"),
        "phone.jpg": saved(frames[0], "MPO", **several), "plain": saved(noise(3), "PNG"),
        "png.jpg": saved(noise(4), "PNG"), "gif.png": saved(noise(5), "GIF"),
        "long.png": saved(Image.new("RGB", (500, 2)), "PNG"),
        "dot.png": saved(Image.new("RGB", (1, 1)), "PNG"), "exif_damaged.jpg": damaged,
        "folder.png/inside.png": saved(noise(6), "PNG"),
    }  # fmt: skip
    for k, method in TURNED.items():
        exif = Image.Exif()
        exif[0x0112] = k
        image = UPRIGHT if method is None else UPRIGHT.transpose(method)
        content[f"exif{k}.jpg"] = saved(image, "JPEG", quality=95, exif=exif)
    return content


class Zoo:
    """One build of a folder with everything in it, and what came of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = labelled(folder)
        place = folder / "unlabeled"
        for name, content in {**good_bytes(), **bad_bytes()}.items():
            put(place / name, content)
        for i, name in enumerate(STRANGE_NAMES):
            with open(os.fsencode(place) + b"/" + name, "wb") as file:
                file.write(saved(noise(200 + i), "PNG"))
        for name in (".DS_Store", "Thumbs.db", "._x.png", "__MACOSX/y.png",
                     ".ipynb_checkpoints/z.png"):  # fmt: skip
            put(place / name, saved(noise(9), "PNG"))
        put(folder / "elsewhere" / "e.png", saved(noise(10), "PNG"))
        deep = place
        for _ in range(MAX_DEPTH + 3):
            deep = deep / "d"
        put(deep / "deep.png", saved(noise(11), "PNG"))
        (place / "loop").symlink_to(place)
        (place / "self.png").symlink_to("self.png")
        (place / "dangling.png").symlink_to("nothing.png")
        (place / "linked.png").symlink_to(folder / "elsewhere" / "e.png")
        (place / "leak.png").symlink_to(folder / "test" / "cat" / "0.png")
        os.mkfifo(place / "pipe.png")
        here = os.getcwd()
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
            os.chdir(place)  # a socket's path must be short
            try:
                listener.bind("socket.png")
            finally:
                os.chdir(here)
        self.before = self.contents()
        self.out, self.err = run(
            folder, f"--unlabeldir={place}", f"--file_timeout={TIMEOUT}", "--json"
        )
        self.report = report_of(folder)
        with RecordReader(folder / "data" / "d-train.tfrecord") as reader:
            reader.verify()
            records = [reader.record(i) for i in range(len(reader))]
        self.records = {
            os.fsencode(record.name or ""): record for record in records if not record.labeled
        }

    def contents(self) -> dict[str, bytes]:
        """All regular files of the input folders."""
        return {
            str(path): path.read_bytes()
            for part in ("train", "test", "unlabeled", "elsewhere")
            for path in (self.folder / part).rglob("*")
            if path.is_file()
        }

    def said(self, section: str, name: str) -> dict:
        """The entry of the report about a file."""
        found = [i for i in self.report[section] if i["path"].endswith(f"unlabeled/{name}")]
        assert len(found) == 1, found
        assert found[0]["action"]
        return found[0]

    def pixels(self, name: str) -> np.ndarray:
        return decode_png(self.records[b"unlabeled/" + name.encode()].image)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


def test_everything_is_used_or_listed_and_nothing_is_touched(zoo) -> None:
    facts = json.loads(zoo.out)["datasets"][0]["facts"]
    assert facts["unlabeled"] == len(zoo.records) == len(USED) + len(STRANGE_NAMES)
    assert facts["unlabeled_unreadable"] == len(UNUSABLE) == len(zoo.report["unreadable"])
    assert facts["labeled"] == 6
    assert facts["left_out"] == len(PASSED_OVER) + 1  # what lies too deep
    assert f"{len(UNUSABLE)} unlabelled images could not be read and were left out" in zoo.err
    assert written(zoo.folder) == FINISHED
    assert zoo.contents() == zoo.before


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_used_is_listed_with_its_reason(zoo, name) -> None:
    assert UNUSABLE[name] in zoo.said("unreadable", name)["reason"]
    assert b"unlabeled/" + name.encode() not in zoo.records


@pytest.mark.parametrize("name", USED)
def test_what_can_be_used_is_used_with_a_remark(zoo, name) -> None:
    assert zoo.pixels(name).shape == (16, 16, 3)
    if USED[name]:
        assert zoo.said("notes", name)["note"] == USED[name]
    else:
        assert not [i for i in zoo.report["notes"] if i["path"].endswith(f"/{name}")]


@pytest.mark.parametrize("name", PASSED_OVER)
def test_what_is_passed_over_is_listed(zoo, name) -> None:
    assert PASSED_OVER[name] in zoo.said("left_out", name)["reason"]


@pytest.mark.parametrize(
    ("name", "color"),
    [
        ("animated.gif", RED), ("animated.webp", RED), ("animated.png", RED), ("phone.jpg", RED),
        ("grey16.png", (128,) * 3), ("cmyk.jpg", RED), ("palette.png", (255,) * 3),
        ("la.png", (255,) * 3), ("rgba.png", (255,) * 3),
    ],
)  # fmt: skip
def test_colours_are_what_a_viewer_shows(zoo, name, color) -> None:
    np.testing.assert_allclose(zoo.pixels(name)[8, 8], color, atol=6)


def test_orientations_are_applied(zoo) -> None:
    for k in TURNED:
        np.testing.assert_allclose(zoo.pixels(f"exif{k}.jpg")[2, 2], (255, 0, 0), atol=40)
        np.testing.assert_allclose(zoo.pixels(f"exif{k}.jpg")[2, 13], (0, 255, 0), atol=40)


def test_names_are_kept_to_the_byte(zoo) -> None:
    for name in STRANGE_NAMES:
        assert b"unlabeled/" + name in zoo.records


def labelled_with_bad(folder: Path) -> Path:
    labelled(folder)
    put(folder / "train" / "cat" / "broken.png", b"<html>")
    put(folder / "test" / "dog" / "none.jpg", b"")
    return folder


def test_labelled_pictures_never_shrink_silently(tmp_path) -> None:
    folder = labelled_with_bad(tmp_path)
    _, err = run(folder, code=3)
    assert "2 labelled images cannot be read" in err
    assert "broken.png: not an image of a known format" in err
    assert "--on_bad=skip" in err
    assert written(folder) == ["d-report.json"]
    assert [i["action"] for i in report_of(folder)["unreadable"]] == ["stopped the build"] * 2
    out, err = run(folder, "--on_bad=skip", "--json")
    facts = json.loads(out)["datasets"][0]["facts"]
    assert facts["classes"] == {"cat": 3, "dog": 3}
    assert facts["labeled_unreadable"] == {"cat": 1}
    assert facts["test_unreadable"] == {"dog": 1}
    assert "1 labelled train images could not be read and were left out" in err
    assert written(folder) == FINISHED


def test_class_names_are_data_not_paths_or_formulas(tmp_path) -> None:
    names = ["=cmd|'x'!A0", "a,b", 'say "hi"', "semi;colon", "x..y", "été", " lead"]
    labelled(tmp_path, names, count=1)
    put(tmp_path / "train" / "..a" / "1.png", saved(noise(1), "PNG"))
    put(tmp_path / "train" / "..." / "1.png", saved(noise(2), "PNG"))
    _, err = run(tmp_path)
    mapping = json.loads((tmp_path / "data" / "d_class_mappings.json").read_text())
    assert sorted(mapping.values()) == sorted(names)
    assert "2 hidden or foreign files and folders were passed over, such as" in err
    assert "'train/...'" in err
    assert "' lead' begins or ends with a space" in err
    assert written(tmp_path) == FINISHED


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["Cat", "cat"], "'Cat' and 'cat' differ only in case"),
        (["   ", "cat"], "nothing but spaces"),
        (["one"], "only one class, 'one'"),
    ],
)
def test_classes_that_cannot_be_told_apart(tmp_path, classes, message) -> None:
    _, err = run(labelled(tmp_path, classes, count=1), code=3)
    assert message in err
    assert written(tmp_path) == []


def test_empty_class_folders_and_empty_folders(tmp_path) -> None:
    labelled(tmp_path, count=1)
    (tmp_path / "train" / "cow").mkdir()
    put(tmp_path / "train" / "cow" / ".DS_Store", b"junk")
    _, err = run(tmp_path, code=3)
    assert "no images in the class folder 'cow'" in err
    (tmp_path / "none").mkdir()
    _, err = run(tmp_path, f"--traindir={tmp_path / 'none'}", code=3)
    assert f"no images in this folder, it is empty ({tmp_path / 'none'})" in err
    assert written(tmp_path) == []


def test_outputs_and_inputs_in_one_another(tmp_path) -> None:
    labelled(tmp_path)
    _, err = run(tmp_path, f"--data_dir={tmp_path / 'train' / 'out'}", code=2)
    assert "inside an input folder" in err
    assert not (tmp_path / "train" / "out").exists()
    run(tmp_path, f"--data_dir={tmp_path}")
    assert (tmp_path / "d-train.tfrecord.json").exists()


def test_a_dry_run_writes_nothing_and_refuses_the_same(tmp_path) -> None:
    labelled(tmp_path)
    out, _ = run(tmp_path, "--dry_run", "--json")
    plan = json.loads(out)
    assert plan["dry_run"] is True
    assert sum(item["bytes"] for item in plan["reads"]) > 1000
    assert written(tmp_path) == []
    put(tmp_path / "train" / "Cat" / "1.png", saved(noise(1), "PNG"))
    _, err = run(tmp_path, "--dry_run", code=3)
    assert "differ only in case" in err


def test_custom_extra_needs_unlabelled_pictures(tmp_path) -> None:
    _, err = run(labelled(tmp_path), source="custom_extra", code=2)
    assert "custom_extra needs --unlabeldir" in err


def test_the_same_picture_in_training_and_test(tmp_path) -> None:
    labelled(tmp_path)
    content = (tmp_path / "train" / "cat" / "0.png").read_bytes()
    put(tmp_path / "test" / "cat" / "again.png", content)
    put(tmp_path / "train" / "dog" / "also.png", content)
    _, err = run(tmp_path)
    assert "warning: 1 test pictures are labelled training pictures too" in err
    assert "warning: 3 labelled pictures have more than one class" in err
    found = report_of(tmp_path)["same_pictures"]["contradictions"]
    assert found["pictures"] == 3
    assert sorted(found["examples"][0]) == [
        "test/cat/again.png (cat)", "train/cat/0.png (cat)", "train/dog/also.png (dog)",
    ]  # fmt: skip


def test_a_full_disk(tmp_path) -> None:
    labelled(tmp_path, count=20)
    _, err = run(tmp_path, code=4, preexec_fn=files_up_to(20_000))
    assert "grew past a size limit" in err
    assert written(tmp_path) == []


def test_permissions(tmp_path) -> None:
    (tmp_path / "probe").mkdir()
    need_permissions(tmp_path / "probe")
    labelled(tmp_path)
    place = tmp_path / "unlabeled"
    put(place / "fine.png", saved(noise(1), "PNG"))
    put(place / "secret.png", saved(noise(2), "PNG"))
    put(place / "locked" / "x.png", saved(noise(3), "PNG"))
    (place / "secret.png").chmod(0)
    (place / "locked").chmod(0)
    words = (f"--unlabeldir={place}", "--json")
    try:
        out, _ = run(tmp_path, *words, preexec_fn=mortal)
        place.chmod(0)
        _, err = run(tmp_path, *words, "--overwrite", code=4, preexec_fn=mortal)
        assert "permission denied" in err
    finally:
        place.chmod(0o700)
        (place / "locked").chmod(0o700)
    facts = json.loads(out)["datasets"][0]["facts"]
    assert (facts["unlabeled"], facts["unlabeled_unreadable"]) == (1, 2)
    assert {i["reason"] for i in report_of(tmp_path)["unreadable"]} == {"permission denied"}
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    _, err = run(tmp_path, f"--data_dir={closed / 'in'}", code=4, preexec_fn=mortal)
    assert "permission denied" in err
    _, err = run(tmp_path, f"--data_dir={closed}", "--dry_run", code=4, preexec_fn=mortal)
    assert "permission denied" in err


def wait_for_records(process: subprocess.Popen[str], folder: Path) -> None:
    """Waits until the folders were listed and the record files begun."""
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if list(folder.glob("data/.tmp-*.part")):
            return
        time.sleep(0.001)
    raise AssertionError(process.communicate()[1])


def test_files_that_change_while_they_are_read(tmp_path) -> None:
    labelled(tmp_path)
    place = tmp_path / "unlabeled"
    for i in range(40):
        put(place / f"{i:02}.png", saved(noise(i), "PNG"))
    # The processes have yet to start when the record files are begun.
    process = start(tmp_path, f"--unlabeldir={place}", "--json")
    wait_for_records(process, tmp_path)
    for name in ("36.png", "37.png", "38.png"):
        (place / name).unlink()
    os.mkfifo(place / "37.png")
    (place / "38.png").mkdir()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["datasets"][0]["facts"]["unlabeled"] == 37
    reasons = [i["reason"] for i in report_of(tmp_path)["unreadable"]]
    assert reasons == ["the file is no longer there", *["not a regular file"] * 2]


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in found]
    return []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="looks at Linux's processes")
def test_a_killed_build_leaves_nothing_that_looks_finished(tmp_path, number) -> None:
    labelled(tmp_path)
    put(tmp_path / "unlabeled" / "a.png", saved(noise(1), "PNG"))
    for i in range(4):
        put(tmp_path / "unlabeled" / f"{i}.jpg", scan_bomb())
    process = start(tmp_path, f"--unlabeldir={tmp_path / 'unlabeled'}", "--workers=1")
    wait_for_records(process, tmp_path)
    # The process is deep in the decoder, where no signal handler of Python runs.
    time.sleep(0.8)
    below = children(process.pid)
    assert len(below) >= 2
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    end = time.monotonic() + 10
    while any(map(alive, below)) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(map(alive, below))
    left = written(tmp_path)
    assert [name for name in left if not name.startswith(".tmp-")] == []
    if number != signal.SIGKILL:
        assert left == []
    else:
        run(tmp_path)
        assert written(tmp_path) == FINISHED
