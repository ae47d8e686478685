"""Sets of outputs that belong together, and where outputs may lie."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from realmix_tf.data import manifest as manifests
from realmix_tf.data.record_writer import refuse_existing
from realmix_tf.errors import DataError, UsageError
from realmix_tf.files import remove, require_writable


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


def writable(folder: Path) -> None:
    """Makes a folder and checks, before hours of work, that files can be written there.

    Raises:
      ResourceError: they cannot.
    """
    require_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
