"""The 1,797 handwritten digits that scikit-learn ships: 8×8, grey, ten classes, no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.records.ordering import class_mixed_order
from data_tools.sources import SourceResult, building
from data_tools.sources.building import Block, BuildOptions, Contents, Source
from realmix_tf.errors import DataError

NAME = "digits"
RECORDS = 1797
TEST_RECORDS = 500
ORDER_SEED = 0
CLASSES = tuple(map(str, range(10)))


def load() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The images, uint8 [1797, 8, 8, 1] in 0..255, and labels, int64 [1797].

    Raises:
      DataError: scikit-learn has other digits than those known.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    if images.shape != (RECORDS, 8, 8, 1):
        raise DataError(f"scikit-learn's digits have the shape {images.shape}", "load_digits")
    return images, labels


def read(archives: Mapping[str, Path], source: Source) -> Contents:
    """Both parts, stratified and class-mixed, always the same.

    Raises:
      DataError: as ``load``.
    """
    images, labels = load()
    order = class_mixed_order(labels, ORDER_SEED)

    def parts() -> Iterator[tuple[str, list[Block]]]:
        for role, ids in (("test", order[:TEST_RECORDS]), ("train", order[TEST_RECORDS:])):
            yield role, [Block(images[ids], labels[ids])]

    return Contents(CLASSES, parts())


SOURCES = (
    Source(
        name=NAME,
        shape=(8, 8, 1),
        records={"train": RECORDS - TEST_RECORDS, "test": TEST_RECORDS},
        read=read,
        seed=ORDER_SEED,
        origin={"origin": "sklearn.datasets.load_digits"},
    ),
)


def build(data_dir: Path, overwrite: bool = False) -> SourceResult:
    """Writes 1,297 training and 500 test records.

    A complete and verified set is left alone; a damaged one is built again.

    Raises:
      ResourceError: the records cannot be written.
    """
    return building.build(SOURCES[0], BuildOptions(data_dir, overwrite))
