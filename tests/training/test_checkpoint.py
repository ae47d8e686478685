"""Checkpoints are complete, checked, and never half there."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from realmix_tf.errors import CheckpointError, ResourceError
from realmix_tf.training import checkpoint

ENDINGS = (".index", ".data-00000-of-00001", ".json")
DATA = ".data-00000-of-00001"


def variables(value: float = 0.0) -> dict[str, tf.Variable]:
    return {
        "net/a/kernel": tf.Variable(np.full((3, 4), value, np.float32)),
        "ema/a/kernel": tf.Variable(np.full((3, 4), value + 0.5, np.float32)),
        "optimizer/iteration": tf.Variable(int(value), dtype=tf.int64),
    }


def save(folder: Path, images: int, host: dict | None = None) -> Path:
    """A checkpoint whose values are its number of images."""
    return checkpoint.save(folder, images, variables(images), host or {})


def newest(folder: Path) -> tuple[checkpoint.Checkpoint | None, list[str]]:
    said: list[str] = []
    return checkpoint.newest(folder, said.append), said


def part(prefix: Path, ending: str) -> Path:
    return prefix.with_name(prefix.name + ending)


def restored(found: checkpoint.Checkpoint | None) -> dict[str, np.ndarray]:
    assert found is not None
    target = variables(-1)
    checkpoint.restore(found, target)
    return {n: v.numpy() for n, v in target.items()}


def assert_holds(found: checkpoint.Checkpoint | None, images: int) -> None:
    assert found is not None
    assert found.images == images
    for name, value in restored(found).items():
        np.testing.assert_array_equal(value, variables(images)[name].numpy())


def test_a_checkpoint_gives_back_every_bit_and_the_host_s_state(tmp_path):
    special = tf.Variable(np.array([np.nan, np.inf, -0.0, 1e-45, 3.4e38], np.float32))
    host = {"best": {"images": 5, "valid": 0.1}, "period": {"count": 3, "values": {"x": 1 / 3}}}
    prefix = checkpoint.save(tmp_path, 16384, {"x": special}, host)
    assert prefix.name == "model.ckpt-00016384"
    assert sorted(os.listdir(tmp_path)) == sorted(f"{prefix.name}{e}" for e in ENDINGS)
    found, said = newest(tmp_path)
    assert found is not None
    assert (found.prefix, found.images, found.host, said) == (prefix, 16384, host, [])
    target = tf.Variable(tf.zeros([5]))
    checkpoint.restore(found, {"x": target})
    assert target.numpy().tobytes() == special.numpy().tobytes()


def test_a_folder_that_never_held_a_checkpoint_is_a_fresh_start(tmp_path):
    assert newest(tmp_path) == (None, [])
    assert newest(tmp_path / "missing") == (None, [])
    (tmp_path / "events.out.tfevents.1").write_bytes(b"")
    assert newest(tmp_path) == (None, [])


def test_checkpoints_are_ordered_by_images_not_by_name(tmp_path):
    for images in (99999999, 123456789, 5):
        save(tmp_path, images)
    assert_holds(newest(tmp_path)[0], 123456789)
    assert [int(p.name.rpartition("-")[2]) for p in checkpoint.committed(tmp_path)] == [
        5,
        99999999,
        123456789,
    ]


# --- Damage -----------------------------------------------------------------------------------


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = {"truncated": _truncate, "a bit flipped": _flip, "missing": os.unlink, "empty": _empty}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_falls_back_to_the_one_before_with_a_warning(tmp_path, ending, damage):
    save(tmp_path, 100)
    prefix = save(tmp_path, 200)
    damage(part(prefix, ending))
    found, said = newest(tmp_path)
    assert_holds(found, 100)
    if (ending, damage) != (".json", os.unlink):  # without its mark it does not count at all
        assert len(said) == 1
        assert "model.ckpt-00000200" in said[0]
        assert "falling back" in said[0]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_without_any_good_checkpoint_there_is_an_error_never_a_fresh_start(
    tmp_path, ending, damage
):
    for images in (100, 200):
        damage(part(save(tmp_path, images), ending))
    with pytest.raises(CheckpointError, match="--fresh") as raised:
        newest(tmp_path)
    assert raised.value.exit_code == 5


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"files": {}},
        {"files": None},
        {"files": {"/../../etc/passwd": {"bytes": 1, "sha256": ""}}},
        {"images": "many"},
        {"images": None},
        {"host": 7},
    ],
    ids=str,
)
def test_a_commit_mark_of_another_form_is_not_trusted(tmp_path, change):
    mark = part(save(tmp_path, 100), ".json")
    mark.write_text(json.dumps(json.loads(mark.read_text()) | change))
    with pytest.raises(CheckpointError):
        newest(tmp_path)


# --- Both sides must match --------------------------------------------------------------------


@pytest.mark.parametrize("side", ["missing", "unknown", "shape"])
def test_a_name_or_shape_on_one_side_only_is_refused_and_nothing_is_assigned(tmp_path, side):
    save(tmp_path, 100)
    found, _ = newest(tmp_path)
    assert found is not None
    target = variables(-1)
    if side == "missing":
        target["net/b/kernel"] = tf.Variable(0.0)
    elif side == "unknown":
        del target["ema/a/kernel"]
    else:
        target["net/a/kernel"] = tf.Variable(tf.fill([4, 3], -1.0))
    before = {n: v.numpy() for n, v in target.items()}
    with pytest.raises(CheckpointError, match=r"another model.*kernel"):
        checkpoint.restore(found, target)
    for name, value in before.items():
        np.testing.assert_array_equal(target[name].numpy(), value)


# --- Interruptions ----------------------------------------------------------------------------


def _states_of_a_save(folder: Path, images: int, monkeypatch) -> list[Path]:
    """Copies of the folder as a kill before each flush and each rename would leave it."""
    states: list[Path] = []
    copies = folder.parent / "states"

    def copied(call):
        def wrapped(*arguments):
            states.append(Path(shutil.copytree(folder, copies / str(len(states)))))
            return call(*arguments)

        return wrapped

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", copied(os.fsync))
        patched.setattr(os, "replace", copied(os.replace))
        save(folder, images)
    states.append(folder)
    return states


@pytest.mark.parametrize("images", [200, 100], ids=["a new one", "the same again"])
def test_a_kill_at_any_moment_of_saving_leaves_the_checkpoint_before(tmp_path, monkeypatch, images):
    folder = tmp_path / "tf"
    save(folder, 50)
    save(folder, 100)
    states = _states_of_a_save(folder, images, monkeypatch)
    assert len(states) > 5
    found = set()
    for state in states:
        checkpoint.clean(state)
        best, _ = newest(state)
        assert best is not None
        assert_holds(best, best.images)
        found.add(best.images)
        save(state, 300)
        assert_holds(newest(state)[0], 300)
    assert found == ({100, 200} if images == 200 else {50, 100})


def test_a_kill_at_any_moment_of_the_first_save_can_be_continued(tmp_path, monkeypatch):
    folder = tmp_path / "tf"
    folder.mkdir()
    for state in _states_of_a_save(folder, 100, monkeypatch):
        checkpoint.clean(state)
        found, _ = newest(state)
        if found is not None:
            assert_holds(found, 100)
        save(state, 100)
        assert_holds(newest(state)[0], 100)


def test_the_content_reaches_the_disk_before_the_commit_mark(tmp_path, monkeypatch):
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def logged_fsync(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        kind = next((e for e in ENDINGS if e in path.name), "folder")
        events.append(f"flush {kind}")
        fsync(descriptor)

    def logged_replace(source, target):
        events.append(f"rename {next(e for e in ENDINGS if str(target).endswith(e))}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "replace", logged_replace)
    save(tmp_path, 100)
    mark = events.index("rename .json")
    for ending in (DATA, ".index"):
        assert events.index(f"flush {ending}") < events.index(f"rename {ending}") < mark
        assert "flush folder" in events[events.index(f"rename {ending}") : mark]
    assert events.index("flush .json") < mark
    assert events[-1] == "flush folder"


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_full_disk_leaves_the_checkpoint_before_and_no_rubbish(tmp_path, monkeypatch, call, at):
    save(tmp_path, 100)
    original, count = getattr(os, call), [0]

    def full(*arguments):
        count[0] += 1
        if count[0] > at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(ResourceError, match="no space left"):
            save(tmp_path, 200)
    assert not [n for n in os.listdir(tmp_path) if n.startswith(".tmp-")]
    assert_holds(newest(tmp_path)[0], 100)


def test_a_folder_that_cannot_be_is_a_resource_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError):
        save(tmp_path / "file" / "tf", 100)


def test_cleaning_removes_temporary_files_of_ours_and_nothing_else(tmp_path):
    prefix = save(tmp_path, 100)
    foreign = tmp_path / "notes.tmp"
    foreign.write_text("mine")
    (tmp_path / f".tmp-{prefix.name}.999.index").write_text("")
    checkpoint.clean(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(
        [foreign.name, *(prefix.name + e for e in ENDINGS)]
    )
    checkpoint.clean(tmp_path / "missing")


# --- Pruning ----------------------------------------------------------------------------------


def test_pruning_keeps_the_last_and_the_best(tmp_path):
    for images in (100, 200, 300, 400, 500):
        save(tmp_path, images)
    (tmp_path / "model.ckpt-00000100.notes").write_text("mine")
    checkpoint.prune(tmp_path, 2, {200})
    assert [p.name[-3:] for p in checkpoint.committed(tmp_path)] == ["200", "400", "500"]
    assert len(os.listdir(tmp_path)) == 3 * 3 + 1
    checkpoint.prune(tmp_path, 2, set())
    assert [p.name[-3:] for p in checkpoint.committed(tmp_path)] == ["400", "500"]


def test_nothing_is_pruned_while_the_newest_is_damaged(tmp_path):
    for images in (100, 200, 300):
        save(tmp_path, images)
    _flip(part(tmp_path / "model.ckpt-00000300", DATA))
    with pytest.raises(CheckpointError):
        checkpoint.prune(tmp_path, 1, set())
    assert len(checkpoint.committed(tmp_path)) == 3
    assert_holds(newest(tmp_path)[0], 200)


def test_a_full_disk_while_a_checkpoint_is_saved_again_leaves_the_old_one(tmp_path, monkeypatch):
    save(tmp_path, 100)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ResourceError, match="no space left"):
            save(tmp_path, 100)
    assert_holds(newest(tmp_path)[0], 100)
