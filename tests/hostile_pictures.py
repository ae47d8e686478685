"""Pictures, and processes, that do their worst to those who decode them."""

from __future__ import annotations

import io
import os
from multiprocessing.connection import Connection
from typing import Any

from PIL import Image

from data_tools.pictures import decoding

KILLER = "killer.png"


def scan_bomb(side: int, scans: int) -> bytes:
    """A progressive JPEG of few bytes that takes long to decode: scans without content."""

    def segment(marker: int, content: bytes) -> bytes:
        return bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2, "big") + content

    plain = io.BytesIO()
    Image.new("L", (8, 8)).save(plain, "JPEG")
    tables = plain.getvalue()
    start = tables.index(b"\xff\xdb")
    quantization = tables[start : start + 2 + int.from_bytes(tables[start + 2 : start + 4], "big")]
    frame = segment(0xC2, b"\x08" + 2 * side.to_bytes(2, "big") + b"\x01\x01\x11\x00")
    huffman = segment(0xC4, b"\x10\x01" + bytes(15) + b"\x00")
    scan = segment(0xDA, b"\x01\x01\x00\x01\x3f\x00")
    return b"\xff\xd8" + quantization + frame + huffman + scan * scans + b"\xff\xd9"


def work(connection: Connection, progress: Any, image_format: decoding.ImageFormat) -> None:
    """A decoding process that dies of every picture that is called ``KILLER``."""
    decode_image = decoding.decode_image

    def decode_or_die(path: str, **options: Any) -> Any:
        if path.endswith(KILLER):
            os._exit(139)
        return decode_image(path, **options)

    decoding.decode_image = decode_or_die
    decoding._work(connection, progress, image_format)
