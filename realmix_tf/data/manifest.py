"""Manifests: what a record file holds, in a JSON file beside it.

The manifest is written after the records have their final name, so it is the commit mark. While a
file is being replaced its place is taken by a mark that no reader accepts.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realmix_tf import version
from realmix_tf.errors import DataError, RealmixError
from realmix_tf.files import read_json, resource_error, sha256_file, write_json

SCHEMA = 1
ROLES = ("train", "test", "label", "unlabel", "unlabeled", "extra")
# How pictures come to the size of a dataset, and of a network: as a whole, or its central part.
RESIZES = ("stretch", "center")
MAX_SIDE = 65_536
MAX_CLASSES = 1_000_000
MAX_MANIFEST_BYTES = 256 << 20

_INCOMPLETE = {"incomplete": True}
_HEXADECIMAL = re.compile(r"[0-9a-f]{64}")
_NOT_NEGATIVE = ("records", "labeled", "bytes")


@dataclass(frozen=True)
class Manifest:
    """What a record file holds.

    Attributes:
      schema: version of this layout, 1.
      dataset: name of the dataset.
      role: one of ``ROLES``.
      classes: names of the classes; position = label.
      height: of every image, in pixels.
      width: of every image, in pixels.
      channels: of every image, 1 or 3.
      records: how many.
      labeled: how many of them have a true label.
      bytes: size of the record file.
      sha256: of the record file, hexadecimal.
      per_class: labelled records of each class.
      provenance: command, seed, parents (file name and sha256), tool version, and what else is
        worth knowing, such as ``class_map`` (old id → new id of a filter), ``map_file``, or
        ``resize`` (one of ``RESIZES``; ``stretch`` where it is not said).
    """

    schema: int
    dataset: str
    role: str
    classes: tuple[str, ...]
    height: int
    width: int
    channels: int
    records: int
    labeled: int
    bytes: int
    sha256: str
    per_class: tuple[int, ...]
    provenance: dict[str, Any]

    @property
    def resize(self) -> str:
        """How the pictures came to their size, one of ``RESIZES``."""
        return str(self.provenance.get("resize", RESIZES[0]))


def manifest_path(record_path: str | os.PathLike[str]) -> Path:
    """``x.tfrecord`` → ``x.tfrecord.json``."""
    path = Path(record_path)
    return path.with_name(path.name + ".json")


def read_manifest(record_path: str | os.PathLike[str]) -> Manifest | None:
    """The manifest of a record file; None when it has none (a file of the original tools).

    Raises:
      DataError: the manifest is damaged, written by a newer version, or marks a file whose
        writing was interrupted.
      ResourceError: it may not be read.
    """
    path = manifest_path(record_path)
    try:
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise resource_error(error, path) from error
    if size > MAX_MANIFEST_BYTES:
        raise DataError("this is too large to be a manifest", path)
    return parse_manifest(read_json(path), path)


def write_manifest(record_path: str | os.PathLike[str], manifest: Manifest) -> None:
    """Writes the manifest of a record file atomically."""
    write_json(manifest_path(record_path), dataclasses.asdict(manifest))


def mark_incomplete(record_path: str | os.PathLike[str]) -> None:
    """Invalidates the manifest of a record file that is about to be replaced."""
    write_json(manifest_path(record_path), _INCOMPLETE)


def is_marked_incomplete(record_path: str | os.PathLike[str]) -> bool:
    """Whether the writing of this file was interrupted at its very end."""
    path = manifest_path(record_path)
    try:
        return path.stat().st_size < 1024 and read_json(path) == _INCOMPLETE
    except (OSError, RealmixError):
        return False


def parse_manifest(value: Any, where: object) -> Manifest:
    """Checks a decoded JSON value and turns it into a manifest.

    Raises:
      DataError: a field is missing, unknown, of the wrong type or out of range.
    """
    remedy = "build this file again"
    if not isinstance(value, dict):
        raise DataError("the manifest is not a JSON object", where, remedy)
    if value == _INCOMPLETE:
        raise DataError(
            "the writing of this file was interrupted",
            where,
            "run the command that writes it again",
        )
    schema = value.get("schema")
    if type(schema) is not int or schema < 1:
        raise DataError("the manifest names no schema version", where, remedy)
    if schema > SCHEMA:
        raise DataError(
            f"the manifest has schema version {schema}, this program knows up to {SCHEMA}",
            where,
            "a newer version of this program",
        )
    fields = {field.name for field in dataclasses.fields(Manifest)}
    if set(value) != fields:
        wrong = sorted(fields - set(value)) or sorted(set(value) - fields)
        state = "lacks" if fields - set(value) else "has unknown"
        raise DataError(f"the manifest {state} {', '.join(map(str, wrong))}", where, remedy)
    problem = _problem(value)
    if problem:
        raise DataError(f"the manifest is not valid: {problem}", where, remedy)
    return Manifest(
        **{
            **value,
            "classes": tuple(value["classes"]),
            "per_class": tuple(value["per_class"]),
        }
    )


def provenance(
    command: str,
    *,
    seed: int | None = None,
    parents: Sequence[str | os.PathLike[str]] = (),
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a manifest says about where a file came from.

    Args:
      command: the tool and what it was told; names of files, not whole paths.
      seed: where one was used.
      parents: record files it was made from; their SHA-256 comes from their manifests, or is
        computed where there is none.
      more: further facts.

    Raises:
      DataError: the parents' pictures came to their size in different ways.
    """
    resize = _resize_of(parents)
    return {
        "command": command,
        "seed": seed,
        "parents": [{"file": Path(path).name, "sha256": record_sha256(path)} for path in parents],
        "tool_version": version.__version__,
        **({} if resize == RESIZES[0] else {"resize": resize}),
        **(more or {}),
    }


