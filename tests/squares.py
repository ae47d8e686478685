"""Tiny datasets for tests: coloured squares that a small network learns in seconds."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from realmix_tf.data.examples import encode_example
from realmix_tf.data.record_writer import RecordWriter

CLASSES = ("red", "green", "blue")
SIZE = 8


def png(image: np.ndarray) -> bytes:
    """PNG bytes of a uint8 H×W×3 image."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy squares uint8 [count, 8, 8, 3], and which channel is strongest int64 [count]."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    images = rng.integers(0, 120, (count, SIZE, SIZE, 3))
    images[np.arange(count), :, :, labels] += 90
    return images.astype(np.uint8), labels


def write(
    path: Path,
    images: np.ndarray,
    labels: np.ndarray,
    role: str,
    sources: np.ndarray | None = None,
    classes: tuple[str, ...] = CLASSES,
) -> None:
    """A record file with its manifest; label −1 marks an image without a true label."""
    with RecordWriter(
        path,
        dataset="squares",
        role=role,
        classes=classes,
        shape=images.shape[1:],
        provenance={},
        overwrite=True,
    ) as writer:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            source = None if sources is None else int(sources[index])
            writer.write(encode_example(png(image), int(label), labeled=label >= 0, source=source))


def write_split(folder: Path, labels: int = 12, total: int = 120, test: int = 60) -> Path:
    """``squares.1@<labels>-…`` in ``folder``; every third unlabelled image has no true label."""
    images, truth = pictures(total, 1)
    write(folder / "squares-train.tfrecord", images, truth, "train")
    write(folder / "squares-test.tfrecord", *pictures(test, 2), "test")
    stem = folder / "SSL" / f"squares.1@{labels}"
    write(Path(f"{stem}-label.tfrecord"), images[:labels], truth[:labels], "label")
    hidden = truth[labels:].copy()
    hidden[::3] = -1
    write(Path(f"{stem}-unlabel.tfrecord"), images[labels:], hidden, "unlabel")
    ids = {"label": list(range(labels)), "unlabel": list(range(labels, total))}
    Path(f"{stem}-map.json").write_text(json.dumps(ids))
    return folder


def small_flags(folder: Path, train_dir: Path) -> list[str]:
    """Flags of a training that takes a few seconds."""
    return [
        f"--data_dir={folder}",
        f"--train_dir={train_dir}",
        "--dataset=squares.1@12-10",
        "--arch=small",
        "--filters=4",
        "--batch=16",
        "--train_kimg=1",
        "--report_kimg=0.25",
        "--save_kimg=0.125",
        "--augment=digits",
        "--precision=float32",
        "--ema=0.9",
        "--bn_decay=0.9",
        "--lr=0.01",
    ]
