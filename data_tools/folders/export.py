"""Records back to image files: a folder a class, the PNG bytes exactly as stored."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_tools.file_names import folder_names
from data_tools.folders.staging import StagedFolder
from data_tools.looking import sheets
from data_tools.looking.sheets import Row
from data_tools.plan import FileUse, Plan, estimate_seconds, files, resident_bytes
from data_tools.progress import Progress
from realmix_tf.data.images import decode_png, encode_png
from realmix_tf.data.records import RecordReader
from realmix_tf.errors import DataError, UsageError, printable
from realmix_tf.files import require_space

COMMAND = "tfrecord_to_image"
MARK = "classes.json"
UNLABELED = "unlabeled"
# Rows and columns of the picture of all classes.
GRID_CLASSES, GRID_PICTURES = 40, 10

_BLOCK = 4096  # what file systems give to a file at least

Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class ExportOptions:
    """What to write.

    Attributes:
      source: the record file.
      output: the folder to make.
      first: only this many first records; None for all.
      grid: also a PNG file of the first images of every class, outside of ``output``; None for
        none.
      overwrite: replace a folder that this tool wrote, and that file.
    """

    source: Path
    output: Path
    first: int | None = None
    grid: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
      output: the folder.
      folders: files of each folder, by its name.
      classes: what ``classes.json`` says of them: ``id``, ``name``, ``folder``, ``records``.
      notes: remarks.
    """

    output: Path
    folders: dict[str, int]
    classes: list[dict[str, Any]]
    notes: tuple[str, ...]


def export(options: ExportOptions) -> ExportResult:
    """Writes ``<class>/<number>.png`` and ``unlabeled/<number>.png``, and ``classes.json``.

    The number is the position in the record file. Records with a pseudo label count as
    unlabelled. The folder appears when it is complete.

    Raises:
      UsageError: the folder or the file of pictures exists and may not be replaced, or an
        impossible number of records.
      DataError: the records are damaged, or there are none.
      ResourceError: the files do not fit or cannot be written.
    """
    with _Export(options) as work:
        require_space(options.output, work.bytes_on_disk, f"{work.count} files")
        width = len(str(work.count - 1))
        with work.staged as staged:
            with Progress(work.count, "images", "writing") as progress:
                for i, place in enumerate(work.places.tolist()):
                    png = work.reader.image(i)
                    staged.write(f"{work.folders[place]}/{i:0{width}}.png", png)
                    progress.add(1)
            # Drawn before the folder appears: an image may turn out to be damaged.
            grid = work.grid() if options.grid else None
            staged.commit(work.mark())
            if grid is not None and options.grid:
                sheets.save(grid, options.grid)
        return ExportResult(staged.output, work.per_folder, work.classes, work.notes)


def plan_export(options: ExportOptions) -> Plan:
    """What ``export`` would do.

    Raises:
      UsageError, DataError, ResourceError: as ``export``.
    """
    with _Export(options) as work:
        work.staged.check()
        require_space(options.output, work.bytes_on_disk, f"{work.count} files")
        return Plan(
            reads=files([options.source]),
            writes=tuple(work.writes()),
            memory=resident_bytes(),
            seconds=estimate_seconds(work.count, work.sample),
            facts={
                "files": work.count,
                "folders": {printable(name): count for name, count in work.per_folder.items()},
            },
            notes=work.notes,
        )


