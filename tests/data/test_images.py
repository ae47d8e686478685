from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from realmix_tf.data.images import (
    decode_image,
    decode_png,
    decode_pngs,
    encode_png,
    encode_pngs,
    find_images,
    parse_size,
)
from realmix_tf.errors import DataError, UsageError


def saved(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def smooth(height: int = 40, width: int = 60) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 2 % 256], -1).astype(np.uint8)


RGB = Image.fromarray(smooth())


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "GIF", "JPEG", "WEBP"])
def test_all_formats_are_read(file_format) -> None:
    data = saved(RGB, file_format, **({"lossless": True} if file_format == "WEBP" else {}))
    pixels = decode_image(data, size=None)
    assert pixels.shape == (40, 60, 3)
    assert pixels.dtype == np.uint8
    if file_format in ("PNG", "BMP", "TIFF", "WEBP"):
        np.testing.assert_array_equal(pixels, smooth())
    assert decode_image(data, size=(8, 12), channels=1).shape == (8, 12, 1)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "GIF", "JPEG", "WEBP"])
def test_truncated_files_are_errors(file_format) -> None:
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8))
    data = saved(noise, file_format)
    for share in (0.3, 0.6, 0.9):
        for size in (None, (4, 4)):
            with pytest.raises(DataError):
                decode_image(data[: int(len(data) * share)], size=size)


@pytest.mark.parametrize(
    "data", [b"", b"<html></html>", b"<svg/>", b"\x89PNG\r\n\x1a\n", b"P6 1 1 255 abc", b"\0" * 999]
)
def test_other_bytes_are_errors(data) -> None:
    with pytest.raises(DataError):
        decode_image(data, size=None)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_bytes_never_raise_anything_else() -> None:
    random = np.random.RandomState(0)
    for file_format in ("PNG", "BMP", "TIFF", "GIF", "JPEG", "WEBP"):
        good = saved(RGB, file_format)
        for _ in range(40):
            bad = bytearray(good)
            for _ in range(random.randint(1, 20)):
                bad[random.randint(min(len(bad), 300))] = random.randint(256)
            with contextlib.suppress(DataError):
                decode_image(bytes(bad), size=(4, 4), max_pixels=10**6)


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 12_000, 40_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused_by_their_header(side) -> None:
    with pytest.raises(DataError, match="more than 50000000 pixels"):
        decode_image(bomb(side, side), size=(4, 4))
    with pytest.raises(DataError):
        decode_png(bomb(side, side))


def hostile_gif(side: int) -> bytes:
    """A GIF whose frame is far larger than it says at first."""
    frame = struct.pack("<4HB", 0, 0, side, side, 0)
    return (
        b"GIF89a" + struct.pack("<2HBBB", 1, 1, 0x80, 0, 0) + bytes(6) + b"," + frame + b"\x02\0;"
    )


@pytest.mark.process
def test_pillow_prints_no_warnings_about_bombs(tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(bomb(10_000, 10_000))
    (tmp_path / "b.gif").write_bytes(hostile_gif(10_000))
    code = (
        "import sys; from concurrent.futures import ThreadPoolExecutor\n"
        "from realmix_tf.data.images import decode_image\n"
        "from realmix_tf.errors import DataError\n"
        "def decode(path):\n"
        "    try: decode_image(path, size=(4, 4))\n"
        "    except DataError as error: return error.what\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    print(set(pool.map(decode, sys.argv[1:] * 8)))\n"
    )
    paths = [str(tmp_path / name) for name in ("a.png", "b.gif")]
    result = subprocess.run(
        [sys.executable, "-W", "always", "-c", code, *paths],
        capture_output=True, text=True, check=True,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert result.stdout == "{'10000x10000 is more than 50000000 pixels'}\n"
    assert result.stderr == ""


def test_sixteen_bit_grey_is_scaled() -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    data = saved(Image.fromarray(values), "PNG")
    expected = [0, 1, 128, 255]
    assert decode_image(data, size=None, channels=1)[0, :, 0].tolist() == expected
    assert decode_image(data, size=None)[0, :, 2].tolist() == expected
    tiff = saved(Image.fromarray(values), "TIFF")
    assert decode_image(tiff, size=None, channels=1)[0, :, 0].tolist() == expected


def test_float_pixels_are_refused() -> None:
    with pytest.raises(DataError, match="32-bit"):
        decode_image(saved(Image.fromarray(np.ones((3, 3), np.float32)), "TIFF"), size=None)


def test_transparency_is_composited() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 0] = 200
    rgba[0, :, 3] = [255, 0, 128]
    data = saved(Image.fromarray(rgba), "PNG")
    pixels = decode_image(data, size=None)
    assert pixels[0].tolist()[:2] == [[200, 0, 0], [255, 255, 255]]
    assert abs(int(pixels[0, 2, 1]) - 127) <= 1
    dark = decode_image(data, size=None, background=(0, 0, 0))
    assert dark[0].tolist()[1] == [0, 0, 0]


def test_palette_and_grey_transparency_are_composited() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    data = saved(palette, "PNG", transparency=0)
    assert decode_image(data, size=None)[0].tolist() == [[255, 255, 255], [40, 50, 60]]
    grey = Image.new("L", (2, 1))
    grey.putdata([7, 9])
    data = saved(grey, "PNG", transparency=7)
    assert decode_image(data, size=None, channels=1)[0, :, 0].tolist() == [255, 9]
    both = Image.new("LA", (1, 1), (9, 0))
    assert decode_image(saved(both, "PNG"), size=None)[0, 0].tolist() == [255, 255, 255]


TURNS = {
    1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud,
    5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1), 8: np.rot90,
}  # fmt: skip


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(file_format, orientation) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(file_format, {})
    data = saved(RGB, file_format, exif=exif, **options)
    plain = decode_image(saved(RGB, file_format, **options), size=None)
    turned = decode_image(data, size=None)
    np.testing.assert_array_equal(turned, TURNS[orientation](plain))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_damaged_exif_data_cost_the_orientation_only(file_format) -> None:
    notes: list[str] = []
    data = saved(RGB, file_format, exif=b"Exif\0\0no TIFF at all")
    assert decode_image(data, size=None, notes=notes).shape == (40, 60, 3)
    assert notes == ["the EXIF data are damaged, the orientation is not applied"]


