"""The map of a split: which ids of its input became which records."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from realmix_tf.data.manifest import Manifest
from realmix_tf.errors import DataError
from realmix_tf.files import read_json

MAX_BYTES = 4 << 30

Int64Array = NDArray[np.int64]


class SplitMap(NamedTuple):
    """Ids in the order of the records: int64 [labelled] and int64 [unlabelled]."""

    label: Int64Array
    unlabel: Int64Array


def read_split_map(path: str | os.PathLike[str]) -> SplitMap:
    """Reads a split's ``-map.json``.

    Raises:
      DataError: it is missing, damaged, or no such map.
    """
    if os.path.exists(path) and os.path.getsize(path) > MAX_BYTES:
        raise DataError("this is too large to be the map of a split", path)
    value = read_json(path)
    parts = []
    for key in ("label", "unlabel"):
        ids = value.get(key) if isinstance(value, dict) else None
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < 1 << 62 for i in ids):
            raise DataError(
                f"this is no map of a split: {key!r} is no list of ids",
                path,
                "make the split again",
            )
        parts.append(np.array(ids, np.int64))
    return SplitMap(*parts)


def map_beside(record_file: Path, manifest: Manifest | None) -> Path | None:
    """The map that a split's record file names in its manifest, if it is there."""
    name = None if manifest is None else manifest.provenance.get("map_file")
    # Only a plain file name: a manifest may come from anywhere.
    if not isinstance(name, str) or not name.endswith(".json") or Path(name).name != name:
        return None
    path = record_file.with_name(name)
    return path if path.is_file() else None
