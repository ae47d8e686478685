"""Verifying: damage, origins, maps, leftovers."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import squares

from data_tools.looking.checking import check, describe, find_leftovers, plan_check, verify_file
from data_tools.records.splits import SplitOptions, create_split
from realmix_tf.data.examples import encode_example
from realmix_tf.data.manifest import provenance
from realmix_tf.data.record_writer import RecordWriter
from realmix_tf.errors import DataError


@pytest.fixture
def data(tmp_path) -> Path:
    squares.write(tmp_path / "squares-train.tfrecord", *squares.pictures(60, 1), "train")
    create_split(
        SplitOptions(tmp_path / "SSL" / "squares", (tmp_path / "squares-train.tfrecord",), 12, 1)
    )
    return tmp_path


def states(folder: Path) -> dict[str, str]:
    found = check([folder])
    return {Path(s.file).name: s.problem or s.stale or "ok" for s in found.files}


MAP = "SSL/squares.1@12-map.json"


def test_a_whole_split_is_fine(data) -> None:
    found = check([data])
    assert set(states(data).values()) == {"ok"}
    assert [
        (Path(m.file).name, m.labeled, m.unlabeled, m.problem, m.remark) for m in found.maps
    ] == [("squares.1@12-map.json", 12, 48, "", "")]
    assert not found.leftovers
    assert not found.damaged
    assert "DAMAGED" not in describe(found)


def test_a_split_whose_dataset_was_built_again_is_stale(data) -> None:
    squares.write(data / "squares-train.tfrecord", *squares.pictures(60, 2), "train")
    found = check([data])
    stale = {Path(s.file).name: s.stale for s in found.files if s.stale}
    assert stale == dict.fromkeys(
        ("squares.1@12-label.tfrecord", "squares.1@12-unlabel.tfrecord"),
        "made from another squares-train.tfrecord",
    )
    assert all(s.ok for s in found.files)
    assert not found.damaged  # stale files are whole
    assert describe(found).count("STALE: made from another squares-train.tfrecord") == 2
    # A parent that is gone, or damaged, says nothing about the file.
    (data / "squares-train.tfrecord.json").write_text("{")
    assert states(data)["squares.1@12-label.tfrecord"] == "ok"
    for name in ("squares-train.tfrecord", "squares-train.tfrecord.json"):
        (data / name).unlink()
    assert set(states(data).values()) == {"ok"}


def test_parents_that_point_elsewhere_are_not_followed(tmp_path) -> None:
    squares.write(tmp_path / "other" / "b.tfrecord", *squares.pictures(3, 1), "train")
    (tmp_path / "d").mkdir()
    for name in ("../other/b.tfrecord", "..", "", 3, None):
        origin = provenance("x") | {"parents": [{"file": name, "sha256": "0" * 64}, 7]}
        with RecordWriter(
            tmp_path / "d" / "a.tfrecord", dataset="a", role="train", classes=("a",),
            shape=(8, 8, 3), provenance=origin, overwrite=True,
        ) as writer:  # fmt: skip
            writer.write(encode_example(squares.png(squares.pictures(1, 1)[0][0]), 0))
        assert states(tmp_path / "d") == {"a.tfrecord": "ok"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda m: m["unlabel"].append(m["label"][0]), "it lists an id twice"),
        (lambda m: m["unlabel"].pop(), "it lists 47 ids of squares.1@12-unlabel.tfrecord, which"),
        (lambda m: m["label"].pop(), "it lists 11 ids of squares.1@12-label.tfrecord, which has"),
        (lambda m: m["unlabel"].__setitem__(0, 99), "it lists 60 ids up to 99, the input has 60"),
        (lambda m: m.pop("label"), "'label' is no list of ids"),
        (lambda m: m["label"].__setitem__(0, "x"), "'label' is no list of ids"),
    ],
)
def test_a_map_that_does_not_fit_is_damage(data, change, problem) -> None:
    mapping = json.loads((data / MAP).read_text())
    change(mapping)
    (data / MAP).write_text(json.dumps(mapping))
    found = check([data])
    assert [Path(path).name for path in found.damaged] == ["squares.1@12-map.json"]
    assert problem in found.maps[0].problem
    assert "DAMAGED" in describe(found)


def test_what_is_missing_of_a_split_is_a_remark(data) -> None:
    (data / MAP).rename(data / "map")
    found = check([data])
    assert [m.remark for m in found.maps] == ["the map of this split is missing"]
    assert not found.damaged
    (data / "map").rename(data / MAP)
    for name in ("tfrecord", "tfrecord.json"):
        (data / f"SSL/squares.1@12-unlabel.{name}").unlink()
    found = check([data])
    assert [m.remark for m in found.maps] == ["there is no squares.1@12-unlabel.tfrecord"]
    assert not found.damaged


def gone_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_leftovers_of_killed_runs_are_told_from_work_in_progress(data) -> None:
    gone, old = gone_process(), time.time() - 7200
    ours = [data / ".tmp-a.tfrecord.part", data / "SSL" / f".tmp-b-map.json.{gone}"]
    others = [
        data / ".tmp-held.tfrecord.part",  # locked by its writer
        data / f".tmp-young.json.{gone}",  # perhaps of another computer
        data / f".tmp-living.json.{os.getpid()}",
        data / ".tmp-archive.tar.gz.part",  # a download goes on from there
        data / ".tmp-notes.txt",
        data / "tmp-a.tfrecord.part",
    ]
    for path in ours + others:
        path.write_bytes(b"x" * 10)
        if "young" not in path.name:
            os.utime(path, (old, old))
    (data / ".tmp-link.tfrecord.part").symlink_to(data / "squares-train.tfrecord")
    (data / ".tmp-folder.tfrecord.part").mkdir()
    with open(others[0], "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert {Path(left.file) for left in find_leftovers(data)} == set(ours)
        found = check([data])
        assert [left.removed for left in found.leftovers] == [False, False]
        assert "--clean" in describe(found)
        plan = plan_check([data], clean=True)
        assert len(plan.facts["would remove"]) == 2
        assert all(path.exists() for path in ours)
        found = check([data], clean=True)
    assert all(left.removed for left in found.leftovers)
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in others)
    assert (data / ".tmp-link.tfrecord.part").is_symlink()
    assert set(states(data).values()) == {"ok"}


def test_a_folder_with_nothing_but_leftovers(tmp_path) -> None:
    with pytest.raises(DataError, match="no record files"):
        check([tmp_path])
    (tmp_path / ".tmp-a.tfrecord.part").touch()
    assert len(check([tmp_path], clean=True).leftovers) == 1
    describe(check_of_nothing := check([_with_leftover(tmp_path)]))
    assert not check_of_nothing.files


def _with_leftover(folder: Path) -> Path:
    (folder / ".tmp-a.tfrecord.part").touch()
    return folder


def test_what_is_no_file_is_damage_and_links_to_folders_are_named(data, tmp_path_factory) -> None:
    os.mkfifo(data / "pipe.tfrecord")
    (data / "folder.tfrecord").mkdir()
    squares.write(data / "held.tfrecord", *squares.pictures(3, 1), "train")
    (data / "held.tfrecord.json").unlink()
    os.mkfifo(data / "held.tfrecord.json")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (data / "SSL" / "linked").symlink_to(elsewhere)
    (data / "linked.tfrecord").symlink_to(data / "squares-train.tfrecord")
    found = check([data])
    bad = {Path(s.file).name: s.problem for s in found.files if not s.ok}
    assert bad == {
        "pipe.tfrecord": "this is not a regular file",
        "folder.tfrecord": "this is not a regular file",
        "held.tfrecord": "its manifest: this is not a regular file",
    }
    assert len(found.files) == 7
    assert found.skipped == (str(data / "SSL" / "linked"),)
    assert "linked is a link to a folder" in found.notes[0]
    assert found.as_json()["skipped"] == [*found.skipped]
    assert plan_check([data]).notes == tuple(found.notes)
    (status,) = check([data / "folder.tfrecord"]).files
    assert not status.ok


def test_progress_counts_every_byte_once(data) -> None:
    path = data / "squares-train.tfrecord"
    for damage in (lambda: None, lambda: path.write_bytes(b"x" * 1000), path.unlink):
        damage()
        size = path.stat().st_size if path.exists() else 0
        steps: list[int] = []
        verify_file(path, steps.append)
        assert sum(steps) == size


def test_the_plan_of_a_verification(data) -> None:
    plan = plan_check([data])
    assert [Path(use.path).name for use in plan.reads] == [
        "squares.1@12-label.tfrecord", "squares.1@12-unlabel.tfrecord", "squares-train.tfrecord"
    ]  # fmt: skip
    assert plan.seconds is not None
    (data / "squares-train.tfrecord").write_bytes(b"x")
    plan_check([data])
