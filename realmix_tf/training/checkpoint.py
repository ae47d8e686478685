"""Checkpoints: complete, checked, and never half there.

A checkpoint ``model.ckpt-<images>`` is a TensorFlow tensor bundle with plain names plus a JSON file
that lists sizes and SHA-256 of the bundle's files and everything that is no tensor. The JSON is
written last: it is the commit mark. A file that fails its check makes the reader step back to the
checkpoint before, with a warning; only when there is none left does it give up, and it never starts
afresh by itself.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from realmix_tf.errors import CheckpointError, RealmixError, ResourceError
from realmix_tf.files import (
    TEMPORARY_PREFIX,
    read_json,
    resource_error,
    sha256_file,
    sync_directory,
    write_json,
)

SCHEMA = 1
_NAME = re.compile(r"model\.ckpt-(\d{8,})\.json")
_DATA, _INDEX = ".data-00000-of-00001", ".index"
_SAVING = ".saving"  # lies beside a bundle while its mark is not written yet
_SAVING_NAME = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}(model\.ckpt-\d{{8,}})\.\d+\.saving")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that passed its checks.

    Attributes:
      prefix: path without the endings.
      images: labelled images seen.
      host: what the loop stored beside the tensors.
    """

    prefix: Path
    images: int
    host: dict[str, Any]


def prefix_for(folder: Path, images: int) -> Path:
    """``folder/model.ckpt-00016384`` for 16384 images."""
    return folder / f"model.ckpt-{images:08d}"


def size(variables: Mapping[str, Any]) -> int:
    """Bytes of a checkpoint's tensors.

    Args:
      variables: name → variable, as ``Engine.variables``.
    """
    return sum(tf.convert_to_tensor(variable).numpy().nbytes for variable in variables.values())