def test_cmyk_is_close_to_rgb() -> None:
    red = Image.new("RGB", (16, 16), (200, 30, 60))
    pixels = decode_image(saved(red.convert("CMYK"), "JPEG", quality=100), size=None)
    np.testing.assert_allclose(pixels.mean((0, 1)), [200, 30, 60], atol=4)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_animations_is_taken(file_format) -> None:
    frames = [Image.new("RGB", (9, 7), c) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = saved(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    notes: list[str] = []
    pixels = decode_image(data, size=None, notes=notes)
    assert pixels.shape == (7, 9, 3)
    assert pixels[3, 3].tolist() == [255, 0, 0]
    assert notes == ["animated, only the first frame is used"]


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1)])
def test_thin_images_are_accepted_with_a_note_unless_refused(size) -> None:
    data = saved(Image.new("RGB", (size[1], size[0]), (1, 2, 3)), "PNG")
    notes: list[str] = []
    assert decode_image(data, size=(8, 8), notes=notes)[4, 4].tolist() == [1, 2, 3]
    assert len(notes) == 1
    with pytest.raises(DataError, match="shorter than 2 pixels"):
        decode_image(data, size=(8, 8), min_side=2)


def test_content_that_belies_the_name_is_noted(tmp_path) -> None:
    for name, file_format, note in (
        ("a.jpg", "PNG", ["a PNG named .jpg"]), ("b.TIF", "GIF", ["a GIF named .tif"]),
        ("c.JPEG", "JPEG", []), ("d", "PNG", []), ("e.photo", "BMP", []), ("f.jpg", "MPO", []),
        ("g.apng", "PNG", []),
    ):  # fmt: skip
        more = {"save_all": True, "append_images": [RGB]} if file_format == "MPO" else {}
        (tmp_path / name).write_bytes(saved(RGB, file_format, **more))
        notes: list[str] = []
        decode_image(tmp_path / name, size=None, notes=notes)
        assert notes == note


