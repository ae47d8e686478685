"""The decoding processes: same pixels as at home, and faults cost what they must."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from hostile_pictures import scan_bomb
from PIL import Image

from data_tools.pictures.decoding import Batch, Decoder, ImageFormat, Item
from realmix_tf.data.examples import Record, decode_example
from realmix_tf.data.images import decode_image, decode_png
from realmix_tf.errors import DataError

pytestmark = pytest.mark.process

FORMAT = ImageFormat(6, 5, 3, 10**6)


class Faults:
    """A post-step that misbehaves at some numbers, as a decoder of hostile files would."""

    def __init__(self, crash=(), hang=(), exhaust=(), once: str = "") -> None:
        self.crash, self.hang, self.exhaust, self.once = crash, hang, exhaust, once

    def __call__(self, image: np.ndarray, number: int) -> np.ndarray:
        if number in self.crash and (not self.once or not os.path.exists(self.once)):
            if self.once:
                Path(self.once).touch()
            os._exit(139)
        if number in self.hang:
            hold_the_lock_for_ever()
        if number in self.exhaust:
            try:
                np.ones(3 << 30, np.uint8)
            except MemoryError as error:
                raise DataError("too large") from error
        return image


def hold_the_lock_for_ever() -> None:
    # Decoders in C do not let go of the interpreter.
    ctypes.PyDLL(None).pause()


class Negative:
    def __call__(self, image: np.ndarray, number: int) -> np.ndarray:
        return 255 - image if number % 2 else image


def pictures(folder: Path, count: int) -> list[Item]:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(0)
    items = []
    for i in range(count):
        path = folder / f"{i}.jpg"
        Image.fromarray(random.randint(0, 256, (9, 8, 3)).astype(np.uint8)).save(path)
        items.append(Item(str(path), "", f"train/{path.name}", i % 3, number=i))
    return items


def encode(items: list[Item], workers: int = 2, step=None, timeout: float = 60) -> list[Batch]:
    with Decoder(FORMAT, workers, timeout) as decoder:
        return list(decoder.encode(len(items), lambda start, stop: items[start:stop], step))


def records(batches: list[Batch]) -> list[Record]:
    found = []
    for batch in batches:
        ends = np.cumsum(batch.lengths)
        for start, end in zip(ends - batch.lengths, ends, strict=True):
            found.append(decode_example(batch.frames[start + 12 : end - 4]))
    return found


def problems(batches: list[Batch]) -> dict[int, str]:
    found, start = {}, 0
    for batch in batches:
        found |= {start + place: reason for place, reason in batch.problems}
        start += batch.items
    return found


def test_records_are_those_of_decode_image_in_order(tmp_path) -> None:
    items = pictures(tmp_path, 70)
    items[3] = items[3]._replace(label=-1, pseudo=2, source=1)
    batches = encode(items, step=Negative())
    assert sum(batch.items for batch in batches) == 70
    found = records(batches)
    assert [record.name for record in found] == [item.name for item in items]
    for i, (record, item) in enumerate(zip(found, items, strict=True)):
        expected = decode_image(item.path, size=(6, 5))
        np.testing.assert_array_equal(
            decode_png(record.image), 255 - expected if i % 2 else expected
        )
    assert (found[3].label, found[3].pseudo, found[3].source) == (-1, 2, 1)
    assert [record.label for record in found[:3]] == [0, 1, 2]
    hashes = np.concatenate([batch.hashes for batch in batches])
    assert len(set(hashes.tolist())) == 70
    again = encode(items, workers=1, step=Negative())
    assert b"".join(b.frames for b in again) == b"".join(b.frames for b in batches)


def test_crops_are_those_of_decode_image(tmp_path) -> None:
    items = pictures(tmp_path, 9)
    cropping = dataclasses.replace(FORMAT, width=2, crop=True)
    with Decoder(cropping, 1) as decoder:
        batches = list(decoder.encode(9, lambda start, stop: items[start:stop]))
    pngs = [png for batch in batches for png in batch.pngs()]
    assert pngs == [record.image for record in records(batches)]
    for png, item in zip(pngs, items, strict=True):
        expected = decode_image(item.path, size=(6, 2), crop=True)
        np.testing.assert_array_equal(decode_png(png), expected)


def test_a_decoder_serves_several_runs_with_different_steps(tmp_path) -> None:
    items = pictures(tmp_path, 5)
    with Decoder(FORMAT, 1) as decoder:
        runs = [
            b"".join(b.frames for b in decoder.encode(5, lambda a, b: items[a:b], step))
            for step in (None, Negative(), None)
        ]
        # One that is given up leaves nothing behind for the next.
        with contextlib.closing(decoder.encode(5, lambda a, b: items[a:b])) as batches:
            next(batches)
        runs.append(b"".join(b.frames for b in decoder.encode(5, lambda a, b: items[a:b])))
    assert runs[0] == runs[2] == runs[3] != runs[1]


def test_a_crashing_decoder_costs_one_file(tmp_path) -> None:
    items = pictures(tmp_path, 40)
    batches = encode(items, step=Faults(crash=(20, 21)))
    found = problems(batches)
    assert sorted(found) == [20, 21]
    assert "crashed" in found[20]
    names = [record.name for record in records(batches)]
    assert names == [item.name for i, item in enumerate(items) if i not in (20, 21)]


def test_a_file_is_not_blamed_for_what_another_did(tmp_path) -> None:
    items = pictures(tmp_path / "in", 12)
    step = Faults(crash=(7,), once=str(tmp_path / "crashed"))
    assert problems(encode(items, step=step)) == {}


def test_a_hanging_decoder_costs_one_file(tmp_path) -> None:
    items = pictures(tmp_path, 30)
    begin = time.monotonic()
    batches = encode(items, step=Faults(hang=(11,)), timeout=1)
    assert problems(batches) == {11: "not decoded after 1 seconds"}
    assert len(records(batches)) == 29
    assert time.monotonic() - begin < 30


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's limits")
def test_memory_of_the_processes_is_limited(tmp_path) -> None:
    items = pictures(tmp_path, 2)
    with pytest.raises(RuntimeError, match="too large"):
        encode(items, step=Faults(exhaust=(1,)))


def test_a_process_that_is_killed_is_replaced(tmp_path) -> None:
    items = pictures(tmp_path, 60)
    with Decoder(FORMAT, 2) as decoder:
        batches = []
        for batch in decoder.encode(60, lambda a, b: items[a:b]):
            if not batches:
                for worker in decoder._workers:
                    os.kill(worker._process.pid, signal.SIGKILL)
            batches.append(batch)
    assert problems(batches) == {}
    assert len(records(batches)) == 60


def test_names_longer_than_a_pipe_holds(tmp_path) -> None:
    items = [item._replace(name="n" * 100_000) for item in pictures(tmp_path, 40)]
    assert len(records(encode(items))) == 40


def test_a_picture_made_to_take_for_ever_is_given_up(tmp_path) -> None:
    items = pictures(tmp_path, 6)
    Path(items[2].path).write_bytes(scan_bomb(900, 60_000))
    found = problems(encode(items, timeout=1))
    assert found == {2: "not decoded after 1 seconds"}
