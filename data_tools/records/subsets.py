"""Merging record files, and drawing a random part of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from data_tools.plan import FileUse, Plan, files
from data_tools.progress import Progress
from data_tools.records.ordering import KeyedPermutation, by_class
from data_tools.records.transfer import (
    SPLIT_ROLES,
    RecordPool,
    check_output,
    class_counts,
    dataset_by_name,
    kept_sources,
    memory_now,
    role_by_name,
    role_of,
)
from realmix_tf.data.examples import Tagging
from realmix_tf.data.manifest import provenance
from realmix_tf.data.record_writer import RecordWriter
from realmix_tf.data.records import RecordReader
from realmix_tf.errors import DataError, UsageError
from realmix_tf.files import require_space

Int64Array = NDArray[np.int64]
MERGE, SAMPLE = "merge", "sample"
CLASS_RULES = ("same", "union")


@dataclass(frozen=True)
class MergeOptions:
    """What to merge.

    Attributes:
      output: the record file to write.
      inputs: the record files, in this order.
      classes: ``same``: the files must have the same classes; ``union``: classes are joined by
        name, those of the first file keep their ids and new ones follow in order.
      overwrite: replace an existing output.
    """

    output: Path
    inputs: tuple[Path, ...]
    classes: str = "same"
    overwrite: bool = False


@dataclass(frozen=True)
class MergeResult:
    """What was written.

    Attributes:
      file: the output.
      records: how many, ``labeled`` of them by class (names → counts).
      without_label: records without a true label.
      duplicates: records whose image, byte for byte, an earlier record has; they are kept.
      notes: remarks.
    """

    file: Path
    records: int
    labeled: dict[str, int]
    without_label: int
    duplicates: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class SampleOptions:
    """What to draw.

    Attributes:
      source: the record file to read.
      output: the record file to write.
      size: how many records; None where ``fraction`` says it.
      fraction: which part of the records, in (0, 1].
      seed: of the draw.
      class_balance: as many of each class instead of the classes' shares.
      unlabeled: write the records without their labels.
      overwrite: replace an existing output.
    """

    source: Path
    output: Path
    size: int | None = None
    fraction: float | None = None
    seed: int = 0
    class_balance: bool = False
    unlabeled: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class SampleResult:
    """What was drawn.

    Attributes:
      file: the output.
      records: how many it has, ``copies`` of them copies that came along with their original.
      labeled: records of each class (names → counts) before labels are left out.
      without_label: records without a true label.
      of: records of the source.
      notes: remarks.
    """

    file: Path
    records: int
    copies: int
    labeled: dict[str, int]
    without_label: int
    of: int
    notes: tuple[str, ...]


def merge(options: MergeOptions) -> MergeResult:
    """Writes the records of all inputs one after the other.

    Records without a true label stay so; pseudo labels follow their class; the ``source`` of a
    copy is its original's position in the output. Nothing is removed, but images that are there
    more than once are counted.

    Raises:
      UsageError: an input as output, or an output that exists.
      DataError: an input is damaged, or sizes or classes do not fit together.
    """
    _check_merge(options)
    with RecordPool(options.inputs) as pool:
        classes, tags = _joined(options, pool)
        ids = np.arange(len(pool))
        keys = np.empty(len(pool), np.uint32)
        with (
            RecordWriter(
                options.output,
                dataset=dataset_by_name(options.output),
                role=_merged_role(options, pool),
                classes=classes,
                shape=pool.shape,
                provenance=provenance(
                    f"{MERGE} --classes={options.classes} {options.output.name} "
                    + " ".join(path.name for path in options.inputs),
                    parents=options.inputs,
                ),
                overwrite=options.overwrite,
            ) as writer,
            Progress(len(pool), "records", "merging") as progress,
        ):
            pool.copy_to(writer, ids, tags, progress)
        for k, reader in enumerate(pool.readers):
            _image_keys(reader, keys[pool.firsts[k] : pool.firsts[k + 1]])
        duplicates = _duplicates(pool, keys)
    notes = list(pool.notes)
    if duplicates:
        notes.append(
            f"{duplicates} records have the same image as an earlier one; all of them are kept"
        )
    return MergeResult(
        file=options.output,
        records=len(pool),
        labeled=class_counts(tags.labels, classes),
        without_label=int((tags.labels < 0).sum()),
        duplicates=duplicates,
        notes=tuple(notes),
    )


def plan_merge(options: MergeOptions) -> Plan:
    """What ``merge`` would do; raises what it would raise."""
    _check_merge(options)
    with RecordPool(options.inputs) as pool:
        classes, tags = _joined(options, pool)
        ids = np.arange(len(pool))
        return Plan(
            reads=files(pool.paths),
            writes=(FileUse(str(options.output), int(pool.sizes(ids).sum())),),
            memory=memory_now(),
            seconds=pool.seconds(ids),
            facts={
                "records": len(pool),
                "labeled": class_counts(tags.labels, classes),
                "without_label": int((tags.labels < 0).sum()),
            },
            notes=tuple(pool.notes),
        )


def _check_merge(options: MergeOptions) -> None:
    if len(options.inputs) < 2:
        raise UsageError("at least two files are needed to merge", "", "merge --help")
    if options.classes not in CLASS_RULES:
        raise UsageError(f"--classes is {options.classes!r}", "", " or ".join(CLASS_RULES))
    check_output(options.output, options.inputs, options.overwrite, "OUTPUT")


def _joined(options: MergeOptions, pool: RecordPool) -> tuple[tuple[str, ...], Tagging]:
    """The classes of the output, and what its records say."""
    for reader in pool.readers:
        if role_of(reader) in SPLIT_ROLES and (reader.sources >= 0).any():
            raise DataError(
                "the copies in this file belong to the map of their split, which a merged file "
                "has not",
                reader.path,
                "merge the datasets' own files, such as …-train.tfrecord",
            )
    if options.classes == "same":
        classes, tags = pool.same_classes("--classes=union"), pool.tags
    else:
        classes, tags = _union(pool)
    ids = np.arange(len(pool))
    require_space(options.output.parent, pool.most_bytes(ids, changed=True), "the merged file")
    return classes, tags


def _union(pool: RecordPool) -> tuple[tuple[str, ...], Tagging]:
    new_ids: dict[str, int] = {}
    labels, pseudo = [], []
    for k, reader in enumerate(pool.readers):
        if reader.manifest is None:
            raise DataError(
                "the file has no manifest, so its classes have no names to join them by",
                reader.path,
                "--classes=same",
            )
        # −1, for none, takes the last place.
        table = [new_ids.setdefault(name, len(new_ids)) for name in reader.classes]
        remap = np.array([*table, -1], np.int64)
        rows = slice(int(pool.firsts[k]), int(pool.firsts[k + 1]))
        labels.append(remap[pool.tags.labels[rows]])
        pseudo.append(remap[pool.tags.pseudo[rows]])
    tags = Tagging(np.concatenate(labels), np.concatenate(pseudo), pool.tags.sources)
    return tuple(new_ids), tags


def _merged_role(options: MergeOptions, pool: RecordPool) -> str:
    """The role that all inputs have, else the one that the output's name says."""
    roles = {role_of(reader) for reader in pool.readers}
    return roles.pop() if len(roles) == 1 else role_by_name(options.output) or "train"


