"""From the pictures of a published set to its record files: the part all such sources share."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_tools.looking.checking import verify_file
from data_tools.outputs import NewFiles, OutputSet
from data_tools.parallel import in_order, threads
from data_tools.plan import FileUse, Plan, estimate_seconds, files, resident_bytes
from data_tools.progress import Progress
from data_tools.sources import COMMAND, SourceResult
from data_tools.sources.archives import BLOCK_BYTES, rows_of_block
from data_tools.sources.download import (
    Access,
    Archive,
    at_hand,
    bytes_to_download,
    fetch,
    require_at_hand,
)
from realmix_tf.data import manifest as manifests
from realmix_tf.data.examples import encode_rest, encode_with
from realmix_tf.data.images import encode_pngs, png_bytes_estimate
from realmix_tf.data.names import check_dataset
from realmix_tf.data.record_writer import RecordWriter
from realmix_tf.data.records import frame_of
from realmix_tf.errors import DataError, printable
from realmix_tf.files import (
    atomic_write,
    read_json,
    require_space,
    require_writable,
    sha256_file,
    write_json,
)

UNLABELED = "unlabeled"

_RECORD_BYTES = 80  # of a record besides its image, with the framing
# Blocks of pixels that are under way: read, waiting, encoded, and their copies in between.
_BLOCKS_A_THREAD = 6


@dataclass(frozen=True)
class BuildOptions:
    """What a build is told.

    Attributes:
      data_dir: folder of the datasets.
      overwrite: build again what is complete, and replace what other tools made.
      access: how archives may be had.
      size: (height, width) in pixels to bring images to, where a source can; None keeps theirs.
      tfds_dir: folder of TensorFlow Datasets; its own default when None.
    """

    data_dir: Path
    overwrite: bool = False
    access: Access = field(default_factory=Access)
    size: tuple[int, int] | None = None
    tfds_dir: Path | None = None

    @property
    def archives(self) -> Path:
        """Where downloads are kept."""
        return self.data_dir / "archives"


class Block(NamedTuple):
    """Some images, uint8 [n, height, width, channels], and labels, int64 [n] (−1 for none)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Contents:
    """What a source reads.

    Attributes:
      classes: names of the classes; position = label.
      parts: roles with their blocks of records, in any order of roles.
      companions: further files of the set, by name.
      unreadable: filled while the parts are read, with (picture, reason) of unlabelled pictures
        that had to be left out.
    """

    classes: tuple[str, ...]
    parts: Iterator[tuple[str, Iterable[Block]]]
    companions: Mapping[str, bytes] = field(default_factory=dict)
    unreadable: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """A published set.

    Attributes:
      name: of the dataset.
      shape: height, width and channels of its images.
      records: how many it has, by role, "train" first.
      read: takes the paths of the archives by name, and this description.
      archives: what it is published as.
      companions: names of the further files it has.
      title: how a user asks for it; its name when empty.
      lacks_labels: roles in which records may be without a label.
      seed: of the order of the records, where it is not the published one.
      origin: what its manifests say about where it comes from.
      inputs: files on this machine that are read, besides the archives.
      notes: what is to be said about it.
    """

    name: str
    shape: tuple[int, int, int]
    records: Mapping[str, int]
    read: Callable[[Mapping[str, Path], Source], Contents]
    archives: tuple[Archive, ...] = ()
    companions: tuple[str, ...] = ()
    title: str = ""
    lacks_labels: tuple[str, ...] = (UNLABELED,)
    seed: int | None = None
    origin: Mapping[str, object] = field(default_factory=dict)
    inputs: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What the manifests of this set say it was made by."""
        return f"{COMMAND} {self.title or self.name}"

    def record_files(self, data_dir: Path) -> dict[str, Path]:
        """The record files by role."""
        return {role: data_dir / f"{self.name}-{role}.tfrecord" for role in self.records}

    def mapping_file(self, data_dir: Path) -> Path:
        """The file that names the classes."""
        return data_dir / f"{self.name}_class_mappings.json"

    def report_file(self, data_dir: Path) -> Path:
        """The file that lists what could not be used."""
        return data_dir / f"{self.name}-report.json"

    def files(self, data_dir: Path) -> tuple[Path, ...]:
        """All files of a complete set."""
        companions = (data_dir / name for name in self.companions)
        return (*self.record_files(data_dir).values(), self.mapping_file(data_dir), *companions)

    def bytes_of(self, role: str) -> int:
        """An upper estimate of a record file."""
        return self.records[role] * (png_bytes_estimate(*self.shape) + _RECORD_BYTES)


def build(source: Source, options: BuildOptions) -> SourceResult:
    """Builds a set, unless it is there, complete and verified, or other tools made it.

    The files appear together, after all of them were read to the end; until then an older set
    stays as it is.

    Raises:
      DataError: an archive, or what it holds, is not what was published; a set that other tools
        made is damaged.
      ResourceError: an archive cannot be had, or the records cannot be written.
    """
    left_alone, facts = _looked_at(source, options)
    if left_alone is not None:
        return left_alone
    _require_room(source, options)
    archives = fetch(source.archives, options.archives, options.access)
    contents = source.read(archives, source)
    counts = _write(source, contents, options)
    notes = list(source.notes)
    if contents.unreadable:
        notes.append(
            f"{len(contents.unreadable)} unlabelled images could not be read and were left out; "
            f"{source.report_file(options.data_dir).name} lists them"
        )
    if notes:
        facts["notes"] = notes
    return SourceResult(source.name, source.files(options.data_dir), False, {**counts, **facts})


def plan(source: Source, options: BuildOptions) -> Plan:
    """What ``build`` would do; the time comes from encoding some pictures.

    Raises:
      DataError, ResourceError: as ``build``, except for what only the network tells.
    """
    left_alone, facts = _looked_at(source, options)
    if left_alone is not None:
        present = [path for path in left_alone.files if path.exists()]
        return Plan(files(present), (), resident_bytes(), None, left_alone.facts)
    _require_room(source, options)
    reads = [*files(source.inputs)]
    writes: list[FileUse] = []
    for archive in source.archives:
        path = at_hand(archive, options.archives, options.access)
        place = str(path) if path else options.access.addresses(archive)[0]
        reads.append(FileUse(place, archive.size))
        if path is None:
            writes.append(FileUse(str(options.archives / archive.name), archive.size))
    for role, file in source.record_files(options.data_dir).items():
        writes.append(FileUse(str(file), source.bytes_of(role)))
    download = bytes_to_download(source.archives, options.archives, options.access)
    notes = list(source.notes)
    if download:
        notes.append("the time is without the download, whose server was not tried")
    return Plan(
        reads=tuple(reads),
        writes=tuple(writes),
        memory=resident_bytes() + _BLOCKS_A_THREAD * BLOCK_BYTES * (threads() + 2),
        seconds=estimate_seconds(sum(source.records.values()), lambda: _sample(source)),
        facts={**source.records, "download": download, **facts},
        notes=tuple(notes),
    )


def _looked_at(
    source: Source, options: BuildOptions
) -> tuple[SourceResult | None, dict[str, object]]:
    """The result if there is nothing to do, and what is to be said if there is."""
    check_dataset(source.name)
    options.access.check()
    if options.overwrite:
        return None, {}
    facts: dict[str, object] = dict(source.records)
    stranger = _stranger(source, options.data_dir)
    if stranger:
        # How many records such files have is theirs to say.
        facts = {"state": f"left alone, because {stranger}; --overwrite replaces it"}
    else:
        problem = _problem(source, options.data_dir)
        if problem == _ABSENT:
            return None, {}
        if problem:
            return None, {"state": f"built again, because {printable(problem)}"}
        facts["state"] = "already there and verified"
    present = tuple(path for path in source.files(options.data_dir) if path.exists())
    return SourceResult(source.name, present, True, facts), {}


def _stranger(source: Source, data_dir: Path) -> str:
    """Why the files that are there are not ours to replace; empty when they are.

    Raises:
      DataError: they are not, and are damaged; or their manifests are of a later version.
    """
    for path in source.record_files(data_dir).values():
        reason = _other_origin(path, source.command)
        if reason:
            status = verify_file(path)
            if not status.ok:
                raise DataError(
                    f"the file is damaged, and {reason}: {status.problem}", path, "--overwrite"
                )
            return f"{path.name} {reason}"
    return ""


def _other_origin(path: Path, command: str) -> str:
    if not manifests.manifest_path(path).exists():
        return "has no manifest: other tools made it" if path.exists() else ""
    try:
        manifest = manifests.read_manifest(path)
    except DataError as error:
        if _is_newer(path):
            raise DataError(error.what, path, f"{error.remedy}, or --overwrite") from error
        return ""
    made_by = "" if manifest is None else str(manifest.provenance.get("command", ""))
    return "" if made_by == command else f"was made by {printable(made_by)!r}"


def _is_newer(path: Path) -> bool:
    """Whether the manifest is of a later version than this program's."""
    try:
        value = read_json(manifests.manifest_path(path))
    except DataError:
        return False
    schema = value.get("schema") if isinstance(value, dict) else None
    return isinstance(schema, int) and schema > manifests.SCHEMA


