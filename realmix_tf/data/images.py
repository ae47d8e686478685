"""The one place where users' images are found and decoded, and where our PNGs are made.

Users' bytes go to Pillow alone, restricted to six formats; the same function serves dataset
building and inference, so both see the same pixels.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from realmix_tf.errors import DataError, UsageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 50_000_000
MAX_DEPTH = 64

# What is too large is refused by its header here, and named; Pillow's warning about the same says
# neither which file it is nor that it was refused. ``warnings.catch_warnings`` around the decoding
# would do harm: threads decode, and the filters are the whole process's.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

UInt8Array = NDArray[np.uint8]

_JUNK = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r"})
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_READ_WHOLE = 1 << 20
_THIN = 20
_TINY = 4
# Keys of Image.info that Pillow takes the orientation from.
_ORIENTED = frozenset({"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"})
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FORMAT_OF = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    ".gif": "GIF",
    ".webp": "WEBP",
}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class ImageEntry(NamedTuple):
    """A file that may be an image.

    Attributes:
      path: to open it; undecodable bytes are surrogate escapes.
      name: relative to the folder that was searched, with ``/``.
      problem: why it cannot be read; empty when it may be tried.
      link: it is a symbolic link (to a file).
    """

    path: str
    name: str
    problem: str = ""
    link: bool = False


def find_images(
    folder: str | os.PathLike[str], skipped: list[tuple[str, str]] | None = None
) -> list[ImageEntry]:
    """All files below a folder, as ``walk_images`` yields them.

    Args:
      folder: where to look.
      skipped: receives (relative name, reason) of what was left out.

    Raises:
      DataError: the folder does not exist or is none.
    """

    def leave_out(name: str, reason: str) -> None:
        if skipped is not None:
            skipped.append((name, reason))

    return list(walk_images(folder, leave_out))


def walk_images(
    folder: str | os.PathLike[str], leave_out: Callable[[str, str], None]
) -> Iterator[ImageEntry]:
    """All files below a folder, ordered by the bytes of their relative names.

    Content decides later what is an image, so extensions do not matter. Hidden and junk entries
    and linked folders are left out; what is no readable regular file (a pipe, a dangling link, a
    folder without permission) is yielded with its problem and never opened. No more than the
    names of one folder and of those above it are held at a time.

    Args:
      folder: where to look.
      leave_out: called with the relative name and the reason of what is left out.

    Raises:
      DataError: the folder does not exist or is none.
    """
    root = os.fsencode(folder)
    if not os.path.isdir(root):
        raise DataError("there is no such folder", os.fsdecode(root), "check the path")
    return _walk(root, b"", 0, leave_out)


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is hidden or made by an operating system."""
    return name.startswith(".") or name.lower() in _JUNK


# What the walk found out about a name that is no plain file, and a text about it.
_LEFT_OUT, _PROBLEM, _LINK = range(3)


def _walk(
    path: bytes, prefix: bytes, depth: int, leave_out: Callable[[str, str], None]
) -> Iterator[ImageEntry]:
    try:
        names, odd = _children(path, depth)
    except OSError as error:
        name = os.fsdecode(prefix).rstrip("/") or "."
        yield ImageEntry(os.fsdecode(path), name, _reason(error))
        return
    # Folders have their names end in "/", which gives the order of the whole relative names.
    for child in sorted(names):
        if child.endswith(b"/"):
            inner = os.path.join(path, child[:-1])
            yield from _walk(inner, prefix + child, depth + 1, leave_out)
            continue
        kind, text = odd.get(child, (None, ""))
        name = os.fsdecode(prefix + child)
        if kind == _LEFT_OUT:
            leave_out(name, text)
        else:
            yield ImageEntry(os.fsdecode(os.path.join(path, child)), name, text, kind == _LINK)


def _children(path: bytes, depth: int) -> tuple[list[bytes], dict[bytes, tuple[int, str]]]:
    names: list[bytes] = []
    odd: dict[bytes, tuple[int, str]] = {}
    with os.scandir(path) as scan:
        for child in scan:
            name = child.name
            if is_junk(os.fsdecode(name)):
                odd[name] = _LEFT_OUT, "hidden or made by the system"
            elif child.is_symlink():
                odd[name] = _behind_link(child)
            elif child.is_dir(follow_symlinks=False):
                if depth + 1 < MAX_DEPTH:
                    name += b"/"
                else:
                    odd[name] = _LEFT_OUT, f"more than {MAX_DEPTH} folders deep"
            elif not child.is_file(follow_symlinks=False):
                odd[name] = _PROBLEM, "not a regular file"
            names.append(name)
    return names, odd