def _image_keys(reader: RecordReader, keys: NDArray[np.uint32]) -> None:
    """Fills in the CRC-32C of every image."""
    index, ids = reader.index, np.arange(len(reader))
    ends = np.cumsum(reader.sizes())
    for rows in reader.blocks(ids):
        joined = reader.frames(ids[rows])
        # Where the block begins in the file: records follow each other without a gap.
        begin = int(ends[rows.start] - reader.sizes(rows)[0])
        places = zip(
            (index.image_starts[rows] - begin).tolist(),
            (index.image_ends[rows] - begin).tolist(),
            strict=True,
        )
        images = [joined[a:b] for a, b in places]
        keys[rows] = np.fromiter(map(google_crc32c.value, images), np.uint32, len(images))


def _duplicates(pool: RecordPool, keys: NDArray[np.uint32]) -> int:
    """How many images are, byte for byte, equal to an earlier one."""
    order = np.argsort(keys, kind="stable")
    same = keys[order][1:] == keys[order][:-1]
    # Only where checksums meet are the images themselves compared.
    groups = np.split(order, np.flatnonzero(~same) + 1) if same.any() else []
    return sum(len(group) - _different(pool, group) for group in groups if len(group) > 1)


def _different(pool: RecordPool, group: Int64Array) -> int:
    seen: set[bytes] = set()
    for i in group.tolist():
        k = int(np.searchsorted(pool.firsts, i, side="right")) - 1
        seen.add(pool.readers[k].image(i - int(pool.firsts[k])))
    return len(seen)


def sample(options: SampleOptions) -> SampleResult:
    """Writes a random part of a record file, in the order of the file.

    Every class keeps its share to within one record; records without a true label count as one
    more class. A larger draw with the same seed contains a smaller one's share of each class.

    In a dataset's own file ``size`` counts originals: copies come along with their original and
    get its new position as ``source``. The records of a split are drawn one like the other.

    Raises:
      UsageError: impossible numbers, the source as output, or an output that exists.
      DataError: the source is damaged or has too few records.
    """
    _check_sample(options)
    with RecordPool([options.source]) as pool:
        ids, tags, result = _sampled(options, pool)
        reader = pool.readers[0]
        with (
            RecordWriter(
                options.output,
                dataset=dataset_by_name(options.output),
                role=role_of(reader),
                classes=reader.classes,
                shape=pool.shape,
                provenance=provenance(
                    f"{SAMPLE} --seed={options.seed} --size={len(ids) - result.copies}"
                    + (" --class_balance" if options.class_balance else "")
                    + (" --unlabeled" if options.unlabeled else "")
                    + f" {options.output.name} {options.source.name}",
                    seed=options.seed,
                    parents=[options.source],
                ),
                overwrite=options.overwrite,
            ) as writer,
            Progress(len(ids), "records", "sampling") as progress,
        ):
            pool.copy_to(writer, ids, tags, progress)
    return result


