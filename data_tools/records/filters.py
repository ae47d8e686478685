"""Keeping only some classes of a record file, for the study of mismatched classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.plan import FileUse, Plan, files
from data_tools.progress import Progress
from data_tools.records.transfer import (
    RecordPool,
    check_output,
    class_counts,
    class_id,
    dataset_by_name,
    kept_sources,
    memory_now,
    role_of,
)
from realmix_tf.data.examples import Tagging
from realmix_tf.data.manifest import provenance
from realmix_tf.data.record_writer import RecordWriter
from realmix_tf.errors import DataError, UsageError
from realmix_tf.files import require_space

COMMAND = "filter_dataset"


@dataclass(frozen=True)
class FilterOptions:
    """What to keep.

    Attributes:
      source: the record file to read.
      output: the record file to write.
      classes: ids or names of the classes to keep.
      keep_ids: leave the ids as they are instead of numbering the kept classes from 0.
      unlabeled: write the kept records without their labels.
      overwrite: replace an existing output.
    """

    source: Path
    output: Path
    classes: tuple[str, ...]
    keep_ids: bool = False
    unlabeled: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class FilterResult:
    """What was kept (names → counts), what was dropped, and the map old id → new id."""

    file: Path
    kept: dict[str, int]
    dropped: int
    dropped_without_label: int
    class_map: dict[int, int]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Filter:
    """A filter whose input was read but whose output was not written."""

    role: str
    classes: tuple[str, ...]
    ids: NDArray[np.int64]
    tags: Tagging
    result: FilterResult


def filter_dataset(options: FilterOptions) -> FilterResult:
    """Writes the records of the listed classes, in the order of the source.

    Kept classes are numbered 0..K−1 by ascending old id; the manifest states the map. Records
    without a true label are dropped and counted, since nobody knows their class; so are copies
    whose original is dropped. In a dataset's own file the ``source`` of a copy is its original's
    new position.

    Raises:
      UsageError: an unknown class, the source as output, or an output that exists.
      DataError: the source is damaged, or nothing is left.
    """
    check_output(options.output, [options.source], options.overwrite, "--save_name")
    with RecordPool([options.source]) as pool:
        chosen = _choose(options, pool)
        origin = provenance(
            f"{COMMAND} --class_filter={','.join(map(str, chosen.result.class_map))} "
            f"--filter_dataset={options.source.name} --save_name={options.output.name}"
            + (" --keep_ids" if options.keep_ids else "")
            + (" --unlabeled" if options.unlabeled else ""),
            parents=[options.source],
            more={"class_map": {str(old): new for old, new in chosen.result.class_map.items()}},
        )
        with (
            RecordWriter(
                options.output,
                dataset=dataset_by_name(options.output),
                role=chosen.role,
                classes=chosen.classes,
                shape=pool.shape,
                provenance=origin,
                overwrite=options.overwrite,
            ) as writer,
            Progress(len(chosen.ids), "records", "filtering") as progress,
        ):
            pool.copy_to(writer, chosen.ids, chosen.tags, progress)
    return chosen.result


def plan_filter(options: FilterOptions) -> Plan:
    """What ``filter_dataset`` would do; raises what it would raise."""
    check_output(options.output, [options.source], options.overwrite, "--save_name")
    with RecordPool([options.source]) as pool:
        chosen = _choose(options, pool)
        return Plan(
            reads=files(pool.paths),
            writes=(FileUse(str(options.output), int(pool.sizes(chosen.ids).sum())),),
            memory=memory_now(),
            seconds=pool.seconds(chosen.ids),
            facts={
                "kept": chosen.result.kept,
                "dropped": chosen.result.dropped,
                "dropped_without_label": chosen.result.dropped_without_label,
                "class_map": {str(old): new for old, new in chosen.result.class_map.items()},
            },
            notes=chosen.result.notes,
        )


def _choose(options: FilterOptions, pool: RecordPool) -> _Filter:
    reader, notes = pool.readers[0], list(pool.notes)
    names = reader.classes
    kept = _class_ids(options.classes, names)
    class_map = {old: old if options.keep_ids else new for new, old in enumerate(kept)}
    new_ids = np.full(len(names) + 1, -1, np.int64)
    new_ids[kept] = list(class_map.values())
    labels = pool.tags.labels
    ids, sources, lost = kept_sources(pool, np.flatnonzero(new_ids[labels] >= 0))
    if not len(ids):
        raise DataError("no record is of these classes", options.source, "--class_filter")
    if lost:
        notes.append(f"{lost} copies were dropped, since their originals are")
    none = np.full(len(ids), -1, np.int64)
    tags = Tagging(none if options.unlabeled else new_ids[labels[ids]], none, sources)
    require_space(
        options.output.parent, pool.most_bytes(ids, changed=options.unlabeled), "the filtered file"
    )
    role = role_of(reader)
    counts = class_counts(labels[ids], names)
    return _Filter(
        role="unlabeled" if options.unlabeled and role in ("train", "test") else role,
        classes=names if options.keep_ids else tuple(names[old] for old in kept),
        ids=ids,
        tags=tags,
        result=FilterResult(
            file=options.output,
            kept={names[old]: counts[names[old]] for old in kept},
            dropped=int((labels >= 0).sum()) - len(ids),
            dropped_without_label=int((labels < 0).sum()),
            class_map=class_map,
            notes=tuple(notes),
        ),
    )


def _class_ids(wanted: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Ids of the wanted classes, ascending; a text is an id where it is a number in range."""
    if not wanted:
        raise UsageError("no class to keep was given", "", "--class_filter=2,3,4")
    return sorted({class_id(text, classes, "--class_filter") for text in wanted})