def save(folder: Path, images: int, variables: Mapping[str, Any], host: dict[str, Any]) -> Path:
    """Writes a checkpoint and returns its prefix.

    Args:
      folder: created if missing.
      images: labelled images seen; names the checkpoint.
      variables: name → variable, as ``Engine.variables``.
      host: JSON-able state of the loop.

    Raises:
      ResourceError: the disk is full or may not be written; the checkpoints before are untouched.
    """
    prefix = prefix_for(folder, images)
    temporary = folder / f"{TEMPORARY_PREFIX}{prefix.name}.{os.getpid()}"
    names = list(variables)
    renaming = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tf.raw_ops.SaveV2(
            prefix=str(temporary),
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tf.convert_to_tensor(variables[name]) for name in names],
        )
        described = {}
        for ending in (_DATA, _INDEX):
            part = _sibling(temporary, ending)
            descriptor = os.open(part, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            described[ending] = {"bytes": part.stat().st_size, "sha256": sha256_file(part)}
        # Only now, with the new bundle safe on the disk, does an old one of this name go.
        _sibling(temporary, _SAVING).touch()
        renaming = True
        with contextlib.suppress(FileNotFoundError):
            _sibling(prefix, ".json").unlink()
        for ending in (_DATA, _INDEX):
            os.replace(_sibling(temporary, ending), _sibling(prefix, ending))
        sync_directory(folder)
        mark = {"schema": SCHEMA, "images": images, "files": described, "host": host}
        write_json(_sibling(prefix, ".json"), mark)
    except OSError as error:
        raise resource_error(error, prefix) from error
    except tf.errors.ResourceExhaustedError as error:
        raise resource_error(OSError(28, "no space"), prefix) from error
    except tf.errors.OpError as error:
        raise ResourceError(f"cannot be written: {error.message}", prefix) from error
    finally:
        if renaming:
            _drop_unmarked(prefix)
        for leftover in folder.glob(f"{temporary.name}*"):
            with contextlib.suppress(OSError):
                leftover.unlink()
    return prefix


def check(prefix: Path) -> Checkpoint:
    """Checks a checkpoint's files against its commit mark.

    Raises:
      CheckpointError: it is incomplete, damaged, or of another version.
    """
    try:
        mark = read_json(_sibling(prefix, ".json"))
        if not isinstance(mark, dict) or mark.get("schema") != SCHEMA:
            raise CheckpointError(f"this checkpoint is not of version {SCHEMA}", prefix)
        if set(mark["files"]) != {_DATA, _INDEX}:
            raise CheckpointError("its commit mark does not list its two files", prefix)
        for ending, expected in mark["files"].items():
            part = _sibling(prefix, ending)
            if part.stat().st_size != expected["bytes"] or sha256_file(part) != expected["sha256"]:
                raise CheckpointError("this file of the checkpoint is damaged", part)
        return Checkpoint(prefix, int(mark["images"]), dict(mark["host"]))
    except CheckpointError:
        raise
    except (RealmixError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"this checkpoint is incomplete or damaged: {error}", prefix
        ) from error


def committed(folder: Path) -> list[Path]:
    """Prefixes with a commit mark, oldest first."""
    if not folder.is_dir():
        return []
    found = [
        (int(match[1]), name) for name in os.listdir(folder) if (match := _NAME.fullmatch(name))
    ]
    return [folder / name.removesuffix(".json") for _, name in sorted(found)]


def newest(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that passes its checks; None when there never was one.

    Raises:
      CheckpointError: there are checkpoints but none can be used.
    """
    prefixes = committed(folder)
    for prefix in reversed(prefixes):
        try:
            return check(prefix)
        except CheckpointError as error:
            warn(f"warning: {error}; falling back to the checkpoint before")
    # A bundle whose mark is gone is evidence of an earlier run, not of a fresh folder.
    if prefixes or (folder.is_dir() and any(n.endswith(_INDEX) for n in os.listdir(folder))):
        raise CheckpointError(
            "none of the checkpoints can be used", folder, "--fresh to start again from nothing"
        )
    return None


def read(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint by name.

    Raises:
      CheckpointError: the bundle cannot be read.
    """
    try:
        reader = tf.train.load_checkpoint(str(checkpoint.prefix))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tf.errors.OpError, ValueError, IndexError, RuntimeError) as error:
        raise CheckpointError(f"cannot be read: {error}", checkpoint.prefix) from error


def restore(checkpoint: Checkpoint, variables: Mapping[str, Any]) -> None:
    """Gives every variable its saved value; both sides must match completely.

    Raises:
      CheckpointError: a name or shape on one side only; nothing has been assigned then.
    """
    values = read(checkpoint)
    missing, extra = sorted(set(variables) - set(values)), sorted(set(values) - set(variables))
    if missing or extra:
        name = (missing or extra)[0]
        side = "lacks" if missing else "holds an unknown"
        raise CheckpointError(
            f"the checkpoint is of another model: it {side} {name!r} "
            f"({len(missing)} missing, {len(extra)} unknown)",
            checkpoint.prefix,
            "the flags the run was started with, or another --train_dir",
        )
    for name, variable in variables.items():
        if tuple(values[name].shape) != tuple(variable.shape):
            raise CheckpointError(
                f"the checkpoint is of another model: {name!r} has shape "
                f"{tuple(values[name].shape)}, expected {tuple(variable.shape)}",
                checkpoint.prefix,
                "the flags the run was started with, or another --train_dir",
            )
    for name, variable in variables.items():
        variable.assign(values[name])


def prune(folder: Path, keep: int, protect: set[int]) -> None:
    """Removes the oldest checkpoints beyond the last ``keep``; ``protect`` lists images to spare.

    Nothing is removed before the newest has been read back and passed its checks.
    """
    prefixes = committed(folder)
    if len(prefixes) <= keep:
        return
    check(prefixes[-1])
    for prefix in prefixes[:-keep]:
        if int(prefix.name.rpartition("-")[2]) in protect:
            continue
        # The mark goes first: without it the rest no longer counts as a checkpoint.
        for ending in (".json", _INDEX, _DATA):
            with contextlib.suppress(FileNotFoundError):
                _sibling(prefix, ending).unlink()


def clean(folder: Path) -> None:
    """Removes temporary files that earlier, killed processes of this project left here."""
    if folder.is_dir():
        for name in os.listdir(folder):
            if match := _SAVING_NAME.fullmatch(name):
                _drop_unmarked(folder / match[1])
        for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
            with contextlib.suppress(OSError):
                path.unlink()


def _drop_unmarked(prefix: Path) -> None:
    """Removes the parts of a save that did not get as far as its mark."""
    if not _sibling(prefix, ".json").exists():
        for ending in (_INDEX, _DATA):
            with contextlib.suppress(OSError):
                _sibling(prefix, ending).unlink()


def _sibling(prefix: Path, ending: str) -> Path:
    return prefix.with_name(prefix.name + ending)
