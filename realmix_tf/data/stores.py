"""Random access to the images of a record file, in memory or from the file.

A set that fits is decoded once and held as uint8. A larger one stays in its (memory-mapped) file
and is decoded as it is read; sampling and resuming are the same in both cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from realmix_tf.data.images import decode_pngs
from realmix_tf.data.records import RecordReader
from realmix_tf.errors import DataError

_DECODE_BATCH = 1024


class ImageStore:
    """Images and labels of chosen records.

    Args:
      reader: an open record file.
      indices: int64 [N], the records to serve, in this order.
      shape: (height, width, channels) every image must have.
      in_memory: decode everything now; otherwise each image when it is asked for.

    Attributes:
      labels: int64 [N], −1 where there is no true label.
      failure: what went wrong inside a tf.data pipeline, which reports such errors only as text.

    Raises:
      DataError: an image that is not a PNG of that shape; the file and record are named.
    """

    def __init__(
        self,
        reader: RecordReader,
        indices: npt.NDArray[np.int64],
        shape: tuple[int, int, int],
        in_memory: bool = True,
    ) -> None:
        self.path = Path(reader.path)
        self.shape = shape
        self.labels = reader.labels[indices]
        self.failure: DataError | None = None
        self._reader, self._indices = reader, indices
        self._images: npt.NDArray[np.uint8] | None = None
        self._tensor: tf.Tensor | None = None
        if in_memory:
            self._images = self._decode_all()

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def in_memory(self) -> bool:
        """Whether the decoded images are held in memory."""
        return self._images is not None

    def images(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.uint8]:
        """uint8 [n, H, W, C], the images ``start … stop − 1``."""
        stop = len(self) if stop is None else min(stop, len(self))
        if self._images is not None:
            return self._images[start:stop]
        return self._read(np.arange(start, stop))

    def batches(self, size: int) -> Iterator[npt.NDArray[np.uint8]]:
        """All images in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.images(start, start + size)

    def gather(self, positions: tf.Tensor) -> tf.Tensor:
        """uint8 [n, H, W, C] for int64 [n] positions, inside a tf.data function."""
        if self._images is not None:
            if self._tensor is None:
                # One copy for the whole pipeline; created outside of any traced function.
                with tf.init_scope(), tf.device("/CPU:0"):
                    self._tensor = tf.constant(self._images)
            return tf.gather(self._tensor, positions)
        images = tf.numpy_function(self._read, [positions], tf.uint8, stateful=False)
        return tf.reshape(images, tf.stack([tf.shape(positions)[0], *self.shape]))

    def _read(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """uint8 [n, H, W, C] from the file."""
        if not len(positions):
            return np.empty((0, *self.shape), np.uint8)
        records = [int(record) for record in self._indices[positions]]
        try:
            images = decode_pngs([self._reader.image(record) for record in records])
        except DataError as error:
            # A position in this batch, where one image is to blame.
            record = f"record {records[int(error.where)]}" if error.where.isdigit() else "a record"
            raise self._unusable(f"{record}: {error.what}") from error
        if images.shape[1:] != self.shape:
            raise self._unusable(f"record {records[0]} is {images.shape[1:]}, not {self.shape}")
        return images

    def _unusable(self, what: str) -> DataError:
        self.failure = DataError(
            what, self.path, "scripts/verify.py on this file, then build it again"
        )
        return self.failure

    def _decode_all(self) -> npt.NDArray[np.uint8]:
        images = np.empty((len(self), *self.shape), np.uint8)
        for start in range(0, len(self), _DECODE_BATCH):
            stop = min(start + _DECODE_BATCH, len(self))
            images[start:stop] = self._read(np.arange(start, stop))
        return images