_ABSENT = "it is not there"


def _problem(source: Source, data_dir: Path) -> str:
    """Why the set that is there cannot be used; empty when it can."""
    every = source.files(data_dir)
    if not any(path.exists() or manifests.manifest_path(path).exists() for path in every):
        return _ABSENT
    for path in every:
        if not path.exists():
            return f"{path.name} is missing"
    for role, path in source.record_files(data_dir).items():
        status = verify_file(path)
        if not status.ok:
            return f"{path.name}: {status.problem}"
        # Unlabelled pictures that could not be read were left out, and that was reported.
        whole = status.records == source.records[role]
        if not whole and not source.report_file(data_dir).exists():
            return f"{path.name} has {status.records} records instead of {source.records[role]}"
    return _companion_problem(source, data_dir)


def _companion_problem(source: Source, data_dir: Path) -> str:
    train = manifests.read_manifest(source.record_files(data_dir)["train"])
    if train is None:
        return "the training records have no manifest"
    mapping = source.mapping_file(data_dir)
    try:
        names = read_json(mapping)
    except DataError as error:
        return f"{mapping.name}: {error.what}"
    if names != {str(label): name for label, name in enumerate(train.classes)}:
        return f"{mapping.name} differs"
    digests = train.provenance.get("companions", {})
    for name in source.companions:
        if sha256_file(data_dir / name) != digests.get(name):
            return f"{name} differs"
    return ""


