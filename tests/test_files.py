"""Files appear whole or not at all; one writer a folder."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from realmix_tf import files
from realmix_tf.errors import DataError, ResourceError


def test_a_file_appears_only_when_its_block_ends(tmp_path):
    target = tmp_path / "deep" / "file.bin"
    with files.atomic_write(target) as file:
        file.write(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert os.listdir(target.parent) == ["file.bin"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_keeps_the_old_content_and_leaves_nothing_behind(tmp_path, failure):
    target = tmp_path / "file.bin"
    target.write_bytes(b"old")

    def fail_half_way():
        with files.atomic_write(target) as file:
            file.write(b"half of the n")
            raise failure

    with pytest.raises(failure):
        fail_half_way()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_content_and_says_so(tmp_path, monkeypatch, call):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "file.bin"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(ResourceError, match=r"no space left on the disk.*file.bin") as raised:
        files.write_text(target, "new")
    monkeypatch.undo()
    assert raised.value.exit_code == 4
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_content_reaches_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path, monkeypatch
):
    events = []
    fsync, replace = os.fsync, os.replace

    def logged_fsync(descriptor):
        kind = "folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "content"
        events.append(kind)
        fsync(descriptor)

    def logged_replace(source, target):
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "replace", logged_replace)
    files.write_text(tmp_path / "a", "text")
    assert events == ["content", "rename", "folder"]


def test_json_has_sorted_keys_and_no_nan():
    value = {"b": float("nan"), "a": [np.float32(1.5), float("inf")], "c": np.arange(2)}
    assert json.loads(files.json_text(value)) == {"a": [1.5, None], "b": None, "c": [0, 1]}
    assert files.json_text({"b": 1, "a": 2}, None) == '{"a": 2, "b": 1}'


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe{}", b"[" * 100_000])
def test_damaged_json_is_bad_data_and_named(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.json"):
        files.read_json(path)


def test_a_missing_json_file_is_bad_data(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        files.read_json(tmp_path / "nothing.json")


def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket"))
        for name in ("pipe", "folder", "link", "socket", "/dev/zero"):
            for read in (files.open_regular, files.read_json, files.sha256_file):
                with pytest.raises(DataError, match=f"not a regular file.*{name}"):
                    read(tmp_path / name)
    with pytest.raises(DataError, match="no such file"):
        files.open_regular(tmp_path / "nothing")
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("file")
    with files.open_regular(tmp_path / "link") as file:
        assert file.read() == b"abc"
        assert not os.get_inheritable(file.fileno())


def test_sha256_of_a_known_text(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert files.sha256_file(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_work_that_cannot_fit_is_refused_with_numbers(tmp_path):
    files.require_space(tmp_path / "not" / "yet", 1, "this")
    with pytest.raises(ResourceError, match=r"copies needs about 1024\.0 TiB, only .* is free"):
        files.require_space(tmp_path / "not" / "yet", 1 << 50, "copies")
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"), (1 << 51, "2048.0 TiB")],
)
def test_bytes_for_people(count, text):
    assert files.human_bytes(count) == text


def test_a_lock_is_free_again_after_its_block(tmp_path):
    for _ in range(2):
        with files.FolderLock(tmp_path / "run"):
            assert (tmp_path / "run").is_dir()


def test_a_second_lock_in_the_same_process_is_refused_too(tmp_path):
    with files.FolderLock(tmp_path), pytest.raises(ResourceError, match="in use"):
        files.FolderLock(tmp_path).__enter__()


_HOLD = """
import sys, time
from realmix_tf.files import FolderLock
with FolderLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.process
def test_a_lock_names_its_holder_and_dies_with_it(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ResourceError, match=f"in use by process {holder.pid} on ") as raised:
            files.FolderLock(tmp_path).__enter__()
        assert raised.value.exit_code == 4
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert (tmp_path / ".lock").read_text().startswith(f"process {holder.pid}")
    with files.FolderLock(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / ".lock").read_text()


def test_a_place_is_tried_without_making_the_folder(tmp_path):
    files.require_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError):
        files.require_writable(tmp_path / "file" / "below")


def test_removing_what_is_not_there_is_no_error(tmp_path):
    path = tmp_path / "a"
    files.remove(path)
    path.touch()
    files.remove(path)
    assert not path.exists()
    (path / "b").mkdir(parents=True)
    with pytest.raises(ResourceError):
        files.remove(path)
