"""Label splits: which images are shown with their labels.

The draw is the one MixMatch published, id for id, so results compare with the literature: labels
follow the histogram of the classes, and the unlabelled file is class-mixed throughout. Two things
are stricter: only truly labelled records are drawn, and nothing is replaced silently.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.ordering import Proportional
from data_tools.outputs import OutputSet
from data_tools.progress import Progress
from realmix_tf.data.manifest import provenance
from realmix_tf.data.names import check_dataset
from realmix_tf.data.records import RecordReader, RecordWriter, encode_example, frame_of
from realmix_tf.errors import DataError, UsageError
from realmix_tf.files import json_text, require_space, write_text

Int64Array = NDArray[np.int64]
COMMAND = "create_split"
# Labels of the published STL-10 splits; which ones is a line of its fold file, not a draw.
STL10_FOLD = 1000


@dataclass(frozen=True)
class SplitOptions:
    """What to split and how.

    Attributes:
      target: path and name without seed and size, such as ``DATA/SSL/cifar10``.
      inputs: record files, read in this order; ids count through all of them.
      labels: records to draw.
      seed: of the draw; 0 takes the first of each class in file order.
      label_pool: only this many first records may be drawn; None for all.
      class_balance: round robin over the classes instead of their shares.
      overwrite: replace an existing split.
    """

    target: Path
    inputs: tuple[Path, ...]
    labels: int
    seed: int = 0
    label_pool: int | None = None
    class_balance: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class SplitResult:
    """What was written: the files, and records per class (names → counts) of both."""

    label_file: Path
    unlabel_file: Path
    map_file: Path
    labeled: dict[str, int]
    unlabeled: dict[str, int]
    without_label: int
    notes: tuple[str, ...]


def draw_labels(
    labels: Int64Array, count: int, seed: int, *, classes: int, uniform: bool = False
) -> list[int]:
    """Draws the ids to label, in the order drawn.

    Args:
      labels: [N] class ids, −1 where there is no true label (never drawn).
      count: how many to draw.
      seed: 0 takes the first of each class.
      classes: number of classes.
      uniform: all classes have the same share.

    Raises:
      DataError: fewer records than wanted, in all or in a class whose turn comes.
    """
    queues = [np.flatnonzero(labels == c).tolist() for c in range(classes)]
    histogram = np.array([len(queue) for queue in queues], np.int64)
    if count > histogram.sum():
        raise DataError(
            f"{count} labels were asked for, only {histogram.sum()} records have a true label",
            "--label_split_size",
            f"at most {histogram.sum()}",
        )
    if seed:
        # The published tool shuffles python lists with the global generator; an own generator
        # with the same seed draws the same numbers.
        random = np.random.RandomState(seed)
        for queue in queues:
            random.shuffle(queue)
    order = Proportional(histogram, uniform)
    taken = [0] * classes
    drawn = []
    for _ in range(count):
        c = order.next_class()
        if taken[c] == len(queues[c]):
            raise DataError(
                f"class {c} has only {len(queues[c])} labelled records, and {count} labels need "
                "more of it",
                "--label_split_size",
                "fewer labels" + (", or no --class_balance" if uniform else ""),
            )
        drawn.append(queues[c][taken[c]])
        taken[c] += 1
        order.take(c)
    return drawn


def unlabeled_order(
    labels: Int64Array, drawn: set[int], *, classes: int, uniform: bool = False
) -> list[int]:
    """The order of the unlabelled file: class-mixed throughout, as published.

    Records are read in order into one queue a class; after each, while the class whose turn it is
    has a queued record, that is written. What is left follows class by class. Records without a
    true label count as one more class, with their own share.

    Args:
      labels: [N] class ids, −1 where there is no true label.
      drawn: ids that are labelled and do not appear.
      classes: number of classes.
      uniform: all shares are the same.

    Returns:
      The other ids, each once.
    """
    kinds = np.where(labels < 0, classes, labels)
    total = classes + int((labels < 0).any())
    order = Proportional(np.bincount(kinds, minlength=total), uniform)
    queues: list[deque[int]] = [deque() for _ in range(total)]
    written: list[int] = []
    turn = order.next_class()
    for i, kind in enumerate(kinds.tolist()):
        if i in drawn:
            continue
        queues[kind].append(i)
        while queues[turn]:
            written.append(queues[turn].popleft())
            order.take(turn)
            turn = order.next_class()
    for queue in queues:
        written.extend(queue)
    return written


def create_split(options: SplitOptions) -> SplitResult:
    """Writes ``TARGET.<seed>@<n>-label.tfrecord``, ``-unlabel.tfrecord`` and ``-map.json``.

    Both record files are pure functions of the inputs and the options. Drawn records are written
    in the order of the inputs. Frames are copied unchanged.

    Inputs whose file name begins with ``stl10`` are drawn with equal shares, as published for
    STL-10. One published split is not made: with 1,000 labels STL-10 uses a line of
    ``stl10_fold_indices.txt``; here these labels are drawn like any others, and a note says so.

    Raises:
      UsageError: the split exists, or the options make no sense.
      DataError: an input is damaged, or has not enough labelled records.
      ResourceError: the output does not fit or cannot be written.
    """
    _check(options)
    target = options.target
    stem = f"{target.name}.{options.seed}@{options.labels}"
    label_file = target.with_name(f"{stem}-label.tfrecord")
    unlabel_file = target.with_name(f"{stem}-unlabel.tfrecord")
    map_file = target.with_name(f"{stem}-map.json")
    outputs = OutputSet([label_file, unlabel_file], map_file, COMMAND, options.overwrite)
    outputs.check()
    with ExitStack() as stack:
        readers = [stack.enter_context(RecordReader(path)) for path in options.inputs]
        notes = _agree(readers)
        stl10 = any(path.name.startswith("stl10") for path in options.inputs)
        if stl10 and options.labels == STL10_FOLD:
            notes.append(
                f"the published STL-10 split with {STL10_FOLD} labels is a line of "
                "stl10_fold_indices.txt; this one is drawn and has other ids"
            )
        plain = [_labels_of(reader, notes) for reader in readers]
        labels = np.concatenate(plain)
        classes = max((reader.classes for reader in readers), key=len)
        pool = _pool(labels, options)
        uniform = stl10 or options.class_balance
        drawn = draw_labels(
            pool, options.labels, options.seed, classes=len(classes), uniform=uniform
        )
        rest = unlabeled_order(labels, set(drawn), classes=len(classes), uniform=stl10)
        if len(set(drawn)) + len(set(rest)) != len(labels) or len(drawn) + len(rest) != len(labels):
            raise DataError("the split does not conserve its input", target, "report this")
        require_space(
            target.parent, sum(reader.path.stat().st_size for reader in readers), "a split"
        )
        origin = provenance(
            f"{COMMAND} --seed={options.seed} --label_split_size={options.labels}"
            + (f" --label_size={options.label_pool}" if options.label_pool is not None else "")
            + (" --class_balance" if options.class_balance else "")
            + f" {target.name} "
            + " ".join(path.name for path in options.inputs),
            seed=options.seed,
            parents=options.inputs,
            more={
                "map_file": map_file.name,
                "draw": "uniform" if uniform else "by shares",
                "unlabeled_order": "uniform" if stl10 else "by shares",
            },
        )
        firsts = np.cumsum([0, *(len(reader) for reader in readers)])
        common: dict[str, Any] = {
            "dataset": target.name,
            "classes": classes,
            "shape": readers[0].image_shape,
            "provenance": origin,
            "overwrite": True,
        }
        with (
            Progress(len(labels), "records", "splitting") as progress,
            RecordWriter(unlabel_file, role="unlabel", **common) as unlabel_writer,
            RecordWriter(label_file, role="label", **common) as label_writer,
        ):
            for writer, ids in ((label_writer, sorted(drawn)), (unlabel_writer, rest)):
                sources = np.searchsorted(firsts, ids, side="right") - 1
                for i, source, label in zip(
                    ids, sources.tolist(), labels[ids].tolist(), strict=True
                ):
                    local = i - int(firsts[source])
                    writer.write_frame(_frame(readers[source], local, label), label)
                    progress.add(1)
            # Everything is written; only now does an older split lose its validity.
            outputs.open()
        mapping = {"label": sorted(drawn), "unlabel": rest}
        write_text(map_file, json_text(mapping, indent=None) + "\n")
    counts = [
        dict(
            zip(classes, np.bincount(part[part >= 0], minlength=len(classes)).tolist(), strict=True)
        )
        for part in (labels[drawn], labels[rest])
    ]
    return SplitResult(
        label_file=label_file,
        unlabel_file=unlabel_file,
        map_file=map_file,
        labeled=counts[0],
        unlabeled=counts[1],
        without_label=int((labels < 0).sum()),
        notes=tuple(notes),
    )


def _check(options: SplitOptions) -> None:
    check_dataset(options.target.name)
    if not options.inputs:
        raise UsageError("no input was given", "", "create_split --help")
    if options.labels < 1:
        raise UsageError(f"--label_split_size is {options.labels}", "", "at least 1")
    if not 0 <= options.seed < 2**32:
        raise UsageError(f"--seed is {options.seed}", "", "0..4294967295")
    if options.label_pool is not None and options.label_pool < 1:
        raise UsageError(f"--label_size is {options.label_pool}", "", "at least 1")


def _agree(readers: Sequence[RecordReader]) -> list[str]:
    """Checks that the inputs belong together; returns what is worth saying about them."""
    first = readers[0]
    for other in readers:
        if not len(other):
            raise DataError("the file has no records", other.path)
        if other.image_shape != first.image_shape:
            raise DataError(
                f"images of {'x'.join(map(str, other.image_shape))} do not fit those of "
                f"{'x'.join(map(str, first.image_shape))} in {first.path.name}",
                other.path,
            )
        if other.manifest and first.manifest and other.classes != first.classes:
            raise DataError(f"the classes are not those of {first.path.name}", other.path)
    names = [reader.path.name for reader in readers if reader.manifest is None]
    if not names:
        return []
    return [f"{', '.join(names)}: no manifest, so every label is taken as true"]


def _labels_of(reader: RecordReader, notes: list[str]) -> Int64Array:
    """The labels; the original tools gave unlabelled pools the dummy label 0."""
    if reader.manifest is None and reader.path.name.endswith("-unlabeled.tfrecord"):
        notes.append(f"{reader.path.name}: an unlabelled pool by its name, its labels are ignored")
        return np.full(len(reader), -1, np.int64)
    return reader.labels


def _pool(labels: Int64Array, options: SplitOptions) -> Int64Array:
    """The labels of the records that may be drawn; the others are −1."""
    size = options.label_pool
    if size is None:
        return labels
    if size > len(labels):
        raise DataError(f"--label_size is {size}, the input has {len(labels)} records")
    without = int((labels[:size] < 0).sum())
    if without:
        raise DataError(
            f"of the first {size} records {without} have no true label",
            "--label_size",
            f"--label_size={int(np.argmax(labels < 0))}, or leave it out",
        )
    return np.where(np.arange(len(labels)) < size, labels, -1)


def _frame(reader: RecordReader, i: int, label: int) -> bytes | memoryview:
    if label < 0 and reader.labels[i] >= 0:
        record = reader.record(i)
        return frame_of(
            encode_example(record.image, -1, labeled=False, source=record.source, name=record.name)
        )
    return reader.frame(i)


def describe(result: SplitResult) -> str:
    """The result as a table for people."""
    width = max(len("class"), *(len(name) for name in result.labeled))
    lines = [f"{'class':<{width}}  labelled  unlabelled"]
    for name, count in result.labeled.items():
        lines.append(f"{name:<{width}}  {count:>8}  {result.unlabeled[name]:>10}")
    if result.without_label:
        lines.append(f"{'(none)':<{width}}  {0:>8}  {result.without_label:>10}")
    total = sum(result.unlabeled.values()) + result.without_label
    lines.append(f"{'total':<{width}}  {sum(result.labeled.values()):>8}  {total:>10}")
    lines += [f"wrote {path}" for path in (result.label_file, result.unlabel_file, result.map_file)]
    return "\n".join(lines)
