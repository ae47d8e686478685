"""Sets of outputs that belong together, and where outputs may lie."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from realmix_tf.data import manifest as manifests
from realmix_tf.data.record_writer import refuse_existing
from realmix_tf.errors import DataError, RealmixError, UsageError
from realmix_tf.files import remove


class OutputSet:
    """Files that belong together, one of which is the mark that all are complete.

    The mark is written last. Where it is missing, the other files are leftovers of an interrupted
    run of the same command and are replaced; files of other origin are never.

    Args:
      records: the record files, without the mark.
      mark: the last file, a record file or JSON.
      command: the tool's name as its manifests state it.
      overwrite: replace files that exist.
    """

    def __init__(
        self, records: Sequence[Path], mark: Path, command: str, overwrite: bool = False
    ) -> None:
        self.records, self.mark = list(records), mark
        self._command, self.overwrite = command, overwrite

    def check(self) -> None:
        """Raises ``UsageError`` if something of value would be replaced without permission."""
        if self.overwrite:
            return
        refuse_existing(self.mark)
        for path in self.records:
            if not self._is_leftover(path):
                refuse_existing(path)

    def open(self) -> None:
        """Checks, and takes the mark away before the first file changes."""
        self.check()
        if self.mark.suffix == ".tfrecord":
            if self.mark.exists():
                manifests.mark_incomplete(self.mark)
        else:
            remove(self.mark)

    def _is_leftover(self, path: Path) -> bool:
        if not path.exists():
            return False
        try:
            manifest = manifests.read_manifest(path)
        except DataError:
            return manifests.is_marked_incomplete(path)
        origin = "" if manifest is None else str(manifest.provenance.get("command", ""))
        return origin.split(" ")[0] == self._command


class NewFiles:
    """Files that are removed again when the block fails, unless they were there before it.

    A first build that fails leaves nothing; one that was to replace an older set leaves what
    ``OutputSet`` tells for leftovers.

    Args:
      folder: where they go; it is removed too if it was not there and nothing else is in it.
    """

    def __init__(self, folder: Path) -> None:
        self._new: list[Path] = []
        place = folder.absolute()
        self._made = [path for path in (place, *place.parents) if not path.exists()]

    def __enter__(self) -> NewFiles:
        return self

    def about_to_write(self, paths: Iterable[Path]) -> None:
        """Names files before they are written, while nobody else may write them."""
        self._new += [path for path in paths if not os.path.lexists(path)]

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is not None:
            for path in self._new:
                with contextlib.suppress(RealmixError):
                    remove(path)
            for path in self._made:
                with contextlib.suppress(OSError):
                    path.rmdir()


def outside_inputs(
    outputs: Iterable[Path],
    inputs: Iterable[str | os.PathLike[str]],
    remedy: str = "another --data_dir",
) -> None:
    """Checks that no output would become an input of the next run.

    Raises:
      UsageError: an output lies inside an input folder.
    """
    roots = [Path(os.path.realpath(folder)) for folder in inputs]
    for output in outputs:
        place = Path(os.path.realpath(output))
        for root in roots:
            if place.is_relative_to(root):
                raise UsageError("the output would lie inside an input folder", root, remedy)
