from __future__ import annotations

import contextlib
import gzip
import io
import struct
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from tiny_archives import write_idx, write_tar

from data_tools.sources import archives
from data_tools.sources.archives import MatFile, TarArchive, idx_rows
from realmix_tf.errors import DataError

CUT = "cut short or damaged"


def joined(blocks) -> np.ndarray:
    return np.concatenate(list(blocks))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(archives, "BLOCK_BYTES", 1000)


@pytest.fixture
def tar(tmp_path) -> Path:
    path = tmp_path / "a.tar.gz"
    members = {f"top/{i}.bin": bytes([i]) * 3000 for i in (2, 1, 3)}
    write_tar(path, {**members, "top/names.txt": b"red\n\n green \n", "top/deep/1.bin": b"no"})
    return path


@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_members_are_found_in_any_order(tar, monkeypatch, kept) -> None:
    monkeypatch.setattr(archives, "SMALL_BYTES", max(kept, 20))
    with TarArchive(tar, "top") as archive:
        for i in (3, 1, 2, 1):
            blocks = list(archive.rows(f"{i}.bin", 30, 100))
            assert {block.shape[1] for block in blocks} == {100}
            assert max(map(len, blocks)) == 10
            np.testing.assert_array_equal(joined(blocks), np.full((30, 100), i))
            assert archive.lines("names.txt") == ("red", "green")
        for wrong in ("4.bin", "deep", "deep/1.bin", "../top/1.bin", "top/1.bin"):
            with pytest.raises(DataError, match=r"has no member .*a\.tar\.gz"):
                archive.content(wrong)
        with pytest.raises(DataError, match="has 3000 bytes instead of 3100"):
            list(archive.rows("1.bin", 31, 100))


def test_a_large_member_is_no_text(tar, monkeypatch) -> None:
    monkeypatch.setattr(archives, "SMALL_BYTES", 100)
    with TarArchive(tar, "top") as archive, pytest.raises(DataError, match=r"'1\.bin' has 3000"):
        archive.content("1.bin")


def hostile(path: Path, name: str, kind: bytes = tarfile.REGTYPE, **more) -> Path:
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.type = kind
        for key, value in more.items():
            setattr(info, key, value)
        tar.addfile(info)
        good = tarfile.TarInfo("top/1.bin")
        good.size = 4
        tar.addfile(good, io.BytesIO(b"good"))
    return path


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("../outside", tarfile.REGTYPE, "'../outside' leads out"),
        ("top/../../outside", tarfile.REGTYPE, "leads out"),
        ("top/..", tarfile.DIRTYPE, "leads out"),
        ("/etc/passwd", tarfile.REGTYPE, "'/etc/passwd' leads out"),
        ("top/" + "x/" * 90 + "../" * 99, tarfile.REGTYPE, "leads out"),
        ("top/link", tarfile.SYMTYPE, "'top/link' is a link or a device"),
        ("top/link", tarfile.LNKTYPE, "link or a device"),
        ("top/dev", tarfile.CHRTYPE, "link or a device"),
        ("top/pipe", tarfile.FIFOTYPE, "link or a device"),
    ],
)
def test_hostile_members_are_refused_by_name(tmp_path, name, kind, message) -> None:
    path = hostile(tmp_path / "a.tar.gz", name, kind, linkname="/etc/passwd")
    with TarArchive(path, "top") as archive, pytest.raises(DataError, match=message):
        archive.content("1.bin")


