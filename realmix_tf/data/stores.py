"""Random access to the images of a record file, in memory or from the file.

A set that fits is decoded once and held as uint8. A larger one stays in its (memory-mapped) file
and is decoded as it is read; sampling and resuming are the same in both cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from realmix_tf.data.records import RecordReader
from realmix_tf.errors import DataError

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
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

    Raises:
      DataError: an image that is not a PNG of that shape; the file and record are named.
    """

    def __init__(
        self,
        reader: RecordReader,
        indices: np.ndarray,
        shape: tuple[int, int, int],
        in_memory: bool = True,
    ) -> None:
        self.path = Path(reader.path)
        self.shape = shape
        self.labels = reader.labels[indices]
        self._reader, self._indices = reader, indices
        self._images: np.ndarray | None = None
        self._tensor: tf.Tensor | None = None
        if in_memory:
            self._images = self._decode_all()

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def in_memory(self) -> bool:
        """Whether the decoded images are held in memory."""
        return self._images is not None

    def images(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """uint8 [n, H, W, C], the images ``start … stop − 1``."""
        stop = len(self) if stop is None else min(stop, len(self))
        if self._images is not None:
            return self._images[start:stop]
        return self._decode(self._pngs(np.arange(start, stop)))

    def batches(self, size: int) -> Iterator[np.ndarray]:
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
        pngs = tf.numpy_function(self._pngs, [positions], tf.string, stateful=False)
        images = tf.map_fn(
            lambda png: tf.io.decode_png(png, channels=self.shape[2]),
            pngs,
            fn_output_signature=tf.uint8,
        )
        return tf.reshape(images, tf.stack([tf.shape(positions)[0], *self.shape]))

    def _pngs(self, positions: np.ndarray) -> np.ndarray:
        found = np.empty(len(positions), object)
        for place, position in enumerate(positions):
            record = int(self._indices[position])
            found[place] = self._checked(self._reader.image(record), record)
        return found

    def _checked(self, png: bytes, record: int) -> bytes:
        # TensorFlow's decoder accepts more formats than PNG and trusts the size in the header.
        height, width, _ = self.shape
        size = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
        if not png.startswith(_PNG_MAGIC) or size != (width, height):
            raise DataError(
                f"record {record} is not a PNG of {height}×{width} pixels",
                self.path,
                "scripts/verify.py on this file, then build it again",
            )
        return png

    def _decode(self, pngs: np.ndarray) -> np.ndarray:
        dataset = tf.data.Dataset.from_tensor_slices(pngs.astype(object))
        return np.concatenate([*self._decoded(dataset, len(pngs))] or [self._none()])

    def _decode_all(self) -> np.ndarray:
        images = np.empty((len(self), *self.shape), np.uint8)

        def pngs() -> Iterator[bytes]:
            for record in self._indices:
                yield self._checked(self._reader.image(int(record)), int(record))

        dataset = tf.data.Dataset.from_generator(
            pngs, output_signature=tf.TensorSpec([], tf.string)
        )
        start = 0
        for block in self._decoded(dataset, len(self)):
            images[start : start + len(block)] = block
            start += len(block)
        return images

    def _decoded(self, pngs: tf.data.Dataset, count: int) -> Iterator[np.ndarray]:
        channels = self.shape[2]
        decoded = pngs.map(
            lambda png: tf.ensure_shape(tf.io.decode_png(png, channels=channels), self.shape),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        try:
            yield from decoded.batch(_DECODE_BATCH).prefetch(2).as_numpy_iterator()
        except tf.errors.InvalidArgumentError as error:
            raise DataError(
                f"one of these {count} images cannot be decoded: {error.message.splitlines()[0]}",
                self.path,
                "scripts/verify.py on this file, then build it again",
            ) from error

    def _none(self) -> np.ndarray:
        return np.empty((0, *self.shape), np.uint8)
