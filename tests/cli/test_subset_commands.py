"""create_split, filter_dataset, merge and sample as users type them, and what stops them."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, files_up_to, listing, run, start

from realmix_tf.data.examples import encode_example
from realmix_tf.data.images import encode_png
from realmix_tf.data.manifest import manifest_path, provenance
from realmix_tf.data.record_writer import RecordWriter
from realmix_tf.data.records import RecordReader, masked_crc

COMMANDS = ("create_split", "filter_dataset", "merge", "sample")
CLASSES = ("cat", "dog", "owl:eagle")

pytestmark = pytest.mark.process


def words(command: str, folder: Path, source: Path) -> list[str]:
    """A call that reads ``source`` and writes into ``folder``."""
    output = folder / "o-train.tfrecord"
    return {
        "create_split": ["--seed=1", "--label_split_size=6", str(folder / "o"), str(source)],
        "filter_dataset": ["--class_filter=cat,1", f"--filter_dataset={source}",
                           f"--save_name={output}"],
        "merge": [str(output), str(source), str(source)],
        "sample": [str(output), str(source), "--fraction=0.9"],
    }[command]  # fmt: skip


def write(path: Path, count: int = 60, side: int = 4, kinds: int = 60) -> Path:
    """Records of which every fifth has no true label."""
    random = np.random.RandomState(0)
    images = [
        encode_png(random.randint(0, 256, (side, side, 3)).astype(np.uint8)) for _ in range(kinds)
    ]
    with RecordWriter(
        path, dataset="o", role="train", classes=CLASSES, shape=(side, side, 3),
        provenance=provenance("test"),
    ) as writer:  # fmt: skip
        for i in range(count):
            label = -1 if i % 5 == 4 else i % 3
            writer.write(encode_example(images[i % kinds], label, labeled=label >= 0), label)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("source") / "o-train.tfrecord")


def test_a_split_says_what_to_train_with(source, tmp_path) -> None:
    target = tmp_path / "SSL" / "o"
    flags = ("--class_counts=cat:3,2:2,owl:eagle:1", "--validation=4")
    _, err = run("create_split", *flags, target, source, code=2)
    assert "'owl:eagle' is given twice" in err
    flags = ("--class_counts=cat:3,2:2", "--validation=4", f"--data_dir={source.parent}")
    out, err = run("create_split", *flags, target, source.name, "--dry_run")
    assert listing(tmp_path) == []
    assert "dataset: o.0@5-4" in out
    out, err = run("create_split", *flags, target, source.name)
    assert "--dataset=o.0@5-4" in out
    assert "nothing lost: 60 = 5 labelled + 55 unlabelled" in out
    assert "note: 1 of 3 classes get no label: dog" in err
    out, _ = run("create_split", *flags, target, source.name, "--json", "--overwrite")
    result = json.loads(out)
    assert result["labeled"] == {"cat": 3, "dog": 0, "owl:eagle": 2}
    assert (result["name"], result["schema"], sum(result["valid"].values())) == ("o.0@5-4", 1, 4)


@pytest.mark.parametrize("command", COMMANDS)
def test_dry_runs_and_json(source, tmp_path, command) -> None:
    folder = tmp_path / "new"
    out, _ = run(command, *words(command, folder, source), "--dry_run", "--json")
    plan = json.loads(out)
    assert plan["dry_run"] is True
    assert plan["reads"][0]["bytes"] == source.stat().st_size
    assert not folder.exists()
    out, _ = run(command, *words(command, folder, source), "--json")
    result = json.loads(out)
    assert result["schema"] == 1
    assert isinstance(result["notes"], list)
    written = {Path(use["path"]).name for use in plan["writes"]}
    manifests = {name + ".json" for name in written if name.endswith(".tfrecord")}
    assert set(listing(folder)) == written | manifests
    _, err = run(command, *words(command, folder, source), "--dry_run", code=2)
    assert "--overwrite" in err


def cut(path: Path) -> None:
    with RecordReader(path) as reader:
        end = int(reader.sizes()[:40].sum())
    path.write_bytes(path.read_bytes()[:end])


def flip(path: Path) -> None:
    with RecordReader(path) as reader:
        place = int(reader.sizes()[:31].sum()) - 40
    content = bytearray(path.read_bytes())
    content[place] ^= 16
    path.write_bytes(content)


def change_manifest(path: Path, **fields: object) -> None:
    value = json.loads(manifest_path(path).read_text())
    manifest_path(path).write_text(json.dumps({**value, **fields}))


def set_length(path: Path) -> None:
    length = struct.pack("<Q", 1 << 62)
    content = bytearray(path.read_bytes())
    content[:12] = length + struct.pack("<I", masked_crc(length))
    path.write_bytes(content)


def text(path: Path) -> None:
    manifest_path(path).unlink()
    path.write_text("this is no record file\n" * 20)


def foreign_manifest(path: Path) -> None:
    # As many records and bytes, but of other classes.
    other = json.loads(manifest_path(path).read_text())["per_class"]
    change_manifest(path, per_class=[other[1] - 1, other[0] + 1, other[2]])


DAMAGES = {
    "cut": (cut, "its manifest says"),
    "flip": (flip, "record 30"),
    "version": (lambda path: change_manifest(path, schema=2), "a newer version"),
    "foreign": (foreign_manifest, "each class"),
    "size": (lambda path: change_manifest(path, height=5), "4x4"),
    "label": (
        lambda path: change_manifest(path, classes=["a", "b"], per_class=[24, 24]),
        "label 2 is none of the 2 classes",
    ),
    "interrupted": (
        lambda path: manifest_path(path).write_text('{"incomplete": true}'),
        "was interrupted",
    ),
    "length": (set_length, "cut short"),
    "text": (text, "record 0"),
    "gone": (lambda path: path.unlink(), "no such record file"),
}


# Every command meets the damages of the content; the others, which opening finds, go round.
CASES = [(command, damage) for command in COMMANDS for damage in ("cut", "flip")] + [
    (COMMANDS[k % len(COMMANDS)], damage) for k, damage in enumerate([*DAMAGES][2:])
]


@pytest.mark.parametrize(("command", "damage"), CASES)
def test_damaged_inputs_are_named_and_nothing_is_left(source, tmp_path, command, damage) -> None:
    path = tmp_path / "o-train.tfrecord"
    for copy, original in ((path, source), (manifest_path(path), manifest_path(source))):
        copy.write_bytes(original.read_bytes())
    spoil, message = DAMAGES[damage]
    spoil(path)
    # So that every record is read.
    more = {"filter_dataset": ["--class_filter=0,1,2"], "sample": ["--fraction=1"]}
    call = [*words(command, tmp_path / "new", path), *more.get(command, [])]
    _, err = run(command, *call, code=3)
    assert message in err
    assert "o-train.tfrecord" in err
    assert not (tmp_path / "new").exists()


def test_outputs_never_replace_what_they_should_not(source, tmp_path) -> None:
    before = source.read_bytes()
    (tmp_path / "link.tfrecord").symlink_to(source)
    for command, call in (
        ("merge", (source, source, source)),
        ("merge", (tmp_path / "link.tfrecord", source, source)),
        ("sample", (source, source, "--size=3")),
        ("filter_dataset", ("--class_filter=0", f"--filter_dataset={source}",
                            f"--save_name={source}")),
    ):  # fmt: skip
        _, err = run(command, *call, "--overwrite", code=2)
        assert "replace the source" in err
    assert source.read_bytes() == before
    _, err = run("sample", tmp_path / "../x" / "\n.tfrecord", source, "--size=3", code=2)
    assert "cannot name a dataset" in err
    assert len(err.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """Some 60 MB, so that there is time to interrupt."""
    return write(tmp_path_factory.mktemp("large") / "o-train.tfrecord", 20_000, 32, 300)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_kill_leaves_nothing_that_looks_finished(large, tmp_path, command) -> None:
    folder = tmp_path / "new"
    process = start(command, *words(command, folder, large))
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if any(part.stat().st_size for part in folder.glob(".tmp-*.part")):
            break
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not [name for name in listing(folder) if not name.startswith(".tmp-")]
    run(command, *words(command, folder, large))
    run("verify", folder)
    assert not [name for name in listing(folder) if name.startswith(".tmp-")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_error_and_leaves_nothing(large, tmp_path, command) -> None:
    folder = tmp_path / "new"
    _, err = run(command, *words(command, folder, large), code=4, prepare=files_up_to(5 << 20))
    assert "the file grew past a size limit" in err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    assert not folder.exists()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interruption_leaves_nothing(large, tmp_path, name) -> None:
    folder = tmp_path / "new"
    process = start("merge", *words("merge", folder, large))
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if any(part.stat().st_size for part in folder.glob(".tmp-*.part")):
            break
        time.sleep(0.001)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + getattr(signal, name), err
    assert "Traceback" not in err
    assert not folder.exists()


def test_memory_does_not_grow_with_the_file(large, tmp_path) -> None:
    """Ten times the records take some tens of bytes each, not their size, more."""

    def peak(path: Path, folder: Path) -> int:
        code = (
            "import resource, sys\n"
            "from realmix_tf.cli.create_split import main\n"
            f"assert main({words('create_split', folder, path)!r}) == 0\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        )
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return int(result.stdout.splitlines()[-1]) << 10

    small = write(tmp_path / "s-train.tfrecord", 8_000, 32, 300)
    merged = tmp_path / "m-train.tfrecord"
    run("merge", merged, *[large] * 4)
    grown = peak(merged, tmp_path / "a") - peak(small, tmp_path / "b")
    # 72,000 more records of 3 kB are 220 MB; 64 MiB of pages are kept.
    assert grown < 120 * 72_000 + (64 << 20)
