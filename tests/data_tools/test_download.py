from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import resource
import socket
from pathlib import Path

import numpy as np
import pytest
from file_server import FileServer, serving

from data_tools.sources import download
from data_tools.sources.download import (
    Access,
    Archive,
    bytes_to_download,
    discard,
    fetch,
    require_at_hand,
)
from realmix_tf.errors import DataError, ResourceError, UsageError

CONTENT = np.random.RandomState(0).bytes(3 << 20)


@pytest.fixture
def server():
    with serving() as running:
        running.files["a.bin"] = CONTENT
        yield running


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(download, "LONGEST_PAUSE", 0)
    monkeypatch.setattr(download, "_reached", {})


def archive(server: FileServer | None, content: bytes = CONTENT) -> Archive:
    urls = ("http://127.0.0.1:9/a.bin",) if server is None else (f"{server.address}/a.bin",)
    return Archive("a.bin", urls, len(content), hashlib.sha256(content).hexdigest())


def access(notes: list[str] | None = None, **more) -> Access:
    said: list[str] = [] if notes is None else notes
    return Access(**{"timeout": 0.3, "retries": 2, "note": said.append, **more})


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_good_file_arrives_once(server, tmp_path) -> None:
    found = fetch([archive(server)], tmp_path / "new", access())
    assert found["a.bin"].read_bytes() == CONTENT
    assert files(tmp_path / "new") == ["a.bin"]
    fetch([archive(server)], tmp_path / "new", access(offline=True))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("faults", "ranges"),
    [
        (["cut", "good"], ["", f"bytes={len(CONTENT) // 2}-"]),
        (["stall", "good"], ["", f"bytes={len(CONTENT) // 2}-"]),
        (["drip", "no_ranges"], ["", None]),
        (["busy", "busy", "good"], ["", "", ""]),
        (["cut", "no_ranges"], ["", f"bytes={len(CONTENT) // 2}-"]),
        (["cut", "wrong_range", "good"], ["", f"bytes={len(CONTENT) // 2}-", ""]),
        (["redirect", "no_length"], ["", ""]),
    ],
)
def test_what_can_be_survived_is(server, tmp_path, faults, ranges) -> None:
    server.faults = list(faults)
    notes: list[str] = []
    result = fetch([archive(server)], tmp_path, access(notes))
    assert result["a.bin"].read_bytes() == CONTENT
    assert files(tmp_path) == ["a.bin"]
    asked = [wanted for _, wanted in server.requests]
    assert len(asked) == len(ranges)
    # How far a drip came is the clock's to say.
    assert all(wanted in (None, found) for wanted, found in zip(ranges, asked, strict=True))
    assert notes or faults[0] == "redirect"


@pytest.mark.parametrize(
    ("fault", "error", "message", "requests", "left"),
    [
        ("missing", ResourceError, r"HTTP status 404 .*--mirror", 1, []),
        ("forbidden", ResourceError, "HTTP status 403", 1, []),
        ("busy", ResourceError, r"503.*attempt 3, the last", 3, []),
        ("stall", ResourceError, r"no byte for 0\.3 s \(attempt", 3, [".tmp-a.bin.part"]),
        (
            "altered",
            DataError,
            "proxy.*SHA-256 [0-9a-f]{64}, the published one [0-9a-f]{64}",
            1,
            [],
        ),
        ("wrong_length", DataError, f"announces {len(CONTENT) + 5} bytes.*{len(CONTENT)}", 1, []),
        ("redirect_file", ResourceError, "'file:///etc/passwd' is not allowed", 1, []),
        ("redirect_ftp", ResourceError, "redirected to an address of the kind 'ftp'", 1, []),
        ("redirect_loop", ResourceError, "HTTP status 302", 5, []),
    ],
)
def test_what_cannot_be_had_says_why(
    server, tmp_path, monkeypatch, fault, error, message, requests, left
) -> None:
    # What an attempt brings must not count as progress, or half of the rest would come for long.
    monkeypatch.setattr(download, "_WORTHWHILE", 1 << 40)
    server.faults = [fault]
    with pytest.raises(error, match=message) as caught:
        fetch([archive(server)], tmp_path / "new", access())
    assert str(caught.value).isprintable()
    assert len(server.requests) == requests
    assert files(tmp_path / "new") == left


def test_a_long_way_in_short_steps_arrives(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(download, "_WORTHWHILE", 1 << 10)
    server.faults = ["cut"] * 9 + ["good"]
    fetch([archive(server)], tmp_path, access(retries=1))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert len(server.requests) == 10


def test_a_leftover_is_continued_or_thrown_away(server, tmp_path) -> None:
    part = tmp_path / ".tmp-a.bin.part"
    part.write_bytes(CONTENT[:1000])
    assert bytes_to_download([archive(server)], tmp_path, access()) == len(CONTENT) - 1000
    fetch([archive(server)], tmp_path, access())
    assert server.requests[-1][1] == "bytes=1000-"

    # Of another file: found out at the end, and fetched anew.
    for leftover in (b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 1)):
        (tmp_path / "a.bin").unlink()
        part.write_bytes(leftover)
        fetch([archive(server)], tmp_path, access())
        assert (tmp_path / "a.bin").read_bytes() == CONTENT
        assert server.requests[-1][1] == ""


