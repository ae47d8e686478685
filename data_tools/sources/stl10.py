"""STL-10: 5,000 labelled, 100,000 unlabelled and 8,000 test images of 96×96 pixels, ten classes.

Coates, Lee and Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning", 2011;
https://cs.stanford.edu/~acoates/stl10. The published labels 1..10 become 0..9. The ten published
folds of the training set lie beside the records as ``stl10_fold_indices.txt``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from data_tools.sources.archives import TarArchive
from data_tools.sources.building import UNLABELED, Block, Contents, Source
from data_tools.sources.download import Archive
from realmix_tf.errors import DataError

FOLD_FILE = "stl10_fold_indices.txt"
SHAPE = (96, 96, 3)
_FOLDER = "stl10_binary"

# Size and SHA-256 as published by TensorFlow Datasets 4.9 (stl10/checksums.tsv). The server is
# known to answer https too; the address that was published is the second.
ARCHIVE = Archive(
    "stl10_binary.tar.gz",
    (
        "https://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
        "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
    ),
    2_640_397_119,
    "f31fd99273a1acb8609c8db427cebb1de3f71de77758cdc0e22956e1289b9866",
)


def read(archives: Mapping[str, Path], source: Source) -> Contents:
    """The parts in the order of the archive.

    Raises:
      DataError: the archive is not as it was published.
    """
    path = archives[ARCHIVE.name]
    labels: dict[str, np.ndarray] = {}
    with TarArchive(path, _FOLDER) as tar:
        classes = tar.lines("class_names.txt")
        folds = tar.content("fold_indices.txt")
        _check_folds(folds, source.records["train"], path)
        for role in ("test", "train"):
            content = tar.content(f"{role}_y.bin")
            labels[role] = np.frombuffer(content, np.uint8).astype(np.int64) - 1
            if len(labels[role]) != source.records[role]:
                raise DataError(f"the {role} part has {len(labels[role])} labels", path)
    labels[UNLABELED] = np.full(source.records[UNLABELED], -1, np.int64)

    def blocks(tar: TarArchive, role: str) -> Iterator[Block]:
        height, width, channels = SHAPE
        first = 0
        for rows in tar.rows(f"{role}_X.bin", source.records[role], height * width * channels):
            # Columns run before rows.
            images = rows.reshape(-1, channels, width, height).transpose(0, 3, 2, 1)
            yield Block(images, labels[role][first : first + len(rows)])
            first += len(rows)

    def parts() -> Iterator[tuple[str, Iterator[Block]]]:
        with TarArchive(path, _FOLDER) as tar:
            for role in ("test", "train", UNLABELED):
                yield role, blocks(tar, role)

    return Contents(classes, parts(), {FOLD_FILE: folds})


def _check_folds(content: bytes, records: int, path: Path) -> None:
    """Every line of the fold file is a list of training records."""
    try:
        folds = [[int(word) for word in line.split()] for line in content.splitlines()]
    except ValueError as error:
        raise DataError("the member 'fold_indices.txt' is not a list of numbers", path) from error
    if not folds or not all(0 <= index < records for fold in folds for index in fold):
        raise DataError("the member 'fold_indices.txt' names records that are not there", path)


SOURCES = (
    Source(
        name="stl10",
        shape=SHAPE,
        records={"train": 5_000, "test": 8_000, UNLABELED: 100_000},
        read=read,
        archives=(ARCHIVE,),
        companions=(FOLD_FILE,),
    ),
)
