"""Sheets of pictures with captions, as PNG files."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from realmix_tf.errors import UsageError, printable
from realmix_tf.files import atomic_write, require_writable

BACKGROUND, INK, FAINT = (255, 255, 255), (25, 25, 25), (120, 120, 120)
TEXT_SIZE = 13  # of captions, in pixels
GAP = 6  # between pictures
_LINE = TEXT_SIZE + 5

UInt8Array = NDArray[np.uint8]
Font = ImageFont.FreeTypeFont


@dataclass(frozen=True)
class Row:
    """A row of a sheet: lines of text on the left, pictures on the right.

    Attributes:
      lines: the text; each is shortened to the width there is.
      pictures: uint8 [h, w, 1 or 3]; None leaves a place empty.
    """

    lines: tuple[str, ...]
    pictures: Sequence[UInt8Array | None]


def check_target(path: Path | None, overwrite: bool) -> None:
    """Checks that a sheet may be written there.

    Raises:
      UsageError: the file exists, is a folder, or does not end in .png.
      ResourceError: files cannot be made in its folder.
    """
    if path is None:
        return
    if path.suffix.lower() != ".png":
        raise UsageError("a sheet of pictures is a PNG file", path, f"{path}.png")
    if path.is_dir() or (os.path.lexists(path) and not overwrite):
        raise UsageError("this file exists already", path, "--overwrite, or another name")
    require_writable(path.parent)


def sheet(
    title: Sequence[str], rows: Sequence[Row], cell: int, text_width: int, columns: int = 1
) -> Image.Image:
    """Draws rows of pictures with their captions.

    Args:
      title: lines above everything.
      rows: the rows.
      cell: side of the square that a picture is fitted into, in pixels.
      text_width: room for the captions, in pixels.
      columns: rows that stand side by side.
    """
    font = _font(TEXT_SIZE)
    most = max((len(row.pictures) for row in rows), default=0)
    column = text_width + most * (cell + GAP) + GAP
    lines = max((len(row.lines) for row in rows), default=0)
    height = max(cell, _LINE * lines) + GAP
    columns = max(min(columns, len(rows)), 1)
    top = GAP + _LINE * len(title) + GAP
    size = (max(column * columns, 320) + GAP, top + math.ceil(len(rows) / columns) * height + GAP)
    image = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(image)
    for k, text in enumerate(title):
        draw.text((GAP, GAP + k * _LINE), fitted(text, size[0] - 2 * GAP, font), INK, font)
    for number, row in enumerate(rows):
        left, y = GAP + number % columns * column, top + number // columns * height
        for k, text in enumerate(row.lines):
            shown = fitted(text, text_width - GAP, font)
            draw.text((left, y + k * _LINE), shown, FAINT if k else INK, font)
        for k, picture in enumerate(row.pictures):
            if picture is not None:
                image.paste(_scaled(picture, cell), (left + text_width + k * (cell + GAP), y))
    return image


def fitted(text: str, width: int, font: Font) -> str:
    """``text`` on one line and no wider than ``width`` pixels; an ellipsis shows what was cut."""
    # What a name of megabytes would take to measure is not worth it.
    text = printable(text[:200])
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(text[:middle] + "…") <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low] + "…"


def save(image: Image.Image, path: Path) -> None:
    """Writes a PNG file atomically.

    Raises:
      ResourceError: it cannot be written.
    """
    with atomic_write(path) as file:
        image.save(file, "PNG", compress_level=6)


def _scaled(picture: UInt8Array, cell: int) -> Image.Image:
    """Fitted into the square; small pictures by whole factors, so that their pixels show."""
    shown = picture[:, :, 0] if picture.shape[2] == 1 else picture
    image = Image.fromarray(shown).convert("RGB")
    longest = max(image.size)
    if longest <= cell:
        factor = max(cell // longest, 1)
        size = (image.width * factor, image.height * factor)
        return image.resize(size, Image.Resampling.NEAREST)
    image.thumbnail((cell, cell), Image.Resampling.LANCZOS)
    return image


def _font(size: int) -> Font:
    """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic and more."""
    import matplotlib

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(os.fspath(path), size)
