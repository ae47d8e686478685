"""Archives of exactly the published layouts, but of a few images."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import struct
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.io
from numpy.typing import NDArray

from data_tools.sources import get_source
from data_tools.sources.building import BuildOptions, Source
from data_tools.sources.download import Archive


class Expected(NamedTuple):
    """What the records of a role must hold: uint8 [n, height, width, channels], int64 [n]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


class Tiny(NamedTuple):
    """A published set with tiny archives, what they hold, and the names of the classes."""

    source: Source
    parts: dict[str, Expected]
    classes: tuple[str, ...]


CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
STL10_CLASSES = (
    "airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck",
)  # fmt: skip


def make(name: str, folder: Path) -> Tiny:
    """Writes the tiny archives of a benchmark set into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    makers = {
        "cifar10": cifar10,
        "cifar100": cifar100,
        "svhn": svhn,
        "svhn_noextra": svhn,
        "stl10": stl10,
        "fashion_mnist": fashion_mnist,
    }
    source = get_source(name, BuildOptions(folder))
    parts, classes = makers[name](folder, source)
    return Tiny(
        dataclasses.replace(
            source,
            archives=pinned(folder, source.archives),
            records={role: len(parts[role].labels) for role in source.records},
        ),
        parts,
        classes,
    )


def pinned(folder: Path, archives: Sequence[Archive]) -> tuple[Archive, ...]:
    """The archives with size and SHA-256 of the files of these names in ``folder``."""
    return tuple(
        dataclasses.replace(
            archive,
            size=(folder / archive.name).stat().st_size,
            sha256=hashlib.sha256((folder / archive.name).read_bytes()).hexdigest(),
        )
        for archive in archives
    )


def pictures(count: int, shape: tuple[int, ...], classes: int, seed: int) -> Expected:
    """Random images and labels."""
    random = np.random.RandomState(seed)
    images = random.randint(0, 256, (count, *shape)).astype(np.uint8)
    return Expected(images, random.randint(0, classes, count).astype(np.int64))


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    """A ``.tar.gz`` with these members, and the folder of the first one, in this order."""
    with tarfile.open(path, "w:gz") as tar:
        top = tarfile.TarInfo(next(iter(members)).split("/")[0])
        top.type = tarfile.DIRTYPE
        tar.addfile(top)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def _cifar_rows(part: Expected, coarse: bool = False) -> bytes:
    """A row: the labels, then all of red, green and blue, row by row."""
    rows = []
    for image, label in zip(part.images, part.labels, strict=True):
        head = bytes((label // 5, label)) if coarse else bytes((label,))
        rows.append(head + image.transpose(2, 0, 1).tobytes())
    return b"".join(rows)


def cifar10(folder: Path, source: Source) -> tuple[dict[str, Expected], tuple[str, ...]]:
    """Five batches and a test batch, in the published archive's disorder."""
    train, test = pictures(20, (32, 32, 3), 10, 1), pictures(6, (32, 32, 3), 10, 2)
    batches = {
        f"data_batch_{i + 1}.bin": _cifar_rows(
            Expected(train.images[4 * i : 4 * i + 4], train.labels[4 * i : 4 * i + 4])
        )
        for i in range(5)
    }
    members = {
        **batches,
        "test_batch.bin": _cifar_rows(test),
        "batches.meta.txt": ("\n".join(CIFAR10_CLASSES) + "\n\n").encode(),
        "readme.html": b"<meta>",
    }
    order = ("data_batch_1.bin", "batches.meta.txt", "data_batch_3.bin", "data_batch_4.bin",
             "test_batch.bin", "readme.html", "data_batch_5.bin", "data_batch_2.bin")  # fmt: skip
    write_tar(
        folder / source.archives[0].name,
        {f"cifar-10-batches-bin/{name}": members[name] for name in order},
    )
    return {"train": train, "test": test}, CIFAR10_CLASSES


