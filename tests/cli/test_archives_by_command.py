"""What published archives, disks and folders can do to create_datasets, through its command."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import tiny_archives
from tiny_archives import Tiny

from data_tools.sources import BENCHMARKS
from realmix_tf.cli.create_datasets import main
from realmix_tf.data.images import decode_pngs
from realmix_tf.data.records import RecordReader

ROOT = Path(__file__).resolve().parents[2]
TOP = "cifar-10-batches-bin"
ARCHIVES = [name for name in BENCHMARKS if name != "digits"]


class Shop:
    """A data folder, and a folder of archives that are taken for the published ones."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, capsys) -> None:
        self.data, self.own = folder / "data", folder / "own"
        self._patch, self._capsys = patch, capsys

    def publish(self, name: str) -> Tiny:
        """Good tiny archives."""
        tiny = tiny_archives.make(name, self.own)
        self._pin(tiny)
        return tiny

    def republish(self, tiny: Tiny) -> None:
        """Whatever the archives hold now becomes what was published."""
        archives = tiny_archives.pinned(self.own, tiny.source.archives)
        self._pin(tiny._replace(source=dataclasses.replace(tiny.source, archives=archives)))

    def _pin(self, tiny: Tiny) -> None:
        module = import_module(f"data_tools.sources.{BENCHMARKS[tiny.source.name]}")
        self._patch.setattr(module, "SOURCES", (tiny.source,))

    def run(self, *words: str, code: int = 0, own: bool = True) -> tuple[str, str]:
        """Runs the command; an error is one line."""
        more = [f"--archive_dir={self.own}"] if own else []
        found = main([*words, f"--data_dir={self.data}", "--offline", *more])
        out, err = self._capsys.readouterr()
        assert found == code, err
        assert "Traceback" not in err
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(errors) == (code != 0), err
        return out, err


@pytest.fixture
def shop(tmp_path, monkeypatch, capsys) -> Shop:
    return Shop(tmp_path, monkeypatch, capsys)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", ARCHIVES)
def test_good_archives_become_records(shop, name) -> None:
    source, parts, classes = shop.publish(name)
    archives = tree(shop.own)
    plan = json.loads(shop.run(name, "--dry_run", "--json")[0])
    assert not shop.data.exists()
    out, _ = shop.run(name, "--json")
    (result,) = json.loads(out)["datasets"]
    assert not result["already_there"]
    promised = {use["path"] for use in plan["writes"]}
    assert promised <= set(result["files"])
    for role, path in source.record_files(shop.data).items():
        with RecordReader(path) as reader:
            reader.verify()
            assert reader.classes == classes
            np.testing.assert_array_equal(reader.labels, parts[role].labels)
            images = decode_pngs([reader.image(i) for i in range(len(reader))])
            np.testing.assert_array_equal(images, parts[role].images)
    assert "already there and verified" in shop.run(name)[0]
    assert tree(shop.own) == archives


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_that_are_cut_short_are_named(shop, name) -> None:
    tiny = shop.publish(name)
    path = shop.own / tiny.source.archives[0].name
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    _, err = shop.run(name, code=3)
    assert "bytes, the published one" in err
    shop.republish(tiny)
    _, err = shop.run(name, code=3)
    # What is missing of a MATLAB file is a whole variable.
    assert "cut short or damaged" in err or "has no variable" in err
    assert f"{path}); try: fetch the archive again" in err
    assert not shop.data.exists()


def with_member(path: Path, *members: tarfile.TarInfo) -> None:
    """Puts members without content before those of an archive."""
    with tarfile.open(path) as old:
        rest = [(info, old.extractfile(info)) for info in old.getmembers()]
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz", format=tarfile.GNU_FORMAT) as tar:
            for info in members:
                tar.addfile(info)
            for info, content in rest:
                tar.addfile(info, content)
    path.write_bytes(stream.getvalue())


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("../outside.bin", tarfile.REGTYPE, "leads out of the archive"),
        (f"{TOP}/../../outside.bin", tarfile.REGTYPE, "leads out of the archive"),
        ("/tmp/outside.bin", tarfile.REGTYPE, "leads out of the archive"),
        (f"{TOP}/link", tarfile.SYMTYPE, "is a link or a device"),
        (f"{TOP}/data_batch_1.bin", tarfile.LNKTYPE, "is a link or a device"),
        (f"{TOP}/tty", tarfile.CHRTYPE, "is a link or a device"),
        (f"{TOP}/disk", tarfile.BLKTYPE, "is a link or a device"),
        (f"{TOP}/pipe", tarfile.FIFOTYPE, "is a link or a device"),
        (f"{TOP}/data_batch_1.bin", tarfile.REGTYPE, "has 0 bytes instead of"),
        (f"{TOP}/batches.meta.txt", tarfile.REGTYPE, "names no classes"),
    ],
)
def test_members_that_must_not_be_there(shop, tmp_path, name, kind, message) -> None:
    tiny = shop.publish("cifar10")
    path = shop.own / tiny.source.archives[0].name
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    with_member(path, info)
    shop.republish(tiny)
    before = tree(tmp_path)
    _, err = shop.run("cifar10", code=3)
    assert message in err
    assert path.name in err
    assert tree(tmp_path) == before
    assert not shop.data.exists()


