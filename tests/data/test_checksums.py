"""Checksums of many pieces at once, against google_crc32c piece by piece."""

from __future__ import annotations

import struct

import google_crc32c
import numpy as np
import pytest

from realmix_tf.data.checksums import intact, masked_crc, masked_crcs, with_last_byte


def frame(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    return b"".join(
        part
        for piece in (length, payload)
        for part in (piece, struct.pack("<I", masked_crc(piece)))
    )


def found_intact(frames: list[bytes]) -> bool:
    block = np.frombuffer(b"".join(frames), np.uint8).copy()
    return intact(block, np.cumsum([len(one) for one in frames]))


def test_known_checksums() -> None:
    # 0xE3069283 is the published CRC-32C of these digits.
    assert google_crc32c.value(b"123456789") == 0xE3069283
    rotated = 0xE3069283 >> 15 | (0xE3069283 << 17) & 0xFFFFFFFF
    assert masked_crc(b"123456789") == (rotated + 0xA282EAD8) & 0xFFFFFFFF


def test_checksums_of_many_pieces() -> None:
    data = np.random.default_rng(1).bytes(5000)
    ends = np.arange(71).cumsum()
    begins = ends - np.arange(71)
    assert masked_crcs(data, begins, ends).tolist() == [
        masked_crc(data[a:b]) for a, b in zip(begins, ends, strict=True)
    ]


@pytest.mark.parametrize("length", range(71))
def test_frames_of_every_short_length_are_found_intact(length) -> None:
    random = np.random.default_rng(length)
    for count in (1, 2, 7):
        frames = [frame(random.bytes(length)) for _ in range(count)]
        assert found_intact(frames)


def test_frames_of_mixed_lengths_are_found_intact() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        lengths = random.integers(0, 4000, random.integers(1, 60))
        assert found_intact([frame(random.bytes(int(length))) for length in lengths])
    assert found_intact([frame(bytes(k % 5)) for k in range(3000)])


def test_every_single_damaged_bit_is_found() -> None:
    random = np.random.default_rng(2)
    frames = [frame(random.bytes(length)) for length in (0, 1, 2, 3, 4, 5, 30, 0, 70)]
    joined = b"".join(frames)
    ends = np.cumsum([len(one) for one in frames])
    for place in range(len(joined)):
        for bit in range(8):
            block = np.frombuffer(joined, np.uint8).copy()
            block[place] ^= 1 << bit
            assert not intact(block, ends), (place, bit)


def test_exchanged_and_random_damage_is_found() -> None:
    random = np.random.default_rng(3)
    frames = [frame(random.bytes(50)) for _ in range(40)]
    joined = np.frombuffer(b"".join(frames), np.uint8)
    ends = np.cumsum([len(one) for one in frames])
    for _ in range(300):
        block = joined.copy()
        places = random.integers(0, len(block), random.integers(1, 200))
        block[places] ^= random.integers(1, 256, len(places), dtype=np.uint8)
        if (block != joined).any():
            assert not intact(block, ends)
    # Whole frames in another order are as good as before; payloads among wrong checksums are not.
    assert found_intact(frames[::-1])
    mixed = [a[:-4] + b[-4:] for a, b in zip(frames, frames[::-1], strict=True)]
    assert not found_intact(mixed)


def test_checksums_after_the_last_byte_is_exchanged() -> None:
    random = np.random.default_rng(4)
    pieces = [random.bytes(int(n)) for n in random.integers(1, 40, 200)]
    new = random.integers(0, 256, len(pieces), dtype=np.uint8)
    stored = np.array([masked_crc(piece) for piece in pieces], np.uint32)
    old = np.array([piece[-1] for piece in pieces], np.uint8)
    assert with_last_byte(stored, old, new).tolist() == [
        masked_crc(piece[:-1] + bytes([value])) for piece, value in zip(pieces, new, strict=True)
    ]
