"""Writing record files: whole and with a manifest, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from realmix_tf.data import manifest as manifests
from realmix_tf.data.examples import Int64Array, decode_example
from realmix_tf.data.manifest import Manifest
from realmix_tf.data.records import BLOCK_BYTES, frame_of
from realmix_tf.errors import DataError, UsageError
from realmix_tf.files import TEMPORARY_PREFIX, open_exclusively, resource_error, sync_directory

_BLOCKS_WAITING = 8  # blocks between reading them and having them hashed and written
_SYNC_BYTES = 256 << 20  # written between flushes, so that little is left to wait for at the end
_SWITCH_SECONDS = 5e-4


class RecordWriter:
    """Writes a record file and its manifest; both appear only when the block ends well.

    The records go to a hidden file in the same folder, which is flushed and renamed; then the
    manifest is written, the commit mark. A second process that writes the same file is refused;
    what a killed one left is used up.

    Args:
      path: the file to write.
      dataset: for the manifest, as are ``role``, ``classes`` (names; position = label), ``shape``
        (height, width, channels) and ``provenance``.
      overwrite: replace a file that exists.

    Raises:
      UsageError: the file exists and ``overwrite`` is false.
      ResourceError: it cannot be written, or another process is writing it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        dataset: str,
        role: str,
        classes: Sequence[str],
        shape: tuple[int, int, int],
        provenance: Mapping[str, Any],
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self.records = 0
        self.labeled = 0
        self.bytes = 0
        self.provenance = dict(provenance)
        self._dataset, self._role, self._classes = dataset, role, tuple(classes)
        self._shape = shape
        self._overwrite = overwrite
        self._per_class = [0] * len(self._classes)
        self._digest = hashlib.sha256()
        self._temporary = self.path.with_name(f"{TEMPORARY_PREFIX}{self.path.name}.part")
        self._made: list[Path] = []
        self._file: int | None = None
        self._unsynced = 0
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._lanes: list[_Lane] = []
        self.manifest: Manifest | None = None

    def __enter__(self) -> RecordWriter:
        if not self._overwrite:
            refuse_existing(self.path)
        try:
            self._made = [folder for folder in self.path.absolute().parents if not folder.exists()]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open_exclusively(self._temporary, self.path)
            os.ftruncate(self._file, 0)
        except OSError as error:
            self._remove_made()
            raise resource_error(error, self.path) from error
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        try:
            if kind is None:
                self._commit()
        except OSError as error:
            raise resource_error(error, self.path) from error
        finally:
            self._abandon()

    def write(self, payload: bytes, label: int | None = None) -> None:
        """Appends a serialised example.

        Args:
          payload: from ``encode_example``.
          label: its true label, −1 for none, where the caller knows it; else it is parsed.
        """
        if label is None:
            label = decode_example(payload).label
        self._append(frame_of(payload), label)

    def write_frame(self, frame: bytes | memoryview, label: int | None = None) -> None:
        """Appends a record that is framed already, unchanged (see ``write``)."""
        if label is None:
            label = decode_example(bytes(frame)[12:-4]).label
        self._append(bytes(frame), label)

    def write_frames(self, frames: bytes | Sequence[bytes], labels: Int64Array) -> None:
        """Appends records that are framed already, as ``RecordReader.frames`` gives them.

        Args:
          frames: about a MiB of them, joined or apart.
          labels: int64 [n], the true label of each, −1 for none.
        """
        most = int(labels.max(initial=-1))
        if most >= len(self._per_class):
            place = self.records + int(np.argmax(labels >= len(self._per_class)))
            raise self._outside(most, place)
        self._flush()
        self._put(frames if isinstance(frames, bytes) else b"".join(frames))
        self.records += len(labels)
        counts = np.bincount(labels[labels >= 0], minlength=len(self._per_class))
        self.labeled += int(counts.sum())
        for label in np.flatnonzero(counts).tolist():
            self._per_class[label] += int(counts[label])

    def _append(self, frame: bytes, label: int) -> None:
        if self._file is None:
            raise ValueError("the writer is not open")
        if label >= len(self._per_class):
            raise self._outside(label, self.records)
        self._gathered.append(frame)
        self._gathered_bytes += len(frame)
        if self._gathered_bytes >= BLOCK_BYTES:
            self._flush()
        self.records += 1
        if label >= 0:
            self.labeled += 1
            self._per_class[label] += 1

    def _outside(self, label: int, record: int) -> DataError:
        return DataError(
            f"label {label} is none of the {len(self._per_class)} classes",
            f"{self.path}, record {record}",
        )

    def _flush(self) -> None:
        """Passes on what was gathered record by record."""
        if self._gathered:
            block = b"".join(self._gathered)
            self._gathered, self._gathered_bytes = [], 0
            self._put(block)

    def _put(self, block: bytes) -> None:
        """Has a block hashed and written, both beside what the caller does meanwhile."""
        if self._file is None:
            raise ValueError("the writer is not open")
        if not self._lanes:
            _quick_switches.begin()
            self._lanes = [_Lane(self._digest.update), _Lane(self._write_block)]
        try:
            for lane in self._lanes:
                lane.put(block)
        except OSError as error:
            raise resource_error(error, self.path) from error
        self.bytes += len(block)

    def _write_block(self, block: bytes) -> None:
        if self._file is None:
            raise ValueError("the writer is not open")
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        self._unsynced += len(block)
        if self._unsynced >= _SYNC_BYTES:
            self._unsynced = 0
            os.fsync(self._file)

    def _commit(self) -> None:
        if self._file is None:
            raise ValueError("the writer is not open")
        self._flush()
        for lane in self._lanes:
            lane.finish()
        os.fsync(self._file)
        height, width, channels = self._shape
        manifest = Manifest(
            schema=manifests.SCHEMA,
            dataset=self._dataset,
            role=self._role,
            classes=self._classes,
            height=height,
            width=width,
            channels=channels,
            records=self.records,
            labeled=self.labeled,
            bytes=self.bytes,
            sha256=self._digest.hexdigest(),
            per_class=tuple(self._per_class),
            provenance=self.provenance,
        )
        # From here until the manifest is written, no reader takes the file for a finished one,
        # neither the old records nor the new.
        manifests.mark_incomplete(self.path)
        os.replace(self._temporary, self.path)
        sync_directory(self.path.parent)
        manifests.write_manifest(self.path, manifest)
        self.manifest = manifest

    def _abandon(self) -> None:
        if self._file is None:
            return
        for lane in self._lanes:
            lane.close()
        if self._lanes:
            self._lanes = []
            _quick_switches.end()
        # After a commit the temporary name is gone; whoever took it since keeps it.
        if self.manifest is None:
            with contextlib.suppress(OSError):
                self._temporary.unlink()
        with contextlib.suppress(OSError):
            os.close(self._file)
        self._file = None
        if self.manifest is None:
            self._remove_made()

    def _remove_made(self) -> None:
        """Removes the folders that were made for the file, as far as nothing else is in them."""
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def refuse_existing(path: str | os.PathLike[str]) -> None:
    """Checks that a record file may be written.

    Raises:
      UsageError: there is one already. One whose writing was interrupted does not count.
    """
    path = Path(path)
    present = path.exists() or manifests.manifest_path(path).exists()
    if present and not manifests.is_marked_incomplete(path):
        raise UsageError("this file exists already", path, "--overwrite, or another name")