def huge_member(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(f"{TOP}/huge")
    info.type, info.size = kind, size
    # Two MiB of it, so that a long header is seen to be one.
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(2 << 20), 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (huge_member(5 << 30), "has 5368709120 bytes"),
        (huge_member(2 << 30), "cut short or damaged"),
        (huge_member(64 << 20, b"x"), "the header of a member is too long"),
        (huge_member(64 << 20, b"L"), "the header of a member is too long"),
        (gzip.compress(b"no tar " * 999), "cut short or damaged"),
        (b"<html>not found</html>", "cut short or damaged"),
        (b"", "cut short or damaged"),
    ],
)
def test_archives_of_other_things(shop, content, message) -> None:
    tiny = shop.publish("cifar10")
    path = shop.own / tiny.source.archives[0].name
    path.write_bytes(content)
    shop.republish(tiny)
    assert message in shop.run("cifar10", code=3)[1]
    assert not shop.data.exists()


def test_an_altered_archive_of_the_right_size(shop) -> None:
    tiny = shop.publish("cifar10")
    path = shop.own / tiny.source.archives[0].name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for place in (path, shop.data / "archives" / path.name):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        _, err = shop.run("cifar10", code=3, own=place == path)
        assert f"the published one {tiny.source.archives[0].sha256}" in err
        assert str(place) in err
    assert list(tree(shop.data)) == [f"archives/{path.name}"]


def test_archives_are_removed_only_where_they_were_downloaded_to(shop) -> None:
    tiny = shop.publish("cifar10")
    name = tiny.source.archives[0].name
    downloads = shop.data / "archives"
    downloads.mkdir(parents=True)
    (downloads / name).write_bytes((shop.own / name).read_bytes())
    shop.run("cifar10", "--keep_archives=false", "--dry_run", own=False)
    shop.run("cifar10", own=False)
    assert (downloads / name).exists()
    shop.run("cifar10", "--keep_archives=false", "--overwrite", own=False)
    assert not (downloads / name).exists()
    shop.run("cifar10", "--keep_archives=false", "--overwrite")
    assert (shop.own / name).exists()
    (downloads / name).write_bytes((shop.own / name).read_bytes())
    shop.run("cifar10", "--nokeep_archives", f"--archive_dir={downloads}", own=False)
    assert (downloads / name).exists()


def too_small(patch: pytest.MonkeyPatch, data: Path) -> Path:
    patch.setattr("realmix_tf.files.free_bytes", lambda folder: 1000)
    return data


def no_folder(patch: pytest.MonkeyPatch, data: Path) -> Path:
    data.touch()
    return data


@pytest.mark.parametrize("name", ["digits", "cifar10"])
@pytest.mark.parametrize(
    ("spoil", "message"), [(too_small, "only 1000 B is free"), (no_folder, "data")]
)
def test_what_cannot_be_written_is_refused_beforehand(
    shop, tmp_path, monkeypatch, name, spoil: Callable[..., Path], message
) -> None:
    """The plan refuses what the work would."""
    shop.publish("cifar10")
    spoil(monkeypatch, shop.data)
    before = tree(tmp_path)
    for more in (("--dry_run",), ()):
        assert message in shop.run(name, *more, code=4)[1]
        assert tree(tmp_path) == before


@pytest.mark.process
@pytest.mark.parametrize("limit", [1024, 60_000])
def test_a_disk_that_fills_up(tmp_path, limit) -> None:
    """The class names fit, the records do not, or those of the test images only."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "from realmix_tf.cli.create_datasets import main;"
        f"sys.exit(main(['digits', '--data_dir={tmp_path / 'data'}']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 4, result.stderr
    assert "grew past a size limit" in result.stderr
    assert os.listdir(tmp_path) == []
