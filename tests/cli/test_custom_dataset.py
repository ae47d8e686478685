"""The flags of create_datasets custom, as users of the original tool type them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from realmix_tf.cli.create_datasets import main
from realmix_tf.data.records import RecordReader

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.process


def test_balancing_pseudo_labels_and_cutout(tmp_path) -> None:
    random = np.random.RandomState(0)
    for part, counts in (("train", (5, 2)), ("test", (1, 1)), ("unlabeled", (3, 1))):
        for name, count in zip(("cat", "dog"), counts, strict=True):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.randint(0, 256, (12, 12, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    (tmp_path / "p.csv").write_text(
        "path,class_name,probability\n"
        "cat/0.png,cat,0.9\ncat/1.png,cat,0.9\ncat/2.png,dog,0.2\ndog/0.png,dog,0.8\n"
    )
    result = subprocess.run(
        [
            sys.executable, "scripts/create_datasets.py", "custom", "-n", "d",
            "-tr", tmp_path / "train", "-ts", tmp_path / "test", "-u", tmp_path / "unlabeled",
            "-trbal", "8", "-unlbal", "4", "-predbal", tmp_path / "p.csv", "-ps",
            tmp_path / "p.csv", "--min_confidence=0.5", "-cut", "all", "-cutp", "0.5",
            f"--data_dir={tmp_path / 'data'}", "--json",
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)["datasets"][0]["facts"]
    assert facts["classes"] == {"cat": 4, "dog": 4}
    assert facts["copies"] == {"train": 2, "unlabeled": 1}
    assert "1 unlabelled images were predicted with less than 0.5" in result.stderr
    with RecordReader(tmp_path / "data" / "d-train.tfrecord") as reader:
        reader.verify()
        assert sorted(reader.pseudo_labels[8:].tolist()) == [0, 0, 1, 1]
        assert reader.manifest is not None
        assert "--train_balance=8" in reader.manifest.provenance["command"]


@pytest.fixture
def pets(tmp_path) -> Path:
    """Two classes of two training and one test picture each, and five unlabelled pictures."""
    random = np.random.RandomState(0)
    names = [f"train/{name}/{i}" for name in ("cat", "dog") for i in range(2)]
    names += ["test/cat/0", "test/dog/0", *(f"unlabeled/{i}" for i in range(5))]
    for name in names:
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.randint(0, 256, (12, 12, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path


@pytest.fixture
def custom(pets, capsys):
    """Runs ``create_datasets custom`` on the pictures."""

    def run(*words: str, code: int = 0) -> tuple[str, str]:
        folders = [
            f"--{flag}dir={pets / folder}"
            for flag, folder in (("train", "train"), ("test", "test"), ("unlabel", "unlabeled"))
            if (pets / folder).exists()
        ]
        found = main(
            ["custom", "--name=d", *folders, f"--data_dir={pets / 'data'}", "--workers=1", *words]
        )
        out, err = capsys.readouterr()
        assert found == code, err
        assert len([line for line in err.splitlines() if line.startswith("error: ")]) == (code != 0)
        return out, err

    return run


def unreadable(pets: Path) -> dict[str, str]:
    """The names of files that could not be used, and why."""
    report = json.loads((pets / "data" / "d-report.json").read_text())
    return {os.path.basename(item["path"]): item["reason"] for item in report["unreadable"]}


def rows(*pairs: tuple[object, str]) -> str:
    return "path,class_name,probability\n" + "".join(f"{path},{name},0.5\n" for path, name in pairs)


FIVE = [(f"{i}.png", "cat") for i in range(5)]


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (rows(*FIVE[:4]), 3, "4.png"),
        (rows(*FIVE, ("9.png", "cat")), 3, "9.png"),
        (rows(*FIVE[:4], ("../test/cat/0.png", "cat")), 3, "0.png"),
        (rows(*FIVE[:4], ("3.png", "cat")), 3, "two predictions"),
        (rows(*FIVE[:4], ("4.png", "=1+1")), 3, "=1+1"),
        (rows(*FIVE).replace("0.5", "1e999"), 3, "not between 0 and 1"),
        (rows(*FIVE).replace("0.5", "nan"), 3, "not a number"),
        ("[0, 0, 0, 0, 0]", 3, "not a JSON object"),
        ("[" * 100_000, 3, ""),
        ('{"0.png": ' * 50_000, 3, ""),
        ('{"schema": 99, "classes": [], "predictions": []}', 3, "schema version 99"),
        ('{"0.png": {"__reduce__": "os.system"}}', 3, "not a number"),
        ("\x80\x04cposix\nsystem\n", 3, ""),
        ("", 3, ""),
    ],
)
def test_pseudo_labels_that_do_not_fit(pets, custom, content, code, message) -> None:
    path = pets / ("p.csv" if content.startswith("path,") else "p.json")
    path.write_text(content)
    for more in (("--dry_run",), ()):
        _, err = custom(f"--pseudo_label={path}", *more, code=code)
        assert message in err
        assert len(err) < 1000
        assert not (pets / "data").exists()


def test_predictions_that_are_no_files(pets, custom) -> None:
    os.mkfifo(pets / "p.csv")
    (pets / "loop.csv").symlink_to("loop.csv")
    for path in (pets / "p.csv", pets / "loop.csv", pets / "train", pets / "none.csv"):
        custom(f"--pseudo_label={path}", code=4 if path.name == "loop.csv" else 3)
    assert not (pets / "data").exists()


def test_folders_of_other_things_are_given_up(pets, custom) -> None:
    for i in range(110):
        (pets / "unlabeled" / f"z{i:03}.png").write_text("<html>")
    _, err = custom(code=3)
    assert "100 files in a row cannot be used" in err
    assert "--max_bad" in err
    assert os.listdir(pets / "data") == ["d-report.json"]
    assert len(unreadable(pets)) >= 100
    out, _ = custom("--max_bad=100", "--json")
    assert json.loads(out)["datasets"][0]["facts"]["unlabeled_unreadable"] == 110


def test_the_share_of_unreadable_files_is_limited(pets, custom) -> None:
    good = (pets / "unlabeled" / "0.png").read_bytes()
    for i in range(202):
        content = b"<html>" if i % 2 else good
        (pets / "unlabeled" / f"z{i:03}.png").write_bytes(content)
    _, err = custom(code=3)
    assert "files cannot be used" in err
    assert "in a row" not in err
    _, err = custom("--max_bad=101", code=2)
    out, _ = custom("--max_bad=60", "--json")
    assert json.loads(out)["datasets"][0]["facts"]["unlabeled_unreadable"] == 101


def test_pictures_of_other_sizes_are_refused_as_asked(pets, custom) -> None:
    Image.new("RGB", (3, 30)).save(pets / "unlabeled" / "thin.png")
    Image.new("RGB", (30, 30)).save(pets / "unlabeled" / "large.png")
    custom("--min_side=4", "--max_pixels=899")
    found = unreadable(pets)
    assert sorted(found) == ["large.png", "thin.png"]
    assert "899" in found["large.png"]
    assert "4" in found["thin.png"]
    Image.new("RGB", (30, 30)).save(pets / "train" / "cat" / "large.png")
    _, err = custom("--max_pixels=899", "--overwrite", code=3)
    assert "1 labelled images cannot be read" in err
    assert "large.png" in err


def test_classes_may_be_missing_in_the_test_folder_when_asked(pets, custom) -> None:
    (pets / "test" / "dog" / "0.png").unlink()
    (pets / "test" / "dog").rmdir()
    _, err = custom(code=3)
    assert "lacks the class 'dog'" in err
    assert "--allow_missing" in err
    _, err = custom("--allow_missing")
    assert "the test set lacks 'dog'" in err


def test_what_cannot_be_written_is_refused_beforehand(pets, custom, monkeypatch) -> None:
    monkeypatch.setattr("realmix_tf.files.free_bytes", lambda folder: 1000)
    for more in (("--dry_run",), ()):
        assert "only 1000 B is free" in custom(*more, code=4)[1]
    monkeypatch.undo()
    (pets / "data").touch()
    for more in (("--dry_run",), ()):
        custom(*more, code=4)
    assert (pets / "data").read_bytes() == b""
