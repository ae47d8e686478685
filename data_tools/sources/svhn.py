"""Street View House Numbers, cropped digits of 32×32 pixels: ``svhn`` and ``svhn_noextra``.

Netzer et al., "Reading Digits in Natural Images with Unsupervised Feature Learning", 2011;
http://ufldl.stanford.edu/housenumbers. The published labels 1..10 become 0..9, as in the MixMatch
records, so the digit 0 is the last class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from data_tools.sources.archives import MatFile
from data_tools.sources.building import Block, Contents, Source
from data_tools.sources.download import Archive

CLASSES = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "0")
SHAPE = (32, 32, 3)


def _archive(role: str, size: int, sha256: str) -> Archive:
    name = f"{role}_32x32.mat"
    # The server is known to answer https too; the address that was published is the second.
    urls = tuple(
        f"{scheme}://ufldl.stanford.edu/housenumbers/{name}" for scheme in ("https", "http")
    )
    return Archive(name, urls, size, sha256)


# Sizes and SHA-256 as published by TensorFlow Datasets 4.9 (svhn_cropped/checksums.tsv).
TRAIN = _archive(
    "train", 182_040_794, "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8"
)
TEST = _archive(
    "test", 64_275_384, "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b"
)
EXTRA = _archive(
    "extra", 1_329_278_602, "a133a4beb38a00fcdda90c9489e0c04f900b660ce8a316a5e854838379a71eb3"
)


def read(archives: Mapping[str, Path], source: Source) -> Contents:
    """The parts, each in the order of its archive.

    Raises:
      DataError: an archive is not as it was published.
    """

    def blocks(role: str, count: int) -> Iterator[Block]:
        mat = MatFile(archives[f"{role}_32x32.mat"])
        labels = mat.column("y", count) - 1
        first = 0
        for images in mat.rows("X", (*SHAPE, count)):
            # The slices come as channel, column, row.
            some = labels[first : first + len(images)]
            yield Block(images.transpose(0, 3, 2, 1), some)
            first += len(images)

    parts = ((role, blocks(role, count)) for role, count in source.records.items())
    return Contents(CLASSES, parts)


SOURCES = (
    Source(
        name="svhn",
        shape=SHAPE,
        records={"train": 73_257, "test": 26_032, "extra": 531_131},
        read=read,
        archives=(TRAIN, TEST, EXTRA),
    ),
    Source(
        name="svhn_noextra",
        shape=SHAPE,
        records={"train": 73_257, "test": 26_032},
        read=read,
        archives=(TRAIN, TEST),
    ),
)
