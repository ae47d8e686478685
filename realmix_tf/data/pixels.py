"""Decoded pixels of records, a block at a time, and their hashes.

Two records are the same picture when their hashes are equal: however their PNGs were compressed,
the pixels decide.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from realmix_tf.data.images import decode_pngs
from realmix_tf.data.records import RecordReader
from realmix_tf.errors import DataError

BLOCK_BYTES = 2 << 20  # decoded pixels held by each thread at a time

UInt8Array = NDArray[np.uint8]
UInt64Array = NDArray[np.uint64]
Int64Array = NDArray[np.int64]


def pixel_hashes(images: UInt8Array) -> UInt64Array:
    """uint64 [N], a 64-bit BLAKE2b hash of each image's shape and pixels.

    Among a million different pictures the chance that any two agree is below 3e-8.

    Args:
      images: uint8 [N, height, width, channels].
    """
    shape = np.array(images.shape[1:], np.int64).tobytes()
    digests = [
        hashlib.blake2b(image.data, digest_size=8, key=shape).digest()
        for image in np.ascontiguousarray(images)
    ]
    return np.frombuffer(b"".join(digests), np.uint64)


def decode_records(reader: RecordReader, ids: Int64Array) -> UInt8Array:
    """uint8 [n, height, width, channels] of the records ``ids`` (int64 [n], at least one).

    Raises:
      DataError: a record is damaged or of another size; file and record are named.
    """
    try:
        images = decode_pngs([reader.image(i) for i in ids.tolist()])
    except DataError as error:
        # A position among ``ids`` where one image is to blame; else file and record are named.
        if not error.where.isdigit():
            raise
        where = f"{reader.path}, record {ids[int(error.where)]}"
        raise DataError(error.what, where, "build this file again") from error
    if images.shape[1:] != reader.image_shape:
        found, expected = ("×".join(map(str, s)) for s in (images.shape[1:], reader.image_shape))
        raise DataError(
            f"an image of {found} among images of {expected}",
            f"{reader.path}, record {ids[0]}",
            "build this file again",
        )
    return images


def decoded_blocks(
    reader: RecordReader, ids: Int64Array
) -> Iterator[tuple[Int64Array, UInt8Array]]:
    """The records ``ids`` in order, in blocks: their ids int64 [n] and their decoded images.

    Threads decode some blocks ahead; what is held does not grow with the number of records.

    Raises:
      DataError: as ``decode_records``.
    """
    size = max(BLOCK_BYTES // math.prod(reader.image_shape), 1) if len(ids) else 1
    _ = reader.index  # computed here, not by several threads at once
    workers = os.cpu_count() or 1
    waiting: deque[tuple[Int64Array, Future[UInt8Array]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for first in range(0, len(ids), size):
                block = ids[first : first + size]
                waiting.append((block, pool.submit(decode_records, reader, block)))
                if len(waiting) > workers:
                    block, future = waiting.popleft()
                    yield block, future.result()
            while waiting:
                block, future = waiting.popleft()
                yield block, future.result()
        finally:
            for _block, future in waiting:
                future.cancel()


class RecordHashes:
    """Hashes of the pixels of a file's records, computed when they are asked for and kept.

    Args:
      reader: an open record file.
    """

    def __init__(self, reader: RecordReader) -> None:
        self._reader = reader
        self._hashes = np.zeros(len(reader), np.uint64)
        self._known = np.zeros(len(reader), np.bool_)

    def __call__(self, ids: Int64Array) -> UInt64Array:
        """uint64 [n] of the records ``ids`` (int64 [n]).

        Raises:
          DataError: as ``decode_records``.
        """
        for block, images in decoded_blocks(self._reader, ids[~self._known[ids]]):
            self._hashes[block] = pixel_hashes(images)
            self._known[block] = True
        return self._hashes[ids]
