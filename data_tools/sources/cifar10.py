"""CIFAR-10: 50,000 + 10,000 colour images of 32×32 pixels, ten classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data_tools.sources.building import Contents, Source
from data_tools.sources.cifar import SHAPE, read_cifar
from data_tools.sources.download import Archive

_BATCHES = 5

# Size and SHA-256 as published by TensorFlow Datasets 4.9 (url_checksums/cifar10.txt).
ARCHIVE = Archive(
    "cifar-10-binary.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    170_052_171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)


def read(archives: Mapping[str, Path], source: Source) -> Contents:
    """The training batches in the order of their numbers, which is not the archive's.

    Raises:
      DataError: the archive is not as it was published.
    """
    batches = [f"data_batch_{number}.bin" for number in range(1, _BATCHES + 1)]
    return read_cifar(
        archives[ARCHIVE.name],
        "cifar-10-batches-bin",
        names="batches.meta.txt",
        labels=1,
        parts=[
            ("train", batches, source.records["train"] // _BATCHES),
            ("test", ["test_batch.bin"], source.records["test"]),
        ],
    )


SOURCES = (
    Source(
        name="cifar10",
        shape=SHAPE,
        records={"train": 50_000, "test": 10_000},
        read=read,
        archives=(ARCHIVE,),
    ),
)