def test_sizes_and_numbers_are_limited(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.tar.gz"
    head = tarfile.TarInfo("top/huge")
    head.size = (4 << 30) + 1
    path.write_bytes(gzip.compress(head.tobuf() + b"x" * 1024))
    with TarArchive(path, "top") as archive, pytest.raises(DataError, match=r"huge.*4294967297"):
        archive.content("1.bin")
    write_tar(path, {f"top/{i}": b"" for i in range(20)})
    monkeypatch.setattr(archives, "MAX_MEMBERS", 20)
    with TarArchive(path, "top") as archive, pytest.raises(DataError, match="more than 20"):
        archive.content("19")


@pytest.mark.parametrize("kind", [b"x", b"g", b"L"])
def test_a_header_cannot_take_much_memory(tmp_path, kind) -> None:
    head = tarfile.TarInfo("name")
    head.type, head.size = kind, 64 << 20
    path = tmp_path / "a.tar.gz"
    compress = zlib.compressobj(1, zlib.DEFLATED, 31)
    parts = [compress.compress(head.tobuf(tarfile.USTAR_FORMAT))]
    parts += [compress.compress(bytes(1 << 20)) for _ in range(64)]
    path.write_bytes(b"".join(parts) + compress.flush())
    tracemalloc.start()
    with TarArchive(path, "top") as archive, pytest.raises(DataError, match="header of a member"):
        archive.content("1.bin")
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.3, 0.6, 0.95])
def test_cut_archives_are_named(tmp_path, keep) -> None:
    noise = np.random.RandomState(0).bytes(30_000)
    path = tmp_path / "a.tar.gz"
    write_tar(path, {"top/1.bin": noise, "top/2.bin": noise})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with TarArchive(path, "top") as archive, pytest.raises(DataError, match=rf"{CUT}.*a\.tar"):
        list(archive.rows("2.bin", 300, 100))
    path.write_bytes(b"not gzip at all, but a page of some server")
    with TarArchive(path, "top") as archive, pytest.raises(DataError, match=CUT):
        archive.content("1.bin")
    with TarArchive(tmp_path / "none", "top") as archive, pytest.raises(DataError, match="no such"):
        archive.content("1.bin")


def test_idx_files(tmp_path) -> None:
    values = np.random.RandomState(0).randint(0, 256, (70, 5, 6)).astype(np.uint8)
    path = tmp_path / "a.gz"
    write_idx(path, values)
    blocks = list(idx_rows(path, (70, 5, 6)))
    assert len(blocks) == 3
    np.testing.assert_array_equal(joined(blocks), values.reshape(70, 30))
    write_idx(path, values[:, 0, 0])
    np.testing.assert_array_equal(joined(idx_rows(path, (70,)))[:, 0], values[:, 0, 0])


def test_idx_files_that_are_not_as_announced(tmp_path) -> None:
    path = tmp_path / "a.gz"
    shape = (4, 2, 3)
    head = struct.pack(">HBB3I", 0, 8, 3, *shape)
    for content, message in (
        (head + bytes(23), CUT),
        (head[:9], CUT),
        (b"", CUT),
        (head + bytes(25), "after its end"),
        (struct.pack(">HBB3I", 0, 9, 3, *shape) + bytes(24), "no IDX file"),
        (struct.pack(">HBB2I", 0, 8, 2, 4, 6) + bytes(24), "no IDX file"),
        (struct.pack(">HBB3I", 0, 8, 3, 1 << 31, 2, 3) + bytes(24), "2147483648, 2, 3"),
    ):
        path.write_bytes(gzip.compress(content))
        with pytest.raises(DataError, match=message):
            list(idx_rows(path, shape))
    packed = gzip.compress(head + bytes(24))
    for damaged in (packed[:-6], packed[:-8] + b"abcd" + packed[-4:], head + bytes(24)):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=CUT):
            list(idx_rows(path, shape))


SHAPE = (4, 5, 3, 40)


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    random = np.random.RandomState(0)
    return {
        "X": random.randint(0, 256, SHAPE).astype(np.uint8),
        "y": random.randint(1, 11, (SHAPE[-1], 1)).astype(np.float64),
    }


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.float64])
def test_mat_files_as_scipy_writes_them(tmp_path, arrays, compressed, kind) -> None:
    path = tmp_path / "a.mat"
    arrays["y"] = arrays["y"].astype(kind)
    scipy.io.savemat(path, arrays, do_compression=compressed)
    mat = MatFile(path)
    blocks = list(mat.rows("X", SHAPE))
    assert len(blocks) == 3
    np.testing.assert_array_equal(
        joined(blocks).transpose(0, 3, 2, 1), np.moveaxis(arrays["X"], 3, 0)
    )
    assert mat.column("y", SHAPE[-1]).tolist() == arrays["y"][:, 0].astype(int).tolist()


