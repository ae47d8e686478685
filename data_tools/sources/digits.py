"""The 1,797 handwritten digits that scikit-learn ships: 8×8, grey, ten classes, no network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.checking import verify_file
from data_tools.ordering import class_mixed_order
from data_tools.outputs import OutputSet, writable
from data_tools.sources import COMMAND, SourceResult
from realmix_tf.data.images import encode_pngs
from realmix_tf.data.manifest import provenance
from realmix_tf.data.records import RecordWriter, encode_example
from realmix_tf.errors import DataError, printable
from realmix_tf.files import read_json, write_json

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


def build(data_dir: Path, overwrite: bool = False) -> SourceResult:
    """Writes 1,297 training and 500 test records, stratified, always the same.

    A complete and verified set is left alone; a damaged one is built again.

    Raises:
      ResourceError: the records cannot be written.
    """
    train = data_dir / f"{NAME}-train.tfrecord"
    test = data_dir / f"{NAME}-test.tfrecord"
    mapping = data_dir / f"{NAME}_class_mappings.json"
    files = (train, test, mapping)
    facts: dict[str, object] = {"train": RECORDS - TEST_RECORDS, "test": TEST_RECORDS}
    if any(path.exists() for path in files) and not overwrite:
        problem = _problem(train, test, mapping)
        if not problem:
            return SourceResult(NAME, files, True, {**facts, "state": "already there and verified"})
        facts["state"] = f"built again, because {printable(problem)}"
    writable(data_dir)
    # What is there was shown to be damaged, or may be replaced.
    OutputSet([test], train, COMMAND, overwrite=True).open()
    images, labels = load()
    pngs = encode_pngs(images)
    order = class_mixed_order(labels, ORDER_SEED).tolist()
    write_json(mapping, dict(enumerate(CLASSES)))
    parts = ((test, "test", order[:TEST_RECORDS]), (train, "train", order[TEST_RECORDS:]))
    for path, role, ids in parts:
        with RecordWriter(
            path,
            dataset=NAME,
            role=role,
            classes=CLASSES,
            shape=(8, 8, 1),
            provenance=provenance(
                f"{COMMAND} {NAME}",
                seed=ORDER_SEED,
                more={"origin": "sklearn.datasets.load_digits"},
            ),
            overwrite=True,
        ) as writer:
            for i in ids:
                writer.write(encode_example(pngs[i], int(labels[i])), int(labels[i]))
    return SourceResult(NAME, files, False, facts)


def _problem(train: Path, test: Path, mapping: Path) -> str:
    """Why the set that is there cannot be used; empty when it can."""
    for path in (train, test, mapping):
        if not path.exists():
            return f"{path.name} is missing"
    for path in (train, test):
        status = verify_file(path)
        if not status.ok or not status.manifest:
            return f"{path.name}: {status.problem or 'it has no manifest'}"
    try:
        names = read_json(mapping)
    except DataError as error:
        return f"{mapping.name}: {error.what}"
    expected = {str(i): name for i, name in enumerate(CLASSES)}
    return "" if names == expected else f"{mapping.name} differs"
