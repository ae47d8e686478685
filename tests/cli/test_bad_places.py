"""Files and folders that are not what a command needs: each is one error, and nothing is left."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import squares
from commands import files_up_to, listing, mortal, need_permissions, run

from realmix_tf.data.records import RecordReader

NAME = "squares-train.tfrecord"
TIMEOUT = 30  # seconds, also for what starts TensorFlow
WRITERS = (
    "create_split", "filter_dataset", "merge", "sample", "tfrecord_to_image", "check_split",
    "inspect_dataset",
)  # fmt: skip
READERS = (*WRITERS, "verify", "info")

pytestmark = pytest.mark.process


def call(command: str, source: Path, output: Path) -> list[object]:
    """The arguments that read ``source`` and write into the folder ``output``."""
    other = source.with_name("other.tfrecord")
    made = output / "o-train.tfrecord"
    return {
        "verify": [source],
        "info": [source],
        "check_split": [source, other, f"--pictures={output / 'pairs.png'}"],
        "inspect_dataset": [source, f"--grid={output / 'grid.png'}"],
        "create_split": ["--seed=1", "--label_split_size=6", output / "o", source],
        "filter_dataset": ["--class_filter=red", f"--filter_dataset={source}",
                           f"--save_name={made}"],
        "merge": [made, other, source],
        "sample": [made, source, "--fraction=0.9"],
        "tfrecord_to_image": [source, f"--output={output / 'pictures'}"],
    }[command]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = squares.write_split(tmp_path_factory.mktemp("whole"))
    for suffix in ("", ".json"):
        shutil.copy(folder / (NAME + suffix), folder / f"other.tfrecord{suffix}")
    return folder


@pytest.fixture
def data(whole, tmp_path) -> Path:
    """Its own copy, to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "data"))


def be_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def have_pipe_as_manifest(path: Path) -> None:
    be_pipe(path.with_name(path.name + ".json"))


def be_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def be_cut_between_records(path: Path) -> None:
    with RecordReader(path) as reader:
        end = int(reader.sizes()[:50].sum())
    path.write_bytes(path.read_bytes()[:end])


def have_newer_manifest(path: Path) -> None:
    manifest = path.with_name(path.name + ".json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema": 2}))


PLACES = {
    be_pipe: "regular file",
    have_pipe_as_manifest: "this is not a regular file",
    be_folder: "",
    be_cut_between_records: "its manifest says",
    have_newer_manifest: "schema version 2",
}


@pytest.mark.parametrize("spoil", PLACES, ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize("command", READERS)
def test_inputs(data, tmp_path, command, spoil) -> None:
    spoil(data / NAME)
    before = listing(tmp_path)
    words = call(command, data / NAME, tmp_path / "new")
    out, err = run(command, *words, code=3, timeout=TIMEOUT)
    assert NAME in err.splitlines()[-1]
    # verify says what it found in its table.
    assert PLACES[spoil] in (out if command == "verify" else err)
    assert listing(tmp_path) == before


def test_verify_goes_on_with_the_others(data) -> None:
    be_pipe(data / NAME)
    out, err = run("verify", data, code=3, timeout=TIMEOUT)
    assert "error: 1 of " in err
    assert out.count("DAMAGED") == 1
    assert out.count("  ok") == len([*data.rglob("*.tfrecord")]) - 1


@pytest.mark.parametrize("command", WRITERS)
def test_an_output_folder_that_may_not_be_written(whole, tmp_path, command) -> None:
    output = tmp_path / "closed"
    output.mkdir()
    need_permissions(output)
    output.chmod(0o555)
    words = call(command, whole / NAME, output)
    _, err = run(command, *words, code=4, prepare=mortal, timeout=TIMEOUT)
    assert "permission denied" in err
    assert str(output) in err
    assert listing(tmp_path) == ["closed"]


@pytest.mark.parametrize("command", WRITERS)
def test_a_disk_that_is_full(whole, tmp_path, command) -> None:
    before = listing(whole)
    words = call(command, whole / NAME, tmp_path / "new")
    _, err = run(command, *words, code=4, prepare=files_up_to(100), timeout=TIMEOUT)
    assert "grew past a size limit" in err
    assert str(tmp_path / "new") in err
    assert [name for name in listing(tmp_path) if (tmp_path / name).is_file()] == []
    assert listing(whole) == before


def test_what_may_not_be_read(data) -> None:
    need_permissions(data / "SSL")
    label = next((data / "SSL").glob("*-label.tfrecord"))
    label.chmod(0)
    out, err = run("verify", data, code=4, prepare=mortal, timeout=TIMEOUT)
    assert "UNREADABLE: permission denied" in out
    assert "DAMAGED" not in out
    assert label.name in err
    label.chmod(0o600)
    try:
        (data / "SSL").chmod(0)
        for command in ("verify", "info"):
            for more in ((), ("--dry_run",)):
                out, err = run(command, data, *more, code=4, prepare=mortal, timeout=TIMEOUT)
                assert f"permission denied ({data / 'SSL'})" in err
                assert not out
    finally:
        (data / "SSL").chmod(0o700)


def test_links_to_folders_are_named(data, tmp_path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (data / "linked").symlink_to(tmp_path / "elsewhere")
    out, err = run("verify", data, "--json", timeout=TIMEOUT)
    assert json.loads(out)["skipped"] == [str(data / "linked")]
    assert json.loads(out)["notes"] == [f"{data / 'linked'} is a link to a folder and was skipped"]
    assert "note: " in err
    out, _ = run("info", data, "--json", timeout=TIMEOUT)
    assert json.loads(out)["skipped"] == [str(data / "linked")]


def test_augmented_copies(data) -> None:
    pytest.importorskip("tensorflow")
    words = ("--aug_dataset=squares.1@12", "--augment=digits", f"--data_dir={data}")
    need_permissions(data / "SSL")
    before = listing(data)
    (data / "SSL").chmod(0o555)
    _, err = run("make_aug_copy", *words, code=4, prepare=mortal, timeout=TIMEOUT)
    assert "permission denied" in err
    assert str(data / "SSL") in err
    (data / "SSL").chmod(0o755)
    be_pipe(data / "SSL" / "squares.1@12-unlabel.tfrecord")
    _, err = run("make_aug_copy", *words, code=3, timeout=TIMEOUT)
    assert "not a regular file" in err
    assert listing(data) == before
