"""The flags of create_datasets custom, as users of the original tool type them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
