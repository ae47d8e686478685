"""Whether the files of a split belong together, by what their manifests say of their making."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from realmix_tf.data.manifest import Manifest, record_sha256
from realmix_tf.data.records import RecordReader
from realmix_tf.errors import DataError

SPLIT_COMMAND = "create_split"


def check_split(
    labeled: RecordReader, pool: RecordReader | None, copies: RecordReader | None
) -> list[str]:
    """Checks that the files of a split were made by one draw, and the copies from its pictures.

    Files without a manifest, and those that other tools than ours or further steps made, such as a
    filter, say nothing that could be compared.

    Args:
      labeled: the labelled file.
      pool: the unlabelled file, where there is one.
      copies: augmented copies, where there are some.

    Returns:
      Remarks: the dataset was built again since.

    Raises:
      DataError: the draw was interrupted, the two files are of different draws, or the copies are
        of another unlabelled file.
    """
    again = "scripts/create_split.py again with --overwrite"
    draw = _drawn(labeled.manifest)
    if draw is not None:
        name = str(draw.get("map_file", ""))
        map_file = labeled.path.with_name(Path(name).name) if name else None
        if map_file is not None and not map_file.exists():
            raise DataError("the split is incomplete, its map is missing", map_file, again)
        other = None if pool is None else _drawn(pool.manifest)
        if pool is not None and other is not None and _draw_of(draw) != _draw_of(other):
            raise DataError(
                f"this file is of another draw than {labeled.path.name}", pool.path, again
            )
    if copies is not None and copies.manifest is not None and pool is not None:
        parents = _parents(copies.manifest.provenance)
        if parents.get(pool.path.name, record_sha256(pool.path)) != record_sha256(pool.path):
            raise DataError(
                f"these copies were made from another {pool.path.name}",
                copies.path,
                "scripts/make_aug_copy.py again with --overwrite",
            )
    return [] if draw is None else _rebuilt(labeled.path, draw)


def _drawn(manifest: Manifest | None) -> dict[str, Any] | None:
    """The provenance of a file that create_split wrote; None of any other."""
    if manifest is None:
        return None
    words = str(manifest.provenance.get("command", "")).split()
    return manifest.provenance if words[:1] == [SPLIT_COMMAND] else None


def _draw_of(provenance: dict[str, Any]) -> tuple[object, ...]:
    return provenance.get("command"), provenance.get("parents")


def _parents(provenance: dict[str, Any]) -> dict[str, str]:
    """File name → SHA-256 of what a file was made from."""
    parents = provenance.get("parents")
    found = {}
    for item in parents if isinstance(parents, list) else []:
        if isinstance(item, dict) and isinstance(item.get("file"), str):
            found[item["file"]] = str(item.get("sha256", ""))
    return found


def _rebuilt(label_file: Path, draw: dict[str, Any]) -> list[str]:
    notes = []
    for name, digest in _parents(draw).items():
        # A plain name, as a manifest may come from anywhere; splits lie in a folder of the dataset.
        present = label_file.parent.parent / Path(name).name
        try:
            changed = present.is_file() and record_sha256(present) != digest
        except DataError:
            changed = True
        if changed:
            notes.append(f"{name} is not the one that this split was made from")
    return notes