def test_the_next_address_is_tried(server, tmp_path) -> None:
    both = dataclasses.replace(
        archive(server), urls=("http://127.0.0.1:9/a.bin", f"{server.address}/a.bin")
    )
    notes: list[str] = []
    fetch([both], tmp_path, access(notes))
    assert "no connection to 127.0.0.1 (connection refused)" in notes[0]


def test_a_mirror_takes_the_place_of_all_addresses(server, tmp_path) -> None:
    fetch([archive(None)], tmp_path, access(mirror=server.address + "/"))
    assert server.requests == [("/files/a.bin", "")]
    for bad in (
        "ftp://x/y",
        "/folder",
        "http://",
        "http://user:word@host/",
        "http://h/?a",
        "http:",
    ):
        with pytest.raises(UsageError, match="--mirror"):
            access(mirror=bad).check()


def test_no_server_is_told_within_the_probe(tmp_path, monkeypatch) -> None:
    asked: list[float] = []

    def connect(address, timeout):
        asked.append(timeout)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(ResourceError, match=r"no answer from 127\.0\.0\.1 within 3 s.*archive_dir"):
        fetch([archive(None)], tmp_path, access())
    assert asked == [3.0]
    # The answer is remembered: sets on the same server do not wait again.
    with pytest.raises(ResourceError):
        fetch([archive(None)], tmp_path, access())
    assert asked == [3.0]


def test_a_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.delenv("no_proxy", raising=False)
    outside = dataclasses.replace(archive(None), urls=("http://archive.invalid/x/a.bin",))
    fetch([outside], tmp_path, access())
    assert server.requests == [("http://archive.invalid/x/a.bin", "")]


def test_offline_names_all_that_is_missing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(socket, "create_connection", None)
    wanted = [archive(None), dataclasses.replace(archive(None), name="b.bin")]
    for check in (fetch, require_at_hand):
        with pytest.raises(ResourceError, match=r"a\.bin \(3.0 MiB, http.*b\.bin.*--archive_dir"):
            check(wanted, tmp_path / "archives", access(offline=True))
    assert files(tmp_path) == []


def test_own_archives_are_checked_and_only_read(server, tmp_path) -> None:
    own, kept = tmp_path / "own", tmp_path / "kept"
    own.mkdir()
    (own / "a.bin").write_bytes(CONTENT)
    with_own = access(archive_dir=own)
    assert fetch([archive(server)], kept, with_own) == {"a.bin": own / "a.bin"}
    (own / "a.bin").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DataError, match=r"has the SHA-256 .* the published one"):
        fetch([archive(server)], kept, with_own)
    (own / "a.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match=f"{len(CONTENT) - 1} bytes, the published one"):
        fetch([archive(server)], kept, with_own)
    (own / "a.bin").unlink()
    os.mkfifo(own / "a.bin")
    with pytest.raises(DataError, match="not a regular file"):
        fetch([archive(server)], kept, with_own)
    assert not server.requests
    assert files(kept) == []
    with pytest.raises(DataError, match="no such folder"):
        access(archive_dir=tmp_path / "nowhere").check()


def test_a_damaged_download_is_replaced(server, tmp_path) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DataError, match="without --offline"):
        fetch([archive(server)], tmp_path, access(offline=True))
    notes: list[str] = []
    fetch([archive(server)], tmp_path, access(notes))
    assert "downloaded again" in notes[0]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    discard([archive(server)], tmp_path)
    discard([archive(server)], tmp_path)
    assert files(tmp_path) == []


def test_two_downloads_of_one_archive_do_not_mix(server, tmp_path) -> None:
    with open(tmp_path / ".tmp-a.bin.part", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ResourceError, match="another process is downloading"):
            fetch([archive(server)], tmp_path, access())
    fetch([archive(server)], tmp_path, access())


def test_a_full_disk_is_not_kept_full(server, tmp_path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(ResourceError, match="grew past a size limit"):
            fetch([archive(server)], tmp_path / "new", access())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(tmp_path / "new") == []


def test_room_is_asked_for_beforehand(server, tmp_path) -> None:
    huge = dataclasses.replace(archive(server), size=1 << 60)
    with pytest.raises(ResourceError, match=r"needs about 1048576\.0 TiB"):
        fetch([huge], tmp_path, access())
    assert not server.requests


def test_limits_that_make_no_sense(tmp_path) -> None:
    for bad in ({"retries": -1}, {"timeout": 0}, {"timeout": float("nan")}):
        with pytest.raises(UsageError, match="--retries"):
            fetch([], tmp_path, access(**bad))


def test_verifying_says_how_far_it_is(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("data_tools.progress.REPORT_SECONDS", 0.0)
    (tmp_path / "a.bin").write_bytes(CONTENT)
    fetch([archive(None)], tmp_path, access(offline=True))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("verifying a.bin: 2.0 MiB of 3.0 MiB, ")