def _require_room(source: Source, options: BuildOptions) -> None:
    """Raises ``ResourceError`` unless everything can be had, will fit and can be written."""
    require_at_hand(source.archives, options.archives, options.access)
    download = bytes_to_download(source.archives, options.archives, options.access)
    require_writable(options.data_dir)
    if download:
        require_writable(options.archives)
    records = sum(source.bytes_of(role) for role in source.records)
    count = sum(source.records.values())
    archives = " and its archives" if download else ""
    require_space(
        options.data_dir, download + records, f"{source.name} ({count} records{archives})"
    )


def _write(source: Source, contents: Contents, options: BuildOptions) -> dict[str, object]:
    """Writes all files of the set; returns the number of records by role."""
    paths = source.record_files(options.data_dir)
    origin = {**source.origin}
    if source.archives:
        origin["archives"] = [
            {"file": archive.name, "sha256": archive.sha256} for archive in source.archives
        ]
    if contents.companions:
        origin["companions"] = {
            name: hashlib.sha256(data).hexdigest() for name, data in contents.companions.items()
        }
    provenance = manifests.provenance(source.command, seed=source.seed, more=origin)
    outputs = OutputSet(
        [path for role, path in paths.items() if role != "train"],
        paths["train"],
        COMMAND,
        overwrite=True,  # what may not be replaced was found before
    )
    with ExitStack() as stack:
        new = stack.enter_context(NewFiles(options.data_dir))
        total = sum(source.records.values())
        progress = stack.enter_context(Progress(total, "images", f"writing {source.name}"))
        writers = {
            role: stack.enter_context(
                RecordWriter(
                    path,
                    dataset=source.name,
                    role=role,
                    classes=contents.classes,
                    shape=source.shape,
                    provenance=provenance,
                    overwrite=True,
                )
            )
            for role, path in paths.items()
        }
        for role, blocks in contents.parts:
            _write_part(source, role, blocks, writers[role], progress)
        _check_counts(source, contents, {role: item.records for role, item in writers.items()})
        # Only now, when all was read, does an older set lose its validity. The writers commit in
        # reverse: the training file, the mark of the set, is the last.
        new.about_to_write(_all_files(source, options.data_dir))
        outputs.open()
        write_json(source.mapping_file(options.data_dir), dict(enumerate(contents.classes)))
        for name, data in contents.companions.items():
            with atomic_write(options.data_dir / name) as file:
                file.write(data)
        _write_report(source, contents, options)
    return {role: writer.records for role, writer in writers.items()}


