"""The binary edition of CIFAR-10 and CIFAR-100: a label byte or two before 3,072 bytes of image.

Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009;
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data_tools.sources.archives import TarArchive
from data_tools.sources.building import Block, Contents
from realmix_tf.errors import DataError

SHAPE = (32, 32, 3)


def read_cifar(
    path: Path,
    folder: str,
    *,
    names: str,
    labels: int,
    parts: Sequence[tuple[str, Sequence[str], int]],
) -> Contents:
    """Reads an archive.

    Args:
      path: the archive.
      folder: the folder in it.
      names: the member that lists the names of the classes.
      labels: bytes before an image; the last one is the label.
      parts: role, members in the order of the records, and records in each member.

    Raises:
      DataError: the archive is not as it was published.
    """
    with TarArchive(path, folder) as tar:
        classes = tar.lines(names)
    if not classes or len(set(classes)) != len(classes):
        raise DataError(f"the member {names!r} names no classes, or one twice", path)

    def blocks(tar: TarArchive, members: Iterable[str], count: int) -> Iterator[Block]:
        height, width, channels = SHAPE
        for member in members:
            for rows in tar.rows(member, count, labels + height * width * channels):
                planes = rows[:, labels:].reshape(-1, channels, height, width)
                yield Block(planes.transpose(0, 2, 3, 1), rows[:, labels - 1].astype(np.int64))

    def read() -> Iterator[tuple[str, Iterator[Block]]]:
        with TarArchive(path, folder) as tar:
            for role, members, count in parts:
                yield role, blocks(tar, members, count)

    return Contents(classes, read())