def plan_sample(options: SampleOptions) -> Plan:
    """What ``sample`` would do; raises what it would raise."""
    _check_sample(options)
    with RecordPool([options.source]) as pool:
        ids, _, result = _sampled(options, pool)
        return Plan(
            reads=files(pool.paths),
            writes=(FileUse(str(options.output), int(pool.sizes(ids).sum())),),
            memory=memory_now(),
            seconds=pool.seconds(ids),
            facts={
                "records": result.records,
                "copies": result.copies,
                "labeled": result.labeled,
                "without_label": result.without_label,
                "of": result.of,
            },
            notes=result.notes,
        )


def _check_sample(options: SampleOptions) -> None:
    if (options.size is None) == (options.fraction is None):
        raise UsageError("either --size or --fraction says how much", "", "--size=1000")
    if options.size is not None and options.size < 1:
        raise UsageError(f"--size is {options.size}", "", "at least 1")
    if options.fraction is not None and not 0 < options.fraction <= 1:
        raise UsageError(f"--fraction is {options.fraction:g}", "", "above 0, at most 1")
    if not 0 <= options.seed < 2**32:
        raise UsageError(f"--seed is {options.seed}", "", "0..4294967295")
    check_output(options.output, [options.source], options.overwrite, "OUTPUT")


def _sampled(options: SampleOptions, pool: RecordPool) -> tuple[Int64Array, Tagging, SampleResult]:
    reader, notes = pool.readers[0], list(pool.notes)
    labels, sources = pool.tags.labels, pool.tags.sources
    own = role_of(reader) not in SPLIT_ROLES
    drawable = sources < 0 if own else np.ones(len(pool), np.bool_)
    kinds = np.where(labels < 0, len(reader.classes), labels)
    if options.class_balance and (labels < 0).any():
        notes.append("records without a true label are left out, since they have no class")
        drawable &= labels >= 0
    queues = by_class(np.where(drawable, kinds, -1), len(reader.classes) + 1)
    total = int(drawable.sum())
    size = options.size
    if size is None:
        size = max(int((options.fraction or 0.0) * total + 0.5), 1)
    if size > total:
        raise DataError(
            f"{size} records were asked for, there are {total} to draw from",
            options.source,
            f"at most {total}",
        )
    members = np.array([len(queue) for queue in queues], np.int64)
    shares = _equal_shares if options.class_balance else _proportional_shares
    drawn = np.concatenate(
        [
            queue[KeyedPermutation(len(queue), options.seed, f"{SAMPLE}/{c}")(np.arange(share))]
            for c, (queue, share) in enumerate(
                zip(queues, shares(members, size, reader.classes), strict=True)
            )
            if share
        ]
    )
    chosen = np.zeros(len(pool), np.bool_)
    chosen[drawn] = True
    if own:
        chosen |= (sources >= 0) & chosen[np.maximum(sources, 0)]
    ids, new_sources, _ = kept_sources(pool, np.flatnonzero(chosen))
    copies = len(ids) - size
    if own and (sources >= 0).any():
        lost = int((sources >= 0).sum()) - copies
        notes.append(f"copies go with their originals: {copies} came along, {lost} were left out")
    none = np.full(len(ids), -1, np.int64)
    tags = Tagging(
        none if options.unlabeled else labels[ids],
        none if options.unlabeled else pool.tags.pseudo[ids],
        new_sources,
    )
    require_space(
        options.output.parent, pool.most_bytes(ids, changed=options.unlabeled), "the sample"
    )
    result = SampleResult(
        file=options.output,
        records=len(ids),
        copies=copies,
        labeled=class_counts(labels[ids], reader.classes),
        without_label=int((labels[ids] < 0).sum()),
        of=len(pool),
        notes=tuple(notes),
    )
    return ids, tags, result


def _proportional_shares(members: Int64Array, size: int, classes: Sequence[str]) -> list[int]:
    """``size`` divided in proportion, by largest remainders (the first of equals)."""
    total = int(members.sum())
    parts = [divmod(size * int(count), total) for count in members]
    shares = [whole for whole, _ in parts]
    by_remainder = sorted(range(len(parts)), key=lambda c: (-parts[c][1], c))
    for c in by_remainder[: size - sum(shares)]:
        shares[c] += 1
    return shares


def _equal_shares(members: Int64Array, size: int, classes: Sequence[str]) -> list[int]:
    """``size`` divided equally among the classes that have records, the first get what is over."""
    present = np.flatnonzero(members).tolist()
    whole, over = divmod(size, len(present))
    shares = [0] * len(members)
    for place, c in enumerate(present):
        shares[c] = whole + (place < over)
        if shares[c] > members[c]:
            raise DataError(
                f"class {classes[c]!r} has only {members[c]} records, {shares[c]} were asked for",
                "--class_balance",
                f"--size={int(members[members > 0].min()) * len(present)} or less",
            )
    return shares


def report(result: MergeResult | SampleResult) -> dict[str, Any]:
    """A result as JSON-able data, without the notes."""
    values = {**vars(result), "file": str(result.file)}
    return {key: value for key, value in values.items() if key != "notes"}