class _Lane:
    """One kind of work on blocks, done in their order by a thread of its own.

    Hashing and writing release the interpreter's lock, so they run beside everything else.
    """

    def __init__(self, work: Callable[[bytes], object]) -> None:
        self._work = work
        # Queues without Python code of their own: they need the lock least.
        self._blocks: SimpleQueue[bytes | None] = SimpleQueue()
        self._places: SimpleQueue[None] = SimpleQueue()
        for _ in range(_BLOCKS_WAITING):
            self._places.put(None)
        self._error: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, block: bytes) -> None:
        """Hands over a block; waits while many are under way, and raises what went wrong."""
        self._places.get()
        self._raise()
        self._blocks.put(block)

    def finish(self) -> None:
        """Waits for everything handed over; raises what went wrong."""
        self._blocks.put(None)
        self._thread.join()
        self._raise()

    def close(self) -> None:
        """Ends the thread without doing what still waits."""
        self._closed = True
        self._blocks.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (block := self._blocks.get()) is not None:
            if self._error is None and not self._closed:
                try:
                    self._work(block)
                except BaseException as error:
                    self._error = error
            # The next block may need the memory of this one.
            del block
            self._places.put(None)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


class _QuickSwitches:
    """Has Python's threads take turns every half millisecond while lanes are at work.

    Between two blocks a lane needs the interpreter's lock for microseconds, for which it would
    wait up to 5 ms each time; that halves the speed of a copy.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._usual = 0.0

    def begin(self) -> None:
        """Lanes begin their work."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._usual = sys.getswitchinterval()
                sys.setswitchinterval(min(self._usual, _SWITCH_SECONDS))

    def end(self) -> None:
        """They ended; the last one's end restores the usual interval."""
        with self._lock:
            self._users -= 1
            if not self._users:
                sys.setswitchinterval(self._usual)


_quick_switches = _QuickSwitches()