def test_mat_files_of_matlab_itself(tmp_path) -> None:
    """MATLAB stores whole doubles in bytes, and data of up to four bytes within the tag."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)

    for values in ([1, 2, 3], [9, 10, 1, 4, 5]):
        data = bytes(values)
        small = struct.pack("<HH", 2, len(data)) + data.ljust(4, b"\0")
        matrix = (
            element(6, struct.pack("<II", 6, 0))
            + element(5, struct.pack("<ii", len(values), 1))
            + struct.pack("<HH", 1, 1) + b"y\0\0\0"
            + (small if len(data) <= 4 else element(2, data))
        )  # fmt: skip
        packed = zlib.compress(element(14, matrix))
        head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
        path = tmp_path / "a.mat"
        path.write_bytes(head + struct.pack("<II", 15, len(packed)) + packed)
        assert scipy.io.loadmat(path)["y"][:, 0].tolist() == values
        assert MatFile(path).column("y", len(values)).tolist() == values


def test_mat_files_that_hold_something_else(tmp_path, arrays) -> None:
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {**arrays, "z": arrays["y"] + 0.5, "w": arrays["X"].astype(np.int16)})
    mat = MatFile(path)
    for call, message in (
        (lambda: mat.column("Y", 40), "no variable 'Y'"),
        (lambda: mat.column("y", 41), r"shape \(40, 1\), expected \(41, 1\)"),
        (lambda: mat.column("z", 40), "not whole numbers"),
        (lambda: list(mat.rows("w", SHAPE)), "another type"),
        (lambda: list(mat.rows("X", (5, 4, 3, 40))), "has the shape"),
    ):
        with pytest.raises(DataError, match=message):
            call()
    scipy.io.savemat(path, {"y": {"a": 1}})
    with pytest.raises(DataError):
        MatFile(path).column("y", 1)
    path.write_bytes(b"x" * 200)
    with pytest.raises(DataError, match="not a MATLAB 5 file"):
        MatFile(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_mat_files_end_as_data_errors(tmp_path, arrays, compressed) -> None:
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, arrays, do_compression=compressed)
    content = path.read_bytes()
    random = np.random.RandomState(0)

    def read() -> None:
        mat = MatFile(path)
        for _ in mat.rows("X", SHAPE):
            pass
        mat.column("y", SHAPE[-1])

    for cut in (*range(0, 300, 7), len(content) // 2, len(content) - 9):
        path.write_bytes(content[:cut])
        with pytest.raises(DataError):
            read()
    for _ in range(150):
        damaged = bytearray(content)
        damaged[random.randint(124, 300)] = random.randint(256)
        path.write_bytes(damaged)
        with contextlib.suppress(DataError):
            read()


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(archives, "BLOCK_BYTES", 1 << 20)
    big = np.zeros((32, 32, 3, 6_000), np.uint8)
    scipy.io.savemat(tmp_path / "a.mat", {"X": big}, do_compression=True)
    write_idx(tmp_path / "a.gz", big.reshape(6_000, 3072))
    write_tar(tmp_path / "a.tar.gz", {"top/X.bin": big.tobytes()})
    shape, count = big.shape, big.shape[-1]
    del big
    with TarArchive(tmp_path / "a.tar.gz", "top") as tar:
        for make in (
            lambda: MatFile(tmp_path / "a.mat").rows("X", shape),
            lambda: idx_rows(tmp_path / "a.gz", (count, 3072)),
            lambda: tar.rows("X.bin", count, 3072),
        ):
            tracemalloc.start()
            assert sum(len(block) for block in make()) == count
            assert tracemalloc.get_traced_memory()[1] < 12 << 20
            tracemalloc.stop()