def _behind_link(child: os.DirEntry[bytes]) -> tuple[int, str]:
    try:
        mode = child.stat().st_mode
    except OSError as error:
        return _PROBLEM, _reason(error)
    if stat.S_ISDIR(mode):
        return _LEFT_OUT, "a link to a folder"
    return (_LINK, "") if stat.S_ISREG(mode) else (_PROBLEM, "not a regular file")


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        gone = error.filename is not None and not os.path.islink(error.filename)
        return "the file is no longer there" if gone else "the link leads nowhere"
    return (error.strerror or str(error)).lower()


def decode_image(
    data: bytes | str | os.PathLike[str],
    *,
    size: tuple[int, int] | None,
    crop: bool = False,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
    min_side: int = 1,
    background: tuple[int, int, int] = (255, 255, 255),
    notes: list[str] | None = None,
) -> UInt8Array:
    """Decodes an image to the pixels that training and inference see.

    PNG, JPEG, WebP, BMP, GIF and TIFF are told apart by content. The first frame of an animation
    is taken; the EXIF orientation is applied; transparency is composited on ``background``;
    16-bit grey is scaled (÷ 257); CMYK and other colour models become RGB; one channel is the
    luminance (ITU-R 601). Another size is reached by stretching with Pillow's Lanczos filter,
    which averages over the source's area; large JPEGs are first decoded at the reduced scale that
    is still at least twice the wanted one (of the part that is used, with ``crop``).

    Args:
      data: the file's bytes or its path.
      size: (height, width) in pixels of the result; None keeps the image's own.
      crop: with a ``size``, take the largest central part of its aspect ratio, whose edges need
        not be whole pixels, instead of stretching the whole.
      channels: 1 or 3.
      max_pixels: images whose header announces more are refused before decoding.
      min_side: images with a shorter side, in pixels, are refused too.
      background: red, green, blue in 0..255.
      notes: receives remarks, such as that only the first frame is used, or that the name's
        extension belongs to another format.

    Returns:
      uint8 [height, width, channels].

    Raises:
      DataError: the bytes are no complete image of these formats; ``what`` is the reason and
        ``where`` the path.
    """
    where = "" if isinstance(data, bytes) else os.fsdecode(data)
    try:
        with _opened(data) as file, Image.open(file, formats=FORMATS) as opened:
            _check_size(opened.size, max_pixels, min_side)
            if notes is not None:
                notes += _remarks(opened, where)
            return _decode(opened, size, crop, channels, background, notes)
    except DataError as error:
        raise DataError(error.what, where) from error
    except Image.UnidentifiedImageError as error:
        raise DataError("not an image of a known format", where) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"more than {max_pixels} pixels", where) from error
    except OSError as error:
        reason = str(error) if error.errno is None else _reason(error)
        raise DataError(reason or "not readable", where) from error
    except MemoryError as error:
        raise DataError("not enough memory to decode it", where) from error
    except Exception as error:
        # Damaged files make the decoders raise nearly anything; whatever it is, it is this file's.
        reason = f"damaged: {type(error).__name__}: {error}".rstrip(": ")
        raise DataError(reason, where) from error


