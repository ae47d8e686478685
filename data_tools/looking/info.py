"""What a file, a folder or a name is: records, manifests, datasets, splits, pictures, archives."""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_tools.looking.checking import find_parent, parents_of
from data_tools.looking.inputs import FILE_ROLES, SUFFIX, dataset_name, walk
from data_tools.records.split_map import read_split_map
from data_tools.sources import BENCHMARKS
from realmix_tf.data.images import FORMATS, decode_image, find_images
from realmix_tf.data.manifest import Manifest, read_manifest
from realmix_tf.data.names import DatasetName
from realmix_tf.data.records import RecordReader
from realmix_tf.errors import DataError, RealmixError, UsageError, printable
from realmix_tf.files import read_json, sha256_file

MOST_GENERATIONS = 16
SAMPLED_PICTURES = 64
_MOST_JSON_BYTES = 512 << 20
_HEAD_BYTES = 512
_SHORT = 160  # letters of a mapping of counts that is shown on one line
_MANIFEST_SUFFIX = SUFFIX + ".json"
_ORIENTATION = 0x0112
# What the first bytes of a file say, for files that are none of ours.
_MAGIC = (
    (b"\x1f\x8b", "a gzip archive"),
    (b"PK\x03\x04", "a zip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"\x80\x02", "a Python pickle, which is never loaded here"),
    (b"\x80\x03", "a Python pickle, which is never loaded here"),
    (b"\x80\x04", "a Python pickle, which is never loaded here"),
    (b"\x80\x05", "a Python pickle, which is never loaded here"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"MATLAB 5.0", "a MATLAB file"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3", "an SQLite database"),
    (b"<svg", "an SVG drawing"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
)
_ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip", ".mat", ".gz", ".bz2", ".xz")


def data_facts(text: str, data_dir: str) -> dict[str, Any]:
    """Facts about a path, or about a dataset or split by its name.

    Returns:
      A JSON-able mapping; ``kind`` says what it is.

    Raises:
      DataError: it is damaged, or nothing that is known here; the message says what it looks like.
      UsageError: there is no such path, and it can be no name.
    """
    path = Path(text)
    if not os.path.lexists(path) and data_dir and os.path.lexists(Path(data_dir, text)):
        path = Path(data_dir, text)
    if path.is_dir():
        return _of_folder(path)
    if os.path.lexists(path):
        return _of_file(path)
    if "/" in text or text.endswith((SUFFIX, ".json", ".png")):
        raise DataError("there is no such file or folder", text, "check the path")
    if not data_dir:
        raise UsageError(
            f"there is no file or folder {text!r}", "", "--data_dir=FOLDER for a dataset's name"
        )
    return name_facts(dataset_name(text, Path(data_dir)), Path(data_dir))


def describe(facts: dict[str, Any]) -> str:
    """The facts for people, indented."""
    return "\n".join(_lines(facts, ""))


def _lines(value: dict[str, Any], indent: str) -> Iterator[str]:
    plain = {k: v for k, v in value.items() if not _nested(v)}
    width = max((len(printable(str(key))) for key in plain), default=0)
    for key, item in value.items():
        name = printable(str(key)).replace("_", " ") if not indent else printable(str(key))
        if not _nested(item):
            yield f"{indent}{name:<{width}}  {_text(item)}".rstrip()
        elif isinstance(item, dict):
            yield f"{indent}{name}:"
            yield from _lines(item, indent + "  ")
        else:
            yield f"{indent}{name}:"
            for part in item:
                if isinstance(part, dict):
                    first, *others = list(_lines(part, "")) or [""]
                    yield f"{indent}  - {first}"
                    yield from (f"{indent}    {line}" for line in others)
                else:
                    yield f"{indent}  {_text(part)}"


def _nested(value: Any) -> bool:
    if isinstance(value, dict):
        counts = all(type(item) is int for item in value.values())
        return bool(value) and not (counts and len(str(value)) <= _SHORT)
    many = isinstance(value, (list, tuple)) and len(value) > 0
    return many and any(isinstance(item, (dict, list)) or len(str(item)) > 40 for item in value)


def _text(value: Any) -> str:
    if value is None or value in ("", [], {}, ()):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return printable(", ".join(f"{key}: {count}" for key, count in value.items()))
    if isinstance(value, (list, tuple)):
        return printable(", ".join(map(str, value)))
    return printable(f"{value:.6g}" if isinstance(value, float) else str(value))


# Record files, manifests, names, folders of datasets.


def record_facts(path: Path) -> dict[str, Any]:
    """Facts about a record file: counts, hash, and where it comes from.

    Raises:
      DataError: it is damaged.
    """
    with RecordReader(path) as reader:
        manifest = reader.manifest
        labels = np.bincount(reader.labels[reader.labeled], minlength=len(reader.classes))
        return {
            "kind": "record file",
            "path": str(path),
            "dataset": None if manifest is None else manifest.dataset,
            "role": None if manifest is None else manifest.role,
            "image": list(reader.image_shape) if len(reader) or manifest else [],
            "records": len(reader),
            "labeled": int(reader.labeled.sum()),
            "pseudo_labeled": int((reader.pseudo_labels >= 0).sum()),
            "copies": int((reader.sources >= 0).sum()),
            "per_class": dict(zip(reader.classes, labels.tolist(), strict=True)),
            "bytes": path.stat().st_size,
            "sha256": None if manifest is None else manifest.sha256,
            "checked": "framing, layout and counts; scripts/verify.py checks every byte",
            **_origin(path, manifest),
        }


def _origin(path: Path, manifest: Manifest | None) -> dict[str, Any]:
    if manifest is None:
        return {"provenance": "there is no manifest (a file of the original tools?)"}
    facts = {key: value for key, value in manifest.provenance.items() if key != "parents"}
    return {"provenance": facts, "made_from": _parents(path, manifest, set(), 0)}


def _parents(
    path: Path, manifest: Manifest, seen: set[str], generation: int
) -> list[dict[str, Any]]:
    """What a file was made from, what that was made from, and so on."""
    found = []
    for name, digest in parents_of(manifest):
        fact: dict[str, Any] = {"file": name, "sha256": digest}
        found.append(fact)
        parent = find_parent(path, name)
        if parent is None:
            fact["state"] = "not found beside or above this file"
            continue
        try:
            described = read_manifest(parent)
        except RealmixError as error:
            fact["state"] = f"damaged: {error.what}"
            continue
        if described is None:
            fact["state"] = "present, without a manifest"
            continue
        if described.sha256 != digest:
            fact["state"] = "CHANGED: this is another file now"
            continue
        if parent.stat().st_size != described.bytes:
            fact["state"] = "damaged: its size is not what its manifest says"
            continue
        # Its content is not read here; verify does that.
        fact["state"] = "present, the same by its manifest"
        fact["command"] = described.provenance.get("command")
        if digest not in seen and generation < MOST_GENERATIONS:
            above = _parents(parent, described, seen | {digest}, generation + 1)
            if above:
                fact["made_from"] = above
    return found


def _short(path: Path) -> dict[str, Any]:
    """A record file in a few facts, from its manifest where it has one; damage is a fact too."""
    try:
        manifest = read_manifest(path)
        if manifest is not None:
            size = path.stat().st_size
            return {
                "records": manifest.records,
                "labeled": manifest.labeled,
                "image": [manifest.height, manifest.width, manifest.channels],
                "per_class": dict(zip(manifest.classes, manifest.per_class, strict=True)),
                "sha256": manifest.sha256,
                "command": manifest.provenance.get("command"),
                **({} if size == manifest.bytes else {"problem": "its size is not the manifest's"}),
            }
        with RecordReader(path) as reader:
            return {"records": len(reader), "labeled": int(reader.labeled.sum()), "sha256": None}
    except RealmixError as error:
        return {"problem": error.what}
    except OSError:
        return {"problem": "the records are missing"}


def name_facts(name: DatasetName, data_dir: Path) -> dict[str, Any]:
    """Facts about the files of a dataset or a split."""
    if not name.is_split:
        files = [data_dir / f"{name.dataset}-{role}{SUFFIX}" for role in FILE_ROLES]
        extra = sorted((data_dir / "SSL").glob(f"{_literal(name.dataset)}.*@*-label{SUFFIX}"))
        return {
            "kind": "dataset",
            "name": name.dataset,
            "data_dir": str(data_dir),
            "validation": name.valid,
            "sets": {path.name: _short(path) for path in files if path.exists()},
            "splits": [path.name.removesuffix(f"-label{SUFFIX}") for path in extra],
        }
    base = name.without_copies()
    files = [name.label_file(data_dir), base.unlabel_file(data_dir), name.test_file(data_dir)]
    pattern = f"{_literal(name.dataset)}_aug*.{name.seed}@{name.labels}-unlabel{SUFFIX}"
    files += sorted((data_dir / "SSL").glob(pattern))
    facts: dict[str, Any] = {
        "kind": "split",
        "name": str(name),
        "data_dir": str(data_dir),
        "validation": name.valid,
        "sets": {path.name: _short(path) for path in files if path.exists()},
        "missing": [path.name for path in files if not path.exists()],
    }
    map_file = name.map_file(data_dir)
    if map_file.exists():
        facts["map"] = _of_map(map_file)
    label = name.label_file(data_dir)
    try:
        facts |= _origin(label, read_manifest(label))
    except RealmixError as error:
        facts["provenance"] = error.what
    return facts


def _literal(text: str) -> str:
    """For use in a pattern; names of datasets have no other special characters."""
    return text.replace("[", "[[]")


def _of_folder(path: Path) -> dict[str, Any]:
    skipped: list[str] = []
    files = sorted(
        place / name
        for place, folders, names in walk(path, skipped)
        for name in (*folders, *names)
        if name.endswith(SUFFIX) and not name.startswith(".")
    )
    if files:
        return {
            "kind": "folder of datasets",
            "path": str(path),
            "sets": {str(file.relative_to(path)): _short(file) for file in files},
            "skipped": skipped,  # links to folders
        }
    return _of_pictures(path)


def _of_pictures(path: Path) -> dict[str, Any]:
    skipped: list[tuple[str, str]] = []
    entries = find_images(path, skipped)
    readable = [entry for entry in entries if not entry.problem]
    if not entries:
        raise DataError(
            f"there is nothing to look at in this folder ({len(skipped)} hidden or linked entries)",
            path,
            "a folder with pictures, record files, a run or a model",
        )
    folders = Counter(entry.name.rpartition("/")[0] or "." for entry in readable)
    step = max(len(readable) // SAMPLED_PICTURES, 1)
    sample = readable[::step][:SAMPLED_PICTURES]
    formats = Counter(_format(Path(entry.path)) for entry in sample)
    if not set(formats) & set(FORMATS):
        what = ", ".join(dict(formats.most_common(3))) or "no readable file"
        raise DataError(
            f"there are no pictures in this folder; of {len(sample)} files looked at: {what}",
            path,
            "a folder with pictures, record files, a run or a model",
        )
    return {
        "kind": "folder of pictures",
        "path": str(path),
        "files": len(entries),
        "by_folder": dict(sorted(folders.items())),
        "formats": dict(formats.most_common()),
        "formats_from": f"the content of {len(sample)} files",
        "problems": [f"{entry.name}: {entry.problem}" for entry in entries if entry.problem][:20],
        "left_out": [f"{name}: {reason}" for name, reason in skipped[:20]],
    }


# Single files.


def _of_file(path: Path) -> dict[str, Any]:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DataError("the link leads nowhere", path, "check the path") from error
    if not stat.S_ISREG(mode):
        raise DataError("this is no regular file", path, "a file or folder")
    if path.name.endswith(_MANIFEST_SUFFIX):
        return _of_manifest(path)
    if path.name.endswith(SUFFIX):
        return record_facts(path)
    if path.suffix == ".json":
        return _of_json(path)
    if _format(path) in FORMATS:
        return _of_picture(path)
    if path.name.lower().endswith(_ARCHIVE_SUFFIXES):
        return _of_archive(path)
    what = _looks_like(path)
    raise DataError(
        f"this is nothing that is known here; it looks like {what}",
        path,
        "a record file, manifest, picture, checkpoint, run or model",
    )


def _of_manifest(path: Path) -> dict[str, Any]:
    records = path.with_name(path.name.removesuffix(".json"))
    manifest = read_manifest(records)
    if manifest is None:
        raise DataError("there is no such manifest", path)
    present = records.is_file() and records.stat().st_size == manifest.bytes
    return {
        "kind": "manifest",
        "path": str(path),
        "of": records.name if present else f"{records.name}, which is missing or of another size",
        **{
            key: getattr(manifest, key)
            for key in ("dataset", "role", "records", "labeled", "bytes", "sha256", "schema")
        },
        "image": [manifest.height, manifest.width, manifest.channels],
        "per_class": dict(zip(manifest.classes, manifest.per_class, strict=True)),
        **_origin(records, manifest),
    }


def _of_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MOST_JSON_BYTES:
        raise DataError("this JSON file is too large to look at", path)
    if path.name.endswith("-map.json"):
        return _of_map(path)
    value = read_json(path)
    if path.name.endswith("-report.json") and isinstance(value, dict):
        counts = {k: len(v) for k, v in value.items() if isinstance(v, (list, dict))}
        plain = {k: v for k, v in value.items() if not isinstance(v, (list, dict))}
        examples = {k: v[:5] for k, v in value.items() if isinstance(v, list) and v}
        return {"kind": "report of a build", "path": str(path), **plain, "entries": counts,
                "first_entries": examples}  # fmt: skip
    texts = isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
    if texts and value and all(key.isdigit() for key in value):
        return {"kind": "class mapping", "path": str(path), "classes": value}
    keys = f" with {', '.join(map(repr, list(value)[:8]))}" if isinstance(value, dict) else ""
    raise DataError(f"this is JSON{keys}, which is nothing that is known here", path)


def _of_map(path: Path) -> dict[str, Any]:
    ids = read_split_map(path)
    together = np.concatenate(ids)
    return {
        "kind": "map of a split",
        "path": str(path),
        "labeled": len(ids.label),
        "unlabeled": len(ids.unlabel),
        "highest_id": int(together.max(initial=-1)),
        "every_id_once": len(np.unique(together)) == len(together),
        "first_labeled": ids.label[:10].tolist(),
        "first_unlabeled": ids.unlabel[:10].tolist(),
    }


def _format(path: Path) -> str:
    """The picture format that the content says, or what it looks like."""
    try:
        with _quiet(), open(path, "rb") as file, Image.open(file, formats=FORMATS) as image:
            found = image.format or ""
    except Image.DecompressionBombError:
        return "too large a picture"
    except Exception:
        # Damaged headers make the parsers raise nearly anything.
        return _looks_like(path)
    # Phones put a preview behind the picture, which Pillow gives another name.
    return "JPEG" if found == "MPO" else found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings: nothing here decodes a picture that is too large."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _of_picture(path: Path) -> dict[str, Any]:
    with _quiet(), open(path, "rb") as file, Image.open(file, formats=FORMATS) as image:
        facts: dict[str, Any] = {
            "kind": "picture",
            "path": str(path),
            "bytes": path.stat().st_size,
            "format": image.format,
            "mode": image.mode,
            "width": image.width,
            "height": image.height,
            "animated": bool(getattr(image, "is_animated", False)),
        }
        try:
            facts["exif_orientation"] = image.getexif().get(_ORIENTATION)
        except Exception:
            facts["exif_orientation"] = "the EXIF data are damaged"
    notes: list[str] = []
    try:
        with _quiet():
            pixels = decode_image(path, size=None, notes=notes)
    except DataError as error:
        return {**facts, "decoded": f"cannot be used: {error.what}"}
    return {
        **facts,
        "decoded": list(pixels.shape),
        "mean": [round(float(value), 3) for value in pixels.mean((0, 1))],
        "grey": bool((pixels == pixels[:, :, :1]).all()),
        "notes": notes,
    }


def _of_archive(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "kind": "archive",
        "path": str(path),
        "bytes": path.stat().st_size,
        "looks_like": _looks_like(path),
        "sha256": sha256_file(path),
    }
    for name, module in BENCHMARKS.items():
        for source in import_module(f"data_tools.sources.{module}").SOURCES:
            for archive in source.archives:
                if archive.sha256 == facts["sha256"]:
                    return {**facts, "published_as": archive.name, "of": name}
                if archive.name == path.name:
                    facts["published_as"] = (
                        f"{archive.name} of {name}, but altered or cut: {archive.size} bytes, "
                        f"SHA-256 {archive.sha256}"
                    )
    return facts


def _looks_like(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        return f"a file that cannot be read ({(error.strerror or str(error)).lower()})"
    if not head:
        return "an empty file"
    for magic, what in _MAGIC:
        if head.lower().startswith(magic.lower()):
            return what
    if head[257:262] == b"ustar":
        return "a tar archive"
    if b"\0" not in head:
        return "text" if _is_text(head) else "binary data"
    return "binary data"


def _is_text(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # only the last letter was cut
    return True
