"""CRC-32C as TFRecord files store it: of one piece, of many, and of a row of frames at once."""

from __future__ import annotations

import google_crc32c
import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]
UInt8Array = NDArray[np.uint8]
UInt32Array = NDArray[np.uint32]

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
_MASK = 0xA282EAD8


def masked_crc(data: bytes) -> int:
    """The CRC-32C of ``data`` as TFRecord files store it."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def masked_crcs(data: bytes, begins: Int64Array, ends: Int64Array) -> UInt32Array:
    """The stored form of the CRC-32C of many pieces of ``data``, little-endian uint32 [n]."""
    # One piece after the other: a list of them would break up the memory the blocks live in.
    pieces = map(data.__getitem__, map(slice, begins.tolist(), ends.tolist()))
    crcs = np.fromiter(map(google_crc32c.value, pieces), np.dtype("<u4"), len(begins))
    return _masked(crcs)


def intact(block: UInt8Array, ends: Int64Array) -> bool:
    """Whether all checksums in a row of frames are right, by a single CRC of the whole row.

    A frame is two pieces, each followed by its checksum: the length, and the payload. The CRC of a
    piece with its checksum follows from the checksum alone. Adding it (exclusive or) to the next
    four bytes sets the CRC of the row back to its beginning, as though the row began with the next
    piece; so at the end it is that of the last piece, if all checksums are right.

    A wrong checksum, or any damage within 32 bits of one piece, is always found. Several damaged
    pieces may cancel each other out, with probability 2⁻³².

    Args:
      block: uint8 [bytes], the frames, each of 16 bytes or more; it is used up.
      ends: int64 [n], where they end, n ≥ 1; the first begins at 0.
    """
    # Words at any place, also at odd ones; those that are changed do not overlap.
    words = np.ndarray((len(block) - 3,), np.dtype("<u4"), block, strides=(1,))
    begins = np.concatenate([[0], ends[:-1]])
    lengths = _with_checksum(words[begins + 8])
    payloads = _with_checksum(words[ends - 4])
    words[begins + 12] ^= lengths
    words[ends[:-1]] ^= payloads[:-1]
    return bool(google_crc32c.value(block) == payloads[-1])


def with_last_byte(stored: UInt32Array, old: UInt8Array, new: UInt8Array) -> UInt32Array:
    """Stored checksums of pieces whose last byte is exchanged.

    Args:
      stored: uint32 [n], the right ones before.
      old, new: uint8 [n], the byte before and after.
    """
    return _masked(_unmasked(stored) ^ _TABLES[0][old ^ new])


def _masked(crcs: UInt32Array) -> UInt32Array:
    return (crcs >> np.uint32(15) | crcs << np.uint32(17)) + np.uint32(_MASK)


def _unmasked(stored: UInt32Array) -> UInt32Array:
    turned = stored - np.uint32(_MASK)
    return turned << np.uint32(15) | turned >> np.uint32(17)


def _with_checksum(stored: UInt32Array) -> UInt32Array:
    """The CRC-32C of pieces that have these checksums, including the four bytes of them."""
    register = ~_unmasked(stored) ^ stored
    result = ~_TABLES[3][register & 0xFF]
    for k in range(1, 4):
        result ^= _TABLES[3 - k][register >> np.uint32(8 * k) & 0xFF]
    return result


def _tables() -> UInt32Array:
    """uint32 [4, 256]: what a byte does to the register after 0 to 3 more bytes."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = table >> np.uint32(1) ^ (table & np.uint32(1)) * np.uint32(_POLYNOMIAL)
    tables = [table]
    for _ in range(3):
        tables.append(tables[-1] >> np.uint32(8) ^ table[tables[-1] & 0xFF])
    return np.stack(tables)


_TABLES = _tables()