@contextlib.contextmanager
def _opened(data: bytes | str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    if isinstance(data, bytes):
        if not data:
            raise DataError("empty file")
        yield io.BytesIO(data)
        return
    # Without O_NONBLOCK, opening a pipe that took the file's place would wait for ever.
    descriptor = os.open(data, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DataError("not a regular file")
        if status.st_size == 0:
            raise DataError("empty file")
        if status.st_size <= _READ_WHOLE:
            # The decoders read small pieces; one read is quicker where there is little to read.
            yield io.BytesIO(_read(descriptor, status.st_size))
            return
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def _read(descriptor: int, size: int) -> bytes:
    data = os.read(descriptor, size)
    # Network file systems may give less at a time.
    while len(data) < size and (more := os.read(descriptor, size - len(data))):
        data += more
    return data


def _check_size(size: tuple[int, int], max_pixels: int, min_side: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise DataError(f"{width}x{height} is more than {max_pixels} pixels")
    if min(width, height) < 1:
        raise DataError("the image has no pixels")
    if min(width, height) < min_side:
        raise DataError(f"{width}x{height} has a side shorter than {min_side} pixels")


def _remarks(opened: ImageFile, path: str) -> Iterator[str]:
    # Phones put a preview behind the picture (MPO); that is no animation.
    if opened.format != "MPO" and getattr(opened, "is_animated", False):
        yield "animated, only the first frame is used"
        opened.seek(0)
    shorter, longer = sorted(opened.size)
    if longer > _THIN * shorter:
        yield f"one side is more than {_THIN} times the other"
    elif shorter < _TINY:
        yield f"a side is shorter than {_TINY} pixels"
    extension = os.path.splitext(path)[1].lower()
    actual = "JPEG" if opened.format == "MPO" else opened.format
    if _FORMAT_OF.get(extension, actual) != actual:
        yield f"a {actual} named {extension}"


def _decode(
    opened: ImageFile,
    size: tuple[int, int] | None,
    crop: bool,
    channels: int,
    background: tuple[int, int, int],
    notes: list[str] | None,
) -> UInt8Array:
    if size is not None and opened.format == "JPEG":
        # Twice the wanted size leaves the averaging to the filter; the longer side serves for
        # both, as the picture may still have to be turned. A part of the wanted shape has one of
        # the picture's sides whole, so it is no smaller than twice the wanted size either.
        side = 2 * max(size)
        opened.draft(None, (side, side))
    opened.load()
    image = _eight_bit(_upright(opened, notes), opened.format)
    if image.has_transparency_data or image.mode in ("La", "RGBa", "PA"):
        image = _on_background(image, background)
    mode = "L" if channels == 1 else "RGB"
    # Converting an image to the mode it has copies it.
    if image.mode != mode:
        image = image.convert(mode)
    if size is not None and image.size != (size[1], size[0]):
        box = _central(image.size, size) if crop else None
        image = image.resize((size[1], size[0]), Image.Resampling.LANCZOS, box, reducing_gap=3.0)
    pixels = np.asarray(image, np.uint8)
    return pixels[:, :, None] if channels == 1 else pixels


def _central(
    image_size: tuple[int, int], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the largest central part of the shape ``size``.

    Args:
      image_size: (width, height).
      size: (height, width).
    """
    (width, height), (wanted_height, wanted_width) = image_size, size
    scale = min(width / wanted_width, height / wanted_height)
    # Rounding must not carry the part beyond the edges.
    left = max(0.0, (width - scale * wanted_width) / 2)
    top = max(0.0, (height - scale * wanted_height) / 2)
    return left, top, width - left, height - top


def _upright(image: ImageFile, notes: list[str] | None) -> Image.Image:
    # A JPEG without these has no orientation, and most small pictures are such.
    if image.format == "JPEG" and not _ORIENTED.intersection(image.info):
        return image
    try:
        if image.format == "JPEG" and "exif" in image.info:
            # Opening the file has hidden what is wrong with them from ``getexif``.
            Image.Exif().load(image.info["exif"])
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        # The pixels are whole; only what says how to hold them is damaged.
        if notes is not None:
            notes.append("the EXIF data are damaged, the orientation is not applied")
        return image
    return image if turn is None else image.transpose(turn)


def _eight_bit(image: Image.Image, file_format: str | None) -> Image.Image:
    if image.mode in _SIXTEEN_BIT or (image.mode == "I" and file_format == "PNG"):
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError("32-bit pixels have no defined range")
    return image


def _on_background(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    image = image.convert("RGBA")
    canvas = Image.new("RGBA", image.size, (*background, 255))
    canvas.alpha_composite(image)
    return canvas


def encode_png(image: UInt8Array) -> bytes:
    """PNG bytes of one uint8 [height, width, 1 or 3] image (see ``encode_pngs``)."""
    return encode_pngs(image[None])[0]


def encode_pngs(images: UInt8Array) -> list[bytes]:
    """PNG bytes of uint8 [N, height, width, 1 or 3], lossless.

    The filter is always "sub" and the compression run-length + Huffman: more than twice as fast
    as Pillow at its lowest level and 10 % larger, on the synthetic 32×32 images of
    benchmarks/data_tools.py, which measures both.
    """
    count, height, width, channels = images.shape
    row = width * channels
    flat = images.reshape(count, height, row)
    filtered = np.empty((count, height, 1 + row), np.uint8)
    filtered[:, :, 0] = 1
    filtered[:, :, 1 : 1 + channels] = flat[:, :, :channels]
    np.subtract(flat[:, :, channels:], flat[:, :, :-channels], out=filtered[:, :, 1 + channels :])
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    head = _PNG_SIGNATURE + _chunk(b"IHDR", header)
    tail = _chunk(b"IEND", b"")
    encoded = []
    for rows in filtered:
        deflate = zlib.compressobj(1, zlib.DEFLATED, 15, 8, zlib.Z_RLE)
        encoded.append(
            b"".join((head, _chunk(b"IDAT", deflate.compress(rows) + deflate.flush()), tail))
        )
    return encoded


def decode_png(data: bytes) -> UInt8Array:
    """uint8 [height, width, channels] of a PNG in a record; 1 channel if it is grey, else 3.

    Raises:
      DataError: these are not the bytes of a whole PNG.
    """
    if not data.startswith(_PNG_SIGNATURE) or len(data) < 33:
        raise DataError("not a PNG")
    width, height = struct.unpack(">II", data[16:24])
    if width * height > MAX_PIXELS:
        raise DataError(f"{width}x{height} is more than {MAX_PIXELS} pixels")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.mode not in ("L", "RGB"):
                return decode_image(data, size=None, channels=1 if image.mode in ("1", "LA") else 3)
            pixels = np.asarray(image, np.uint8)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"the PNG is damaged: {error}") from error
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def decode_pngs(datas: Sequence[bytes]) -> UInt8Array:
    """uint8 [N, height, width, channels] of N PNGs of one size, quickly where they are ours.

    Raises:
      DataError: one is damaged or of another size; ``where`` is its position, as a text.
    """
    rows: list[UInt8Array] = []
    slow: dict[int, UInt8Array] = {}
    shape: tuple[int, ...] = ()
    for i, data in enumerate(datas):
        filtered = _ours(data)
        if filtered is None:
            try:
                slow[i] = decode_png(data)
            except DataError as error:
                raise DataError(error.what, str(i)) from error
            size = slow[i].shape
        else:
            size = filtered[1]
        if shape and size != shape:
            raise DataError(f"an image of {size} among images of {shape}", str(i))
        shape = size
        rows.append(filtered[0] if filtered else np.ones((), np.uint8))
    if not rows:
        raise ValueError("decode_pngs needs at least one image")
    height, width, channels = shape
    stride = 1 + width * channels
    stacked = np.empty((len(rows), height, stride), np.uint8)
    for i, row in enumerate(rows):
        stacked[i] = row if i in slow else row.reshape(height, stride)
    pixels = stacked[:, :, 1:].reshape(len(rows), height, width, channels)
    # "Sub" stores differences along the row, modulo 256.
    images = np.cumsum(pixels, axis=2, dtype=np.uint8)
    for i, image in slow.items():
        images[i] = image
    return images


def _ours(data: bytes) -> tuple[UInt8Array, tuple[int, int, int]] | None:
    """The filtered rows and the shape of a PNG as ``encode_pngs`` makes them, else None."""
    if len(data) < 57 or data[37:41] != b"IDAT" or data[:8] != _PNG_SIGNATURE:
        return None
    width, height, depth, kind = struct.unpack_from(">IIBB", data, 16)
    length = int.from_bytes(data[33:37], "big")
    if length != len(data) - 57 or depth != 8 or kind not in (0, 2) or data[28]:
        return None
    channels = 1 if kind == 0 else 3
    size = height * (1 + width * channels)
    if size > MAX_PIXELS:
        return None
    try:
        inflate = zlib.decompressobj()
        raw = inflate.decompress(data[41 : 41 + length], size)
    except zlib.error:
        return None
    filtered = np.frombuffer(raw, np.uint8)
    if len(filtered) != size or (filtered[:: 1 + width * channels] != 1).any():
        return None
    return filtered, (height, width, channels)


def parse_size(text: str) -> tuple[int, int]:
    """``"32"`` → (32, 32) and ``"32x48"`` → (32, 48): height and width in pixels.

    Raises:
      UsageError: it is neither, or a side is not in 1..4096.
    """
    sides = text.lower().split("x")
    if len(sides) in (1, 2) and all(side.isascii() and side.isdigit() for side in sides):
        height, width = int(sides[0]), int(sides[-1])
        if min(height, width) >= 1 and max(height, width) <= 4096:
            return height, width
    raise UsageError(f"{text!r} is not an image size", "", "32, or 32x48 for height x width")


def png_bytes_estimate(height: int, width: int, channels: int) -> int:
    """An upper estimate of a PNG of ours, in bytes."""
    return math.ceil(height * (width * channels + 1) * 1.02) + 100


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(data, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", checksum)))
