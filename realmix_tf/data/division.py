"""Which records of a dataset's files are trained on, validated on and tested on. No TensorFlow.

Two things decide: families (a picture and the copies made from it share one, by the ``source`` of
the records) and pixels (pictures that are equal although nothing in the records says so).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from realmix_tf.data.belonging import check_split
from realmix_tf.data.names import DatasetName, read_map
from realmix_tf.data.pixels import RecordHashes
from realmix_tf.data.records import RecordReader
from realmix_tf.errors import DataError, UsageError

Int64Array = NDArray[np.int64]
NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Files:
    """The open files of a dataset; ``load_training_data`` and check_split divide them alike.

    Attributes:
      name: the dataset name.
      labeled: the labelled file of a split, or the training file of a whole dataset.
      pool: the unlabelled file of a split (without copies), or the training file.
      copies: augmented copies of the pool.
      test: the test file.
      map_file: where a split's map is, if it exists; None for a whole dataset.
    """

    name: DatasetName
    labeled: RecordReader
    pool: RecordReader | None = None
    copies: RecordReader | None = None
    test: RecordReader | None = None
    map_file: Path | None = None


@dataclass
class Division:
    """Records by set, int64 ids in the order of their files.

    Attributes:
      labeled: of ``Files.labeled``.
      valid: of ``Files.pool``.
      unlabeled: of ``Files.copies`` where there are copies, else of ``Files.pool``.
      originals: of ``Files.pool``: the pictures that ``unlabeled`` shows or was made from.
      test: of ``Files.test``.
      notes: what the user should be told.
    """

    labeled: Int64Array
    valid: Int64Array
    unlabeled: Int64Array
    originals: Int64Array
    test: Int64Array
    notes: list[str] = field(default_factory=list)


def divide(
    files: Files,
    *,
    need_unlabeled: bool = True,
    pseudo_labels: bool = False,
    compare: bool = True,
    allow_overlap: bool = False,
) -> Division:
    """Divides the records of a dataset.

    | set | which records |
    |---|---|
    | valid | the first V truly labelled originals (no copies) of the pool, in its order |
    | labeled | the labelled file; of a whole dataset the labelled records that are left |
    | unlabeled | the copies, else the pool, without the families of validation images |
    | test | the labelled records of the test file |

    With ``compare`` equal pixels count too. A picture of a split's labelled file is never taken
    for validation (the next one takes its place): the few labels stay. Every other picture that
    equals a validation image is left out of training, with its family. Labelled pictures in the
    test set are an error. Unlabelled ones, and validation images in the test set, are a note.

    Args:
      files: the open files; those that are not needed may be missing.
      need_unlabeled: without it nothing is unlabelled, and a split's pool serves validation only.
      pseudo_labels: records with a pseudo label count as labelled; of a whole dataset only.
      compare: decode the pictures and compare their pixels.
      allow_overlap: labelled pictures in the test set are a note, too.

    Raises:
      UsageError: fewer validation images than the name asks for; pseudo labels of a split.
      DataError: labelled pictures are in the test set, or copies of validation images in the
        labelled set; copies do not say what they were made from; files that do not belong
        together (see ``belonging``).
    """
    if pseudo_labels and files.name.is_split:
        raise UsageError(
            f"pseudo labels are used with a whole dataset, {str(files.name)!r} is a split",
            "--use_pseudo_labels",
            f"--dataset={files.name.dataset}-{files.name.valid}",
        )
    _require_one_size(files)
    remarks = check_split(files.labeled, files.pool, files.copies) if files.name.is_split else []
    division = _Divider(files, need_unlabeled, pseudo_labels, compare, allow_overlap).divide()
    division.notes[:0] = remarks
    return division


def _require_one_size(files: Files) -> None:
    """Pixels of images of different sizes cannot be compared, and would seem to differ."""
    for reader in (files.pool, files.copies, files.test):
        if reader is not None and reader.image_shape != files.labeled.image_shape:
            sizes = ["×".join(map(str, r.image_shape)) for r in (files.labeled, reader)]
            raise DataError(
                f"the images of {files.labeled.path.name} are {sizes[0]}, these are {sizes[1]}",
                reader.path,
                "build and split them from the same dataset",
            )


def training_labels(reader: RecordReader, pseudo_labels: bool) -> Int64Array:
    """int64 [N]: the true labels, and where there is none the pseudo label if wanted, else −1."""
    if not pseudo_labels:
        return reader.labels
    return np.where(reader.labeled, reader.labels, reader.pseudo_labels)


def own_ids(reader: RecordReader, map_file: Path | None) -> Int64Array:
    """int64 [N]: the ids by which copies name the records of a pool as their source.

    A split's map has them; where there is none they are the positions.
    """
    if map_file is not None and map_file.exists():
        return read_map(map_file, len(reader))
    return np.arange(len(reader))


def families(reader: RecordReader, ids: Int64Array) -> Int64Array:
    """int64 [N]: the id of the original of every record, which is its own where it is one.

    Args:
      reader: the file.
      ids: the records' own ids, int64 [N].
    """
    return np.where(reader.sources >= 0, reader.sources, ids)


class _Divider:
    def __init__(
        self,
        files: Files,
        need_unlabeled: bool,
        pseudo_labels: bool,
        compare: bool,
        allow_overlap: bool,
    ) -> None:
        self.files, self.compare, self.allow_overlap = files, compare, allow_overlap
        self.is_split = files.name.is_split
        self.need_unlabeled = need_unlabeled and self.is_split
        self.notes: list[str] = []
        self.usable = np.flatnonzero(training_labels(files.labeled, pseudo_labels) >= 0)
        self.own = self.family = NOTHING
        if files.pool is not None:
            self.own = np.arange(len(files.pool))
            if files.name.valid and self._has_copies(files.pool):
                self.own = own_ids(files.pool, files.map_file)
            self.family = families(files.pool, self.own)
        readers = (files.labeled, files.pool, files.test)
        self._hashes = {r.path: RecordHashes(r) for r in readers if r is not None}

    def divide(self) -> Division:
        files = self.files
        valid, held_out = self._validation()
        labeled = self._labeled(valid, held_out)
        originals = unlabeled = NOTHING
        if self.need_unlabeled:
            originals = np.flatnonzero(~np.isin(self.family, held_out))
            unlabeled = originals if files.copies is None else self._of_copies(held_out)
        test = NOTHING if files.test is None else np.flatnonzero(files.test.labeled)
        division = Division(labeled, valid, unlabeled, originals, test, self.notes)
        if self.compare and files.test is not None:
            self._compare_with_test(division, files.test)
        return division

    def _validation(self) -> tuple[Int64Array, Int64Array]:
        """The validation images, and the families that are not trained on because of them."""
        count, pool = self.files.name.valid, self.files.pool
        if not count:
            return NOTHING, NOTHING
        if pool is None:
            raise DataError("validation images come from the unlabelled file, which is missing")
        candidates = np.flatnonzero(pool.labeled & (pool.sources < 0))
        valid = candidates[:count]
        if self.is_split and self.compare:
            valid = self._without_labeled(pool, candidates)
        if len(valid) < count:
            raise UsageError(
                f"{count} validation images were asked for but only {len(valid)} have a true label",
                pool.path,
                f"a name that ends in -{len(valid)}" + (" or less" if len(valid) else ""),
            )
        held_out = self.family[valid]
        if self.compare and (self.need_unlabeled or not self.is_split):
            held_out = np.union1d(held_out, self._equal_families(pool, valid))
        return valid, held_out

    def _has_copies(self, pool: RecordReader) -> bool:
        """Whether any record names the record of the pool it was made from."""
        files = self.files
        if not self.is_split or files.copies is not None:
            return self.is_split
        copies = any((reader.sources >= 0).any() for reader in (pool, files.labeled))
        if copies and not (files.map_file and files.map_file.exists()):
            raise DataError(
                "the split's map is missing, so copies of validation images cannot be kept out of "
                "training",
                files.map_file or pool.path,
                "scripts/create_split.py again, or a name that ends in -0",
            )
        return copies

    def _without_labeled(self, pool: RecordReader, candidates: Int64Array) -> Int64Array:
        """The first candidates that are not, pixel by pixel, images of the labelled file."""
        count = self.files.name.valid
        labeled = self._hash(self.files.labeled, self.usable)
        taken = 0
        while True:
            first = candidates[:count]
            equal = np.isin(self._hash(pool, first), labeled)
            if not equal.any():
                break
            taken += int(equal.sum())
            candidates = np.setdiff1d(candidates, first[equal], assume_unique=True)
        if taken:
            self.notes.append(
                f"{taken} images that are labelled images too, pixel by pixel, are not used for "
                "validation; the next ones took their place"
            )
        return first

    def _equal_families(self, pool: RecordReader, valid: Int64Array) -> Int64Array:
        """Families of the other originals of the pool that equal a validation image."""
        others = np.setdiff1d(np.flatnonzero(pool.sources < 0), valid, assume_unique=True)
        equal = others[np.isin(self._hash(pool, others), self._hash(pool, valid))]
        if len(equal):
            self.notes.append(
                f"{len(equal)} images that are validation images too, pixel by pixel, are left "
                "out of training"
            )
        return self.family[equal]

    def _labeled(self, valid: Int64Array, held_out: Int64Array) -> Int64Array:
        labeled = self.files.labeled
        if not self.is_split:
            kept = np.setdiff1d(self.usable, valid, assume_unique=True)
            return kept[~np.isin(self.family[kept], held_out)]
        if len(valid):
            # Own ids of labelled and unlabelled records differ; only a copy can be of the family.
            copies = self.usable[np.isin(labeled.sources[self.usable], held_out)]
            copies = copies[labeled.sources[copies] >= 0]
            if len(copies):
                raise DataError(
                    f"{len(copies)} labelled records are copies of validation images, such as "
                    f"record {copies[0]}",
                    labeled.path,
                    "scripts/create_split.py again, which keeps copies with their originals",
                )
        return self.usable

    def _of_copies(self, held_out: Int64Array) -> Int64Array:
        copies = self.files.copies
        if copies is None or not len(held_out):
            return NOTHING if copies is None else np.arange(len(copies))
        if (copies.sources < 0).any():
            raise DataError(
                "these copies do not say which image they were made from, so copies of validation "
                "images cannot be kept out of training",
                copies.path,
                "scripts/make_aug_copy.py again, or a name that ends in -0",
            )
        # A source is an original's id, or that of a record which is a copy itself.
        of_held_out = self.own[np.isin(self.family, held_out)]
        return np.flatnonzero(~np.isin(copies.sources, np.union1d(of_held_out, held_out)))

    def _compare_with_test(self, division: Division, test: RecordReader) -> None:
        hashes = self._hash(test, division.test)
        labeled, pool = self.files.labeled, self.files.pool
        equal = division.labeled[np.isin(self._hash(labeled, division.labeled), hashes)]
        if len(equal):
            what = (
                f"{len(equal)} labelled images are in the test set too, pixel by pixel, such as "
                f"record {equal[0]} of {labeled.path.name}"
            )
            if not self.allow_overlap:
                raise DataError(
                    what,
                    test.path,
                    f"scripts/check_split.py {self.files.name} to see them, or --allow_overlap",
                )
            self.notes.append(what)
        for name, ids in (("validation", division.valid), ("unlabelled", division.originals)):
            if pool is None or not len(ids):
                continue
            originals = ids[pool.sources[ids] < 0]
            count = int(np.isin(self._hash(pool, originals), hashes).sum())
            if count:
                self.notes.append(f"{count} {name} images are in the test set too, pixel by pixel")
        if self.files.copies is not None and pool is None:
            self.notes.append(
                "the images these copies were made from are not there, so they were not compared "
                "with the test set"
            )

    def _hash(self, reader: RecordReader, ids: Int64Array) -> NDArray[np.uint64]:
        return self._hashes[reader.path](ids)