class _Export:
    """The records and where they go; in a ``with`` block.

    Attributes:
      reader: the records.
      count: how many are written.
      folders: names of the folders: a class each, then that of the unlabelled.
      places: int64 [count], positions in ``folders``.
      staged: the output.
      notes: remarks.
    """

    def __init__(self, options: ExportOptions) -> None:
        if options.first is not None and options.first < 1:
            raise UsageError(f"--first is {options.first}", "", "at least 1")
        self.staged = StagedFolder(options.output, MARK, COMMAND, options.overwrite)
        self._options = options
        self.notes: tuple[str, ...] = ()

    def __enter__(self) -> _Export:
        self._check_grid()
        self.staged.check()
        self.reader = reader = RecordReader(self._options.source)
        if not len(reader):
            raise DataError("the file has no records", self._options.source)
        self.count = min(self._options.first or len(reader), len(reader))
        labels = reader.labels[: self.count]
        # The original tools gave unlabelled pools the dummy label 0.
        if reader.manifest is None and reader.path.name.endswith("-unlabeled.tfrecord"):
            labels = np.full(self.count, -1, np.int64)
            self.notes = ("an unlabelled pool by its name, its labels are ignored",)
        self.folders = [*folder_names(reader.classes, (UNLABELED, MARK)), UNLABELED]
        self.places: Int64Array = np.where(labels < 0, len(self.folders) - 1, labels)
        return self

    def __exit__(self, *exception: object) -> None:
        self.reader.close()

    def _check_grid(self) -> None:
        grid = self._options.grid
        sheets.check_target(grid, self._options.overwrite)
        if grid is not None and Path(os.path.realpath(grid)).is_relative_to(self.staged.output):
            raise UsageError(
                "the pictures of every class would lie among the files of --output",
                grid,
                "--grid outside of it",
            )

    @property
    def bytes_on_disk(self) -> int:
        """An upper estimate of what the files take."""
        index = self.reader.index
        sizes = (index.image_ends - index.image_starts)[: self.count]
        return int((-(-sizes // _BLOCK) * _BLOCK).sum()) + 60 * self.count + _BLOCK

    def writes(self) -> Iterator[FileUse]:
        """What is written, with upper estimates."""
        yield FileUse(str(self._options.output), self.bytes_on_disk)
        if self._options.grid is not None:
            rows = len(np.unique(self.places)[:GRID_CLASSES])
            yield FileUse(str(self._options.grid), rows * GRID_PICTURES * self._cell**2 * 3)

    @property
    def per_folder(self) -> dict[str, int]:
        """Files of each folder that has any."""
        counts = np.bincount(self.places, minlength=len(self.folders)).tolist()
        return {name: count for name, count in zip(self.folders, counts, strict=True) if count}

    @property
    def classes(self) -> list[dict[str, Any]]:
        """The classes as JSON-able data, with their true names."""
        counts = np.bincount(self.places, minlength=len(self.folders)).tolist()
        return [
            {"id": i, "name": name, "folder": folder, "records": count}
            for i, (name, folder, count) in enumerate(
                zip(self.reader.classes, self.folders[:-1], counts[:-1], strict=True)
            )
        ]

    def mark(self) -> dict[str, Any]:
        """What ``classes.json`` says besides the files."""
        unlabeled = int((self.places == len(self.folders) - 1).sum())
        return {
            "source": printable(self.reader.path.name),
            "records": self.count,
            "classes": self.classes,
            "unlabeled": {"folder": UNLABELED, "records": unlabeled},
        }

    def grid(self) -> Image.Image:
        """A picture with the first images of every folder."""
        rows = []
        names = [*self.reader.classes, "(no label)"]
        for place in np.unique(self.places)[:GRID_CLASSES].tolist():
            ids = np.flatnonzero(self.places == place)
            pictures = [self._decoded(i) for i in ids[:GRID_PICTURES].tolist()]
            rows.append(Row((names[place], f"{len(ids)} images"), pictures))
        return sheets.sheet([self.reader.path.name], rows, self._cell, 180)

    @property
    def _cell(self) -> int:
        height, width, _ = self.reader.image_shape
        return min(max(height, width, 64), 128)

    def sample(self) -> int:
        """Reads some records; decoding and encoding them stands for writing the files."""
        some = range(min(self.count, 200))
        for i in some:
            encode_png(self._decoded(i))
        return len(some)

    def _decoded(self, i: int) -> NDArray[np.uint8]:
        """The pixels of a record: uint8 [height, width, 1 or 3]."""
        try:
            return decode_png(self.reader.image(i))
        except DataError as error:
            where = error.where or f"{self.reader.path}, record {i}"
            raise DataError(error.what, where, error.remedy or "build this file again") from error
