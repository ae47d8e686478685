"""CIFAR-100: 50,000 + 10,000 colour images of 32×32 pixels, a hundred (fine) classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data_tools.sources.building import Contents, Source
from data_tools.sources.cifar import SHAPE, read_cifar
from data_tools.sources.download import Archive

# Size and SHA-256 as published by TensorFlow Datasets 4.9 (url_checksums/cifar100.txt).
ARCHIVE = Archive(
    "cifar-100-binary.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
    168_513_733,
    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
)


def read(archives: Mapping[str, Path], source: Source) -> Contents:
    """Both parts with their fine labels; a byte for the coarse one stands before.

    Raises:
      DataError: the archive is not as it was published.
    """
    return read_cifar(
        archives[ARCHIVE.name],
        "cifar-100-binary",
        names="fine_label_names.txt",
        labels=2,
        parts=[(role, [f"{role}.bin"], count) for role, count in source.records.items()],
    )


SOURCES = (
    Source(
        name="cifar100",
        shape=SHAPE,
        records={"train": 50_000, "test": 10_000},
        read=read,
        archives=(ARCHIVE,),
    ),
)