def _resize_of(parents: Sequence[str | os.PathLike[str]]) -> str:
    """How the pictures of record files came to their size, which models are told."""
    manifests = [read_manifest(path) for path in parents]
    found = [RESIZES[0] if manifest is None else manifest.resize for manifest in manifests]
    for path, resize in zip(parents, found, strict=True):
        if resize != found[0]:
            raise DataError(
                f"the pictures of one file were resized by {resize!r}, of another by {found[0]!r}",
                path,
                "build both with the same --crop",
            )
    return found[0] if found else RESIZES[0]


def record_sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a record file, from its manifest where it has one."""
    manifest = read_manifest(path)
    return sha256_file(path) if manifest is None else manifest.sha256


def _problem(value: dict[str, Any]) -> str:
    for name in ("dataset", "role", "sha256"):
        if not isinstance(value[name], str):
            return f"{name} is not a text"
    for name in ("height", "width", "channels", *_NOT_NEGATIVE):
        if type(value[name]) is not int:
            return f"{name} is not a whole number"
    if value["role"] not in ROLES:
        return f"role {value['role']!r} is none of {', '.join(ROLES)}"
    if not _HEXADECIMAL.fullmatch(value["sha256"]):
        return "sha256 is not 64 hexadecimal digits"
    if not all(1 <= value[name] <= MAX_SIDE for name in ("height", "width")):
        return f"the image size {value['height']}x{value['width']} is out of range"
    if value["channels"] not in (1, 3):
        return f"channels is {value['channels']}, not 1 or 3"
    if not all(0 <= value[name] < 2**62 for name in _NOT_NEGATIVE):
        return "a count is out of range"
    return _class_problem(value)


def _class_problem(value: dict[str, Any]) -> str:
    classes, counts = value["classes"], value["per_class"]
    if not isinstance(classes, (list, tuple)) or not all(isinstance(c, str) for c in classes):
        return "classes is not a list of texts"
    if not isinstance(counts, (list, tuple)) or not all(type(n) is int for n in counts):
        return "per_class is not a list of whole numbers"
    if not 1 <= len(classes) <= MAX_CLASSES or len(set(classes)) != len(classes):
        return "classes is empty, too long or names a class twice"
    if len(counts) != len(classes) or min(counts) < 0 or sum(counts) != value["labeled"]:
        return "per_class does not add up to labeled"
    if value["labeled"] > value["records"]:
        return "labeled is larger than records"
    if not isinstance(value["provenance"], dict):
        return "provenance is not an object"
    if value["provenance"].get("resize", RESIZES[0]) not in RESIZES:
        return f"resize is none of {', '.join(RESIZES)}"
    return ""