def test_large_jpegs_shrink_as_if_decoded_in_full() -> None:
    large = Image.fromarray(smooth(1200, 1600))
    data = saved(large, "JPEG", quality=95)
    full = np.asarray(large.resize((32, 32), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(decode_image(data, size=(32, 32)) - full).mean() < 3


def cropped_plainly(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The largest central part of a whole picture [H, W, 3], resized."""
    have_height, have_width = pixels.shape[:2]
    scale = min(have_height / height, have_width / width)
    left, top = (have_width - scale * width) / 2, (have_height - scale * height) / 2
    box = (max(left, 0), max(top, 0), have_width - max(left, 0), have_height - max(top, 0))
    resized = Image.fromarray(pixels).resize(
        (width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0
    )
    return np.asarray(resized)


@pytest.mark.parametrize("size", [(8, 8), (7, 13), (31, 5), (40, 60), (80, 20), (1, 1)])
@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (33, 33), (5, 7)])
def test_crops_are_cut_from_the_whole_and_resized(shape, size) -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (*shape, 3)).astype(np.uint8)
    result = decode_image(saved(Image.fromarray(pixels), "PNG"), size=size, crop=True)
    assert (result.shape, result.dtype) == ((*size, 3), np.uint8)
    np.testing.assert_array_equal(result, cropped_plainly(pixels, *size))


@pytest.mark.parametrize("orientation", [1, 6, 3, 8])
@pytest.mark.parametrize("size", [(32, 32), (20, 45), (45, 20)])
@pytest.mark.parametrize(("shape", "tolerance"), [((1200, 1600), 2), ((1601, 705), 4)])
def test_crops_of_large_jpegs_are_as_if_decoded_in_full(
    shape, tolerance, size, orientation
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    # Decoding at 1/8 averages in another way, and rounds the picture's sides up to whole pixels,
    # which moves what is seen by up to half of such a pixel: 1.5 levels of these 255 in 705 pixels.
    ramps = smooth(*shape)
    ramps[:, :, 2] = 255 - ramps[:, :, 0]
    data = saved(Image.fromarray(ramps), "JPEG", quality=95, exif=exif)
    small = decode_image(data, size=size, crop=True).astype(int)
    plain = cropped_plainly(decode_image(data, size=None), *size)
    assert np.abs(small - plain).max() <= tolerance


def test_jpegs_are_reduced_for_crops_to_no_less_than_twice_the_size(monkeypatch) -> None:
    sizes = []
    resize = Image.Image.resize

    def watched(image, size, resample, box, reducing_gap):
        sizes.append((image.size, box))
        return resize(image, size, resample, box, reducing_gap)

    monkeypatch.setattr(Image.Image, "resize", watched)
    for shape, size in (
        ((640, 2000), (40, 40)), ((639, 2000), (40, 40)), ((2000, 320), (10, 20)),
        ((99, 500), (40, 40)), ((160, 320), (20, 40)),
    ):  # fmt: skip
        # (The last could be halved again, were it known that it is not to be turned.)
        data = saved(Image.fromarray(smooth(*shape)), "JPEG")
        decode_image(data, size=size, crop=True)
        (width, height), box = sizes[-1]
        reduction = round(shape[0] / height)
        assert (height, width) == tuple(-(-side // reduction) for side in shape)
        assert box[2] - box[0] >= min(2, shape[1] / size[1]) * size[1]
        assert box[3] - box[1] >= min(2, shape[0] / size[0]) * size[0]
    assert [size for size, _ in sizes] == [(250, 80), (500, 160), (40, 250), (500, 99), (160, 80)]


def test_the_middle_is_what_a_crop_shows() -> None:
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    for turned in (pixels, pixels.transpose(1, 0, 2)):
        data = saved(Image.fromarray(turned), "PNG")
        result = decode_image(data, size=(8, 8), crop=True)
        # The filter reaches a little beyond the edge of the part, as when the whole is resized.
        assert result.min() > 230
        assert result[1:-1, 1:-1].min() > 250
    half = decode_image(saved(Image.fromarray(pixels), "PNG"), size=(8, 16), crop=True, channels=1)
    assert half.shape == (8, 16, 1)
    assert half[:, [0, -1]].max() < 30
    assert half[:, 6:10].min() > 250


def test_crops_of_the_wanted_shape_are_the_whole_picture() -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (30, 45, 3)).astype(np.uint8)
    data = saved(Image.fromarray(pixels), "PNG")
    np.testing.assert_array_equal(decode_image(data, size=(30, 45), crop=True), pixels)
    np.testing.assert_array_equal(decode_image(data, size=None, crop=True), pixels)
    stretched = decode_image(data, size=(10, 15))
    np.testing.assert_array_equal(decode_image(data, size=(10, 15), crop=True), stretched)


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (4096, 1), (31, 33)])
def test_any_shape_is_cropped_to_any_other(size) -> None:
    for shape in ((1, 1), (3, 997), (997, 3), (33, 31)):
        data = saved(Image.new("RGB", shape, (200, 30, 90)), "PNG")
        assert (decode_image(data, size=size, crop=True) == (200, 30, 90)).all()


def test_turned_photos_are_cut_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, :20] = 255
    data = saved(Image.fromarray(pixels), "PNG", exif=exif)
    # A quarter turn to the right: the white end is on top.
    result = decode_image(data, size=(30, 20), crop=True)
    assert result[0].mean() > result[-1].mean()


def test_pngs_are_lossless_and_read_by_pillow() -> None:
    random = np.random.RandomState(0)
    for shape in ((5, 8, 8, 1), (3, 7, 5, 3), (2, 1, 1, 3), (1, 64, 3, 1)):
        images = random.randint(0, 256, shape).astype(np.uint8)
        images[0] = 7
        encoded = encode_pngs(images)
        np.testing.assert_array_equal(decode_pngs(encoded), images)
        for image, data in zip(images, encoded, strict=True):
            assert data == encode_png(image)
            np.testing.assert_array_equal(decode_png(data), image)
            with Image.open(io.BytesIO(data)) as opened:
                opened.verify()


def test_pngs_of_other_programs_are_decoded_among_ours() -> None:
    images = np.random.RandomState(0).randint(0, 256, (3, 6, 5, 3)).astype(np.uint8)
    datas = [encode_png(images[0]), saved(Image.fromarray(images[1]), "PNG"), encode_png(images[2])]
    np.testing.assert_array_equal(decode_pngs(datas), images)
    with pytest.raises(DataError) as caught:
        decode_pngs([datas[0], datas[1][:-30]])
    assert caught.value.where == "1"
    with pytest.raises(DataError):
        decode_pngs([datas[0], encode_png(images[0][:3])])


def test_tensorflow_reads_our_pngs() -> None:
    tf = pytest.importorskip("tensorflow")
    image = np.random.RandomState(0).randint(0, 256, (9, 4, 3)).astype(np.uint8)
    np.testing.assert_array_equal(tf.io.decode_png(encode_png(image)), image)


def test_sizes_are_parsed() -> None:
    assert parse_size("32") == (32, 32)
    assert parse_size("32x48") == (32, 48)
    for text in ("", "0", "32x", "a", "-3", "1x2x3", "99999", "³"):
        with pytest.raises(UsageError):
            parse_size(text)


def test_folders_are_searched_carefully(tmp_path) -> None:
    data = saved(RGB, "PNG")
    for name in ("b.JPG", "a b[1]*.png", "sub/é.png", "sub/deep/x", "nl\n.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    for name in (".DS_Store", "Thumbs.db", "._x.png", "__MACOSX/y.png", ".ipynb_checkpoints/z.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with open(os.fsencode(tmp_path) + b"/\xff.png", "wb") as file:
        file.write(data)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "good_link.png").symlink_to(tmp_path / "b.JPG")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    skipped: list[tuple[str, str]] = []
    entries = find_images(tmp_path, skipped)
    names = [os.fsencode(entry.name) for entry in entries]
    assert names == sorted(names)
    problems = {entry.name: entry.problem for entry in entries if entry.problem}
    assert sorted(problems) == ["dangling.png", "pipe.png", "self.png"]
    fine = [name for entry, name in zip(entries, names, strict=True) if not entry.problem]
    assert fine == [
        b"a b[1]*.png", b"b.JPG", b"good_link.png", b"nl\n.png", b"sub/deep/x",
        "sub/é.png".encode(), b"\xff.png",
    ]  # fmt: skip
    assert {name for name, _ in skipped} == {
        ".DS_Store", "Thumbs.db", "._x.png", "__MACOSX", ".ipynb_checkpoints", "sub/loop",
    }  # fmt: skip
    for entry in entries:
        if not entry.problem:
            assert decode_image(entry.path, size=(4, 4)).shape == (4, 4, 3)


def test_a_pipe_is_never_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="regular"):
        decode_image(tmp_path / "pipe", size=None)
    with pytest.raises(DataError, match="folder"):
        find_images(tmp_path / "none")


def test_a_file_that_has_gone_is_told_from_a_broken_link(tmp_path) -> None:
    with pytest.raises(DataError, match="no longer there"):
        decode_image(tmp_path / "a.png", size=None)
    (tmp_path / "a.png").symlink_to("nothing")
    with pytest.raises(DataError, match="leads nowhere"):
        decode_image(tmp_path / "a.png", size=None)


def test_large_files_are_read_in_pieces(tmp_path) -> None:
    noise = np.random.RandomState(0).randint(0, 256, (700, 700, 3)).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(saved(Image.fromarray(noise), "PNG"))
    assert (tmp_path / "a.png").stat().st_size > 1 << 20
    np.testing.assert_array_equal(decode_image(tmp_path / "a.png", size=None), noise)


def test_walks_are_ordered_by_the_bytes_of_whole_names(tmp_path) -> None:
    for name in ("a/x", "a/b/y", "a-b", "a.c", "a0", "é", "Z/z", "a!/q"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    names = [entry.name for entry in find_images(str(tmp_path))]
    assert names == sorted(names, key=os.fsencode)
    assert len(names) == 8
    links = [entry for entry in find_images(tmp_path) if entry.link]
    assert links == []
    (tmp_path / "l").symlink_to("a0")
    assert [entry.name for entry in find_images(tmp_path) if entry.link] == ["l"]