def _all_files(source: Source, data_dir: Path) -> Iterator[Path]:
    """Everything that a build may write, the marks of complete files before these."""
    yield from map(manifests.manifest_path, source.record_files(data_dir).values())
    yield from source.files(data_dir)
    yield source.report_file(data_dir)


def _write_part(
    source: Source, role: str, blocks: Iterable[Block], writer: RecordWriter, progress: Progress
) -> None:
    for block, frames in in_order(_framed, blocks):
        labels = block.labels.tolist()
        if min(labels) < 0 and role not in source.lacks_labels:
            first = writer.records + next(i for i, label in enumerate(labels) if label < 0)
            raise DataError(
                "a label is out of range",
                f"{source.name}, {role}, record {first}",
                "fetch the archive again",
            )
        for frame, label in zip(frames, labels, strict=True):
            writer.write_frame(frame, label)
        progress.add(len(frames))


def _framed(block: Block) -> tuple[Block, list[bytes]]:
    """The records of a block, as they stand in the file."""
    pngs = encode_pngs(np.ascontiguousarray(block.images))
    labels = block.labels.tolist()
    return block, [
        frame_of(encode_with(png, _rest(label))) for png, label in zip(pngs, labels, strict=True)
    ]


@cache
def _rest(label: int) -> bytes:
    return encode_rest(label, labeled=label >= 0)


def _check_counts(source: Source, contents: Contents, counts: Mapping[str, int]) -> None:
    if sum(counts.values()) + len(contents.unreadable) == sum(source.records.values()):
        return
    for role, expected in source.records.items():
        if counts[role] != expected:
            raise DataError(
                f"the {role} part has {counts[role]} records instead of {expected}",
                source.name,
                "fetch the archive again",
            )


def _write_report(source: Source, contents: Contents, options: BuildOptions) -> None:
    path = source.report_file(options.data_dir)
    if contents.unreadable:
        listed = [
            {"path": printable(name), "reason": reason, "action": "left out"}
            for name, reason in contents.unreadable
        ]
        write_json(path, {"unreadable": listed})
    else:
        path.unlink(missing_ok=True)


def _sample(source: Source) -> int:
    """Encodes some pictures; of the set itself where no archive has to be opened for it."""
    if source.archives:
        rows = rows_of_block(int(np.prod(source.shape)))
        noise = np.random.Generator(np.random.Philox(0)).integers(
            0, 256, (rows, *source.shape), np.uint8
        )
        blocks: Iterable[Block] = [Block(noise, np.zeros(rows, np.int64))] * 2
    else:
        _, found = next(source.read({}, source).parts)
        blocks = itertools.islice(found, 2)
    return sum(len(frames) for _, frames in in_order(_framed, blocks))
