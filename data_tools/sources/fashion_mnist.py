"""Fashion-MNIST: 60,000 + 10,000 grey images of 28×28 pixels with a frame of zeros to 32×32.

Xiao, Rasul and Vollgraf, "Fashion-MNIST", 2017; https://github.com/zalandoresearch/fashion-mnist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from data_tools.sources.archives import idx_rows
from data_tools.sources.building import Block, Contents, Source
from data_tools.sources.download import Archive

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_FILES = {"train": "train", "test": "t10k"}
_SIDE, _FRAME = 28, 2


def _archive(name: str, size: int, sha256: str) -> Archive:
    # The address that was published has no https; the first one is the copy that Keras uses.
    hosts = (
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    )
    return Archive(name, tuple(f"{host}/{name}" for host in hosts), size, sha256)


# Sizes and SHA-256 as published by TensorFlow Datasets 4.9 (url_checksums/fashion_mnist.txt).
ARCHIVES = (
    _archive(
        "train-images-idx3-ubyte.gz",
        26_421_880,
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    ),
    _archive(
        "train-labels-idx1-ubyte.gz",
        29_515,
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    ),
    _archive(
        "t10k-images-idx3-ubyte.gz",
        4_422_102,
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    ),
    _archive(
        "t10k-labels-idx1-ubyte.gz",
        5_148,
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
)


def read(archives: Mapping[str, Path], source: Source) -> Contents:
    """Both parts in the order of their archives.

    Raises:
      DataError: an archive is not as it was published.
    """

    def blocks(role: str, count: int) -> Iterator[Block]:
        stem = _FILES[role]
        found = list(idx_rows(archives[f"{stem}-labels-idx1-ubyte.gz"], (count,)))
        labels = np.concatenate(found)[:, 0].astype(np.int64)
        first = 0
        for rows in idx_rows(archives[f"{stem}-images-idx3-ubyte.gz"], (count, _SIDE, _SIDE)):
            images = rows.reshape(-1, _SIDE, _SIDE, 1)
            frame = ((0, 0), (_FRAME, _FRAME), (_FRAME, _FRAME), (0, 0))
            yield Block(np.pad(images, frame), labels[first : first + len(rows)])
            first += len(rows)

    parts = ((role, blocks(role, count)) for role, count in source.records.items())
    return Contents(CLASSES, parts)


SOURCES = (
    Source(
        name="fashion_mnist",
        shape=(_SIDE + 2 * _FRAME, _SIDE + 2 * _FRAME, 1),
        records={"train": 60_000, "test": 10_000},
        read=read,
        archives=ARCHIVES,
    ),
)