def cifar100(folder: Path, source: Source) -> tuple[dict[str, Expected], tuple[str, ...]]:
    """Two parts with coarse and fine labels."""
    train, test = pictures(12, (32, 32, 3), 100, 3), pictures(5, (32, 32, 3), 100, 4)
    classes = tuple(f"fine_{i}" for i in range(100))
    top = "cifar-100-binary"
    write_tar(
        folder / source.archives[0].name,
        {
            f"{top}/train.bin": _cifar_rows(train, coarse=True),
            f"{top}/coarse_label_names.txt": "\n".join(f"coarse_{i}" for i in range(20)).encode(),
            f"{top}/test.bin": _cifar_rows(test, coarse=True),
            f"{top}/fine_label_names.txt": "\n".join(classes).encode(),
        },
    )
    return {"train": train, "test": test}, classes


def svhn(folder: Path, source: Source) -> tuple[dict[str, Expected], tuple[str, ...]]:
    """MATLAB files: labels 1..10, where 10 is the digit 0."""
    parts = {}
    for role, count, kind, compressed in (
        ("train", 400, np.uint8, True),
        ("test", 7, np.float64, False),
        ("extra", 3, np.float64, True),
    ):
        part = pictures(count, (32, 32, 3), 10, count)
        parts[role] = part
        scipy.io.savemat(
            folder / f"{role}_32x32.mat",
            {
                "X": part.images.transpose(1, 2, 3, 0),
                "y": (part.labels + 1).astype(kind)[:, None],
            },
            do_compression=compressed,
        )
    return parts, tuple("1234567890")


def stl10(folder: Path, source: Source) -> tuple[dict[str, Expected], tuple[str, ...]]:
    """Images column by column, labels 1..10, folds; texts at the end of the archive."""
    train, test = pictures(40, (96, 96, 3), 10, 5), pictures(6, (96, 96, 3), 10, 6)
    unlabeled = pictures(9, (96, 96, 3), 10, 7)
    unlabeled.labels[:] = -1

    def planes(part: Expected) -> bytes:
        return part.images.transpose(0, 3, 2, 1).tobytes()

    def labels(part: Expected) -> bytes:
        return (part.labels + 1).astype(np.uint8).tobytes()

    random = np.random.RandomState(8)
    folds = "".join(
        " ".join(map(str, random.permutation(40)[:10].tolist())) + " \n" for _ in range(10)
    )
    write_tar(
        folder / source.archives[0].name,
        {
            "stl10_binary/test_X.bin": planes(test),
            "stl10_binary/test_y.bin": labels(test),
            "stl10_binary/train_X.bin": planes(train),
            "stl10_binary/train_y.bin": labels(train),
            "stl10_binary/unlabeled_X.bin": planes(unlabeled),
            "stl10_binary/class_names.txt": "\n".join(STL10_CLASSES).encode() + b"\n",
            "stl10_binary/fold_indices.txt": folds.encode(),
        },
    )
    return {"train": train, "test": test, "unlabeled": unlabeled}, STL10_CLASSES


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    """A gzipped IDX file."""
    head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(head + values.tobytes()))


def fashion_mnist(folder: Path, source: Source) -> tuple[dict[str, Expected], tuple[str, ...]]:
    """IDX files of 28×28 images; the records have a frame of zeros."""
    parts = {}
    for role, stem, count in (("train", "train", 11), ("test", "t10k", 4)):
        part = pictures(count, (28, 28, 1), 10, count)
        write_idx(folder / f"{stem}-images-idx3-ubyte.gz", part.images[..., 0])
        write_idx(folder / f"{stem}-labels-idx1-ubyte.gz", part.labels.astype(np.uint8))
        framed = np.zeros((count, 32, 32, 1), np.uint8)
        framed[:, 2:30, 2:30] = part.images
        parts[role] = Expected(framed, part.labels)
    classes = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt",
               "Sneaker", "Bag", "Ankle boot")  # fmt: skip
    return parts, classes
