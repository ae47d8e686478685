"""Label splits: which images are shown with their labels.

The draw is the one MixMatch published, id for id, so results compare with the literature: labels
follow the histogram of the classes, and the unlabelled file is class-mixed throughout. Two things
are stricter: only truly labelled records are drawn, and nothing is replaced silently.

Copies within the input (``source`` ≥ 0, made to balance classes) follow their originals: they are
neither drawn nor counted for the draw, and go wherever their original goes. So no copy of a
labelled picture is among the unlabelled ones, or the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.outputs import OutputSet
from data_tools.plan import FileUse, Plan, files
from data_tools.progress import Progress
from data_tools.records.ordering import by_class, proportional_turns
from data_tools.records.transfer import (
    SPLIT_ROLES,
    PoolHashes,
    RecordPool,
    check_not_input,
    class_counts,
    class_id,
    memory_now,
    role_of,
)
from realmix_tf.data.manifest import provenance
from realmix_tf.data.names import DatasetName, check_dataset
from realmix_tf.data.record_writer import RecordWriter
from realmix_tf.errors import DataError, UsageError
from realmix_tf.files import atomic_write, open_regular, require_space, require_writable

Int64Array = NDArray[np.int64]
COMMAND = "create_split"
# The published STL-10 splits with so many labels are lines of a file, not draws.
STL10_FOLD = 1000
FOLD_FILE = "stl10_fold_indices.txt"
FOLDS = 10
_MOST_FOLD_BYTES = 1 << 20
_IDS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class SplitOptions:
    """What to split and how.

    Attributes:
      target: path and name without seed and size, such as ``DATA/SSL/cifar10``.
      inputs: record files, read in this order; ids count through all of them.
      labels: records to draw; None where ``class_counts`` says it.
      seed: of the draw; 0 takes the first of each class in file order.
      label_pool: only this many first records may be drawn; None for all.
      class_balance: round robin over the classes instead of their shares.
      class_counts: (class, how many) pairs that say it for each class instead, by id or name;
        classes that are not among them get no label.
      validation: how many unlabelled records training will hold out, to be checked and recorded.
      overwrite: replace an existing split.
    """

    target: Path
    inputs: tuple[Path, ...]
    labels: int | None = None
    seed: int = 0
    label_pool: int | None = None
    class_balance: bool = False
    class_counts: tuple[tuple[str, int], ...] = ()
    validation: int = 0
    overwrite: bool = False


@dataclass(frozen=True)
class SplitResult:
    """What was written.

    Attributes:
      label_file, unlabel_file, map_file: the files.
      name: what to train with, ``--dataset=<name>``.
      labeled: records of each class (names → counts) in the labelled file.
      unlabeled: the same of the unlabelled file.
      valid: those of the unlabelled file that training holds out.
      without_label: records of the unlabelled file without a true label.
      total: records of each class in the input.
      copies: copies that follow their original into the labelled and the unlabelled file.
      notes: remarks.
    """

    label_file: Path
    unlabel_file: Path
    map_file: Path
    name: str
    labeled: dict[str, int]
    unlabeled: dict[str, int]
    valid: dict[str, int]
    without_label: int
    total: dict[str, int]
    copies: tuple[int, int]
    notes: tuple[str, ...]


def draw_labels(
    labels: Int64Array, count: int, seed: int, *, classes: int, uniform: bool = False
) -> Int64Array:
    """Draws the ids to label.

    Args:
      labels: [N] class ids, −1 where there is no true label (never drawn).
      count: how many to draw.
      seed: 0 takes the first of each class.
      classes: number of classes.
      uniform: all classes have the same share.

    Returns:
      int64 [count], in the order drawn.

    Raises:
      DataError: fewer records than wanted, in all or in a class whose turn comes.
    """
    queues = _queues(labels, seed, classes)
    histogram = np.array([len(queue) for queue in queues], np.int64)
    if count > histogram.sum():
        raise DataError(
            f"{count} labels were asked for, only {histogram.sum()} records have a true label",
            "--label_split_size",
            f"at most {histogram.sum()}",
        )
    turns = proportional_turns(histogram, histogram, uniform=uniform, most=count)
    if turns.exhausted >= 0:
        c = turns.exhausted
        raise DataError(
            f"class {c} has only {len(queues[c])} labelled records, and {count} labels need "
            "more of it",
            "--label_split_size",
            "fewer labels" + (", or no --class_balance" if uniform else ""),
        )
    firsts = np.cumsum(histogram) - histogram
    return np.concatenate(queues)[firsts[turns.classes] + turns.numbers]


def _queues(labels: Int64Array, seed: int, classes: int) -> list[Int64Array]:
    """The records of each class in the order in which they are drawn."""
    queues = by_class(labels, classes)
    if seed:
        # The published tool shuffles python lists with the global generator; an own generator
        # with the same seed draws the same numbers.
        random = np.random.RandomState(seed)
        for queue in queues:
            random.shuffle(queue)
    return queues


def unlabeled_order(
    labels: Int64Array, drawn: Int64Array, *, classes: int, uniform: bool = False
) -> Int64Array:
    """The order of the unlabelled file: class-mixed throughout, as published.

    The published tool reads the records in order into one queue a class; after each, while the
    class whose turn it is has a queued record, that is written. What is left follows class by
    class. Whose turn it is depends on what was written alone, and a class with an empty queue
    is waited for; so the turns are those of the whole class, up to the first one that runs out.
    Records without a true label count as one more class, with their own share.

    Args:
      labels: [N] class ids, −1 where there is no true label.
      drawn: ids that are labelled and do not appear.
      classes: number of classes.
      uniform: all shares are the same.

    Returns:
      int64, the other ids, each once.
    """
    kinds = np.where(labels < 0, classes, labels)
    total = classes + int((labels < 0).any())
    counts = np.bincount(kinds, minlength=total)
    kinds[drawn] = total
    queues = by_class(kinds, total)
    available = np.array([len(queue) for queue in queues], np.int64)
    turns = proportional_turns(counts, available, uniform=uniform)
    firsts = np.cumsum(available) - available
    queued = np.concatenate(queues)
    places = firsts[turns.classes] + turns.numbers
    left = np.ones(len(queued), np.bool_)
    left[places] = False
    return np.concatenate([queued[places], queued[left]])


@dataclass(frozen=True)
class _Split:
    """A split that was drawn but not written."""

    classes: tuple[str, ...]
    label_ids: Int64Array
    unlabel_ids: Int64Array
    valid_ids: Int64Array
    fold: Path | None
    origin: dict[str, Any]
    result: SplitResult


def create_split(options: SplitOptions) -> SplitResult:
    """Writes ``TARGET.<seed>@<n>-label.tfrecord``, ``-unlabel.tfrecord`` and ``-map.json``.

    Both record files are pure functions of the inputs and the options. Drawn records are written
    in the order of the inputs. Frames are copied unchanged (but for ``source`` where several
    inputs shift the ids). The map lists the ids of each file in its order, and under ``valid``
    those that training will hold out.

    Inputs whose file name begins with ``stl10`` are drawn with equal shares, as published for
    STL-10. With 1,000 labels the published split is a line of ``stl10_fold_indices.txt``, which
    is taken from beside the input; where there is none, the labels are drawn, and a note says so.

    Raises:
      UsageError: the split exists, or the options make no sense.
      DataError: an input is damaged, or has not enough labelled records.
      ResourceError: the output does not fit or cannot be written.
    """
    outputs = _outputs(options)
    with RecordPool(options.inputs) as pool:
        split = _draw(options, pool)
        label_file, unlabel_file = outputs.records
        common: dict[str, Any] = {
            "dataset": options.target.name,
            "classes": split.classes,
            "shape": pool.shape,
            "provenance": split.origin,
            "overwrite": True,
        }
        with (
            Progress(len(pool), "records", "splitting") as progress,
            RecordWriter(unlabel_file, role="unlabel", **common) as unlabel_writer,
            RecordWriter(label_file, role="label", **common) as label_writer,
        ):
            pool.copy_to(label_writer, split.label_ids, progress=progress)
            pool.copy_to(unlabel_writer, split.unlabel_ids, progress=progress)
            # Everything is written; only now does an older split lose its validity.
            outputs.open()
        _write_map(outputs.mark, split)
    return split.result


def plan_split(options: SplitOptions) -> Plan:
    """What ``create_split`` would do; raises what it would raise."""
    outputs = _outputs(options)
    with RecordPool(options.inputs) as pool:
        split = _draw(options, pool)
        parts = (split.label_ids, split.unlabel_ids)
        written = [
            FileUse(str(path), int(pool.sizes(ids).sum()))
            for path, ids in zip(outputs.records, parts, strict=True)
        ]
        # An id takes its digits, a comma and a space.
        digits = len(str(len(pool))) + 2
        written.append(FileUse(str(outputs.mark), digits * (len(pool) + options.validation)))
        result = split.result
        return Plan(
            reads=files([*pool.paths, *([split.fold] if split.fold else [])]),
            writes=tuple(written),
            memory=memory_now(),
            seconds=pool.seconds(split.unlabel_ids),
            facts={
                "dataset": result.name,
                "labeled": result.labeled,
                "unlabeled": result.unlabeled,
                "valid": result.valid,
                "without_label": result.without_label,
            },
            notes=result.notes,
        )


def _outputs(options: SplitOptions) -> OutputSet:
    """Checks the options as far as they can be without the inputs."""
    check_dataset(options.target.name)
    if not options.inputs:
        raise UsageError("no input was given", "", "create_split --help")
    _check_labels(options)
    for flag, value, least in (
        ("--label_split_size", _label_count(options), 1),
        ("--label_size", options.label_pool, 1),
        ("--validation", options.validation, 0),
    ):
        if value is not None and value < least:
            raise UsageError(f"{flag} is {value}", "", f"at least {least}")
    if not 0 <= options.seed < 2**32:
        raise UsageError(f"--seed is {options.seed}", "", "0..4294967295")
    stem = f"{options.target.name}.{options.seed}@{_label_count(options)}"
    records = [options.target.with_name(f"{stem}-{part}.tfrecord") for part in ("label", "unlabel")]
    map_file = options.target.with_name(f"{stem}-map.json")
    outputs = OutputSet(records, map_file, COMMAND, options.overwrite)
    for path in records:
        check_not_input(path, options.inputs, "another target")
    outputs.check()
    require_writable(options.target.parent)
    return outputs


def _check_labels(options: SplitOptions) -> None:
    if not options.class_counts:
        if options.labels is None:
            raise UsageError("the number of labels is missing", "--label_split_size")
        return
    total = sum(count for _, count in options.class_counts)
    if options.labels is not None and options.labels != total:
        raise UsageError(
            f"--class_counts adds up to {total}, --label_split_size is {options.labels}",
            "",
            "leave --label_split_size out",
        )
    if options.class_balance:
        raise UsageError("--class_counts and --class_balance contradict each other", "", "one")
    for text, count in options.class_counts:
        if count < 0:
            raise UsageError(
                f"class {text!r} is to get {count} labels", "--class_counts", "0 or more"
            )


def _label_count(options: SplitOptions) -> int:
    if options.class_counts:
        return sum(count for _, count in options.class_counts)
    return options.labels or 0


def _draw(options: SplitOptions, pool: RecordPool) -> _Split:
    for reader in pool.readers:
        if role_of(reader) in SPLIT_ROLES and (reader.sources >= 0).any():
            raise DataError(
                "the copies in this file belong to another split's map",
                reader.path,
                "split the dataset's own file, such as …-train.tfrecord",
            )
    notes = list(pool.notes)
    classes = pool.same_classes()
    labels, sources = pool.tags.labels, pool.tags.sources
    count = _label_count(options)
    stl10 = any(path.name.startswith("stl10") for path in options.inputs)
    originals = np.where(sources < 0, labels, -1)
    drawn, kind, fold = _drawn(options, pool, _pool(labels, originals, options), classes, notes)
    label_ids = np.sort(np.concatenate([drawn, np.flatnonzero(_follow(sources, drawn))]))
    unlabel_ids = unlabeled_order(labels, label_ids, classes=len(classes), uniform=stl10)
    seen = np.zeros(len(labels), np.bool_)
    seen[label_ids] = seen[unlabel_ids] = True
    if not seen.all() or len(label_ids) + len(unlabel_ids) != len(labels):
        raise DataError("the split does not conserve its input", options.target, "report this")
    valid_ids = _valid(options, pool, label_ids, unlabel_ids)
    require_space(options.target.parent, pool.most_bytes(np.arange(len(pool))), "a split")
    name = DatasetName(options.target.name, None, options.seed, count, options.validation)
    map_file = options.target.with_name(f"{name.split}-map.json")
    origin = provenance(
        f"{COMMAND} --seed={options.seed} --label_split_size={count}"
        + (f" --label_size={options.label_pool}" if options.label_pool is not None else "")
        + (" --class_balance" if options.class_balance else "")
        + (f" --class_counts={_counts_text(options)}" if options.class_counts else "")
        + (f" --validation={options.validation}" if options.validation else "")
        + f" {options.target.name} "
        + " ".join(path.name for path in options.inputs),
        seed=options.seed,
        parents=options.inputs,
        more={
            "map_file": map_file.name,
            "draw": kind,
            "unlabeled_order": "uniform" if stl10 else "by shares",
        },
    )
    counts = [
        class_counts(labels[ids], classes)
        for ids in (label_ids, unlabel_ids, valid_ids, np.arange(len(labels)))
    ]
    notes += _gaps(options, counts[0], counts[2], counts[3])
    result = SplitResult(
        label_file=options.target.with_name(f"{name.split}-label.tfrecord"),
        unlabel_file=options.target.with_name(f"{name.split}-unlabel.tfrecord"),
        map_file=map_file,
        name=str(name),
        labeled=counts[0],
        unlabeled=counts[1],
        valid=counts[2],
        without_label=int((labels < 0).sum()),
        total=counts[3],
        copies=(int((sources[label_ids] >= 0).sum()), int((sources[unlabel_ids] >= 0).sum())),
        notes=tuple(notes),
    )
    return _Split(classes, label_ids, unlabel_ids, valid_ids, fold, origin, result)


def _drawn(
    options: SplitOptions,
    pool: RecordPool,
    labels: Int64Array,
    classes: tuple[str, ...],
    notes: list[str],
) -> tuple[Int64Array, str, Path | None]:
    """The ids to label, how they were chosen, and the file that says it where there is one."""
    if options.class_counts:
        return _draw_counts(options, labels, classes), "by class counts", None
    count = _label_count(options)
    stl10 = [k for k, path in enumerate(options.inputs) if path.name.startswith("stl10")]
    if stl10 and count == STL10_FOLD:
        first = next(
            (k for k in stl10 if options.inputs[k].name.startswith("stl10-train")), stl10[0]
        )
        fold = options.inputs[first].with_name(FOLD_FILE)
        if fold.exists():
            ids = read_fold(fold, options.seed) + int(pool.firsts[first])
            _check_fold(ids, labels, pool, first, fold)
            return ids, f"fold {options.seed} of {FOLD_FILE}", fold
        notes.append(
            f"the published STL-10 split with {STL10_FOLD} labels is a line of "
            f"{FOLD_FILE}; this one is drawn and has other ids"
        )
    uniform = bool(stl10) or options.class_balance
    drawn = draw_labels(labels, count, options.seed, classes=len(classes), uniform=uniform)
    return drawn, "uniform" if uniform else "by shares", None


def _draw_counts(options: SplitOptions, labels: Int64Array, classes: tuple[str, ...]) -> Int64Array:
    wanted: dict[int, int] = {}
    for text, count in options.class_counts:
        c = class_id(text, classes, "--class_counts")
        if c in wanted:
            raise UsageError(f"class {classes[c]!r} is given twice", "--class_counts", "once")
        wanted[c] = count
    queues = _queues(labels, options.seed, len(classes))
    for c, count in sorted(wanted.items()):
        if count > len(queues[c]):
            raise DataError(
                f"{count} labels of class {classes[c]!r} were asked for, only {len(queues[c])} "
                "records have it as their true label",
                "--class_counts",
                f"at most {len(queues[c])}",
            )
    return np.concatenate([queues[c][:count] for c, count in sorted(wanted.items())])


def _counts_text(options: SplitOptions) -> str:
    return ",".join(f"{text}:{count}" for text, count in options.class_counts)


def _pool(labels: Int64Array, originals: Int64Array, options: SplitOptions) -> Int64Array:
    """The labels of the records that may be drawn; the others are −1."""
    size = options.label_pool
    if size is None:
        return originals
    if size > len(labels):
        raise DataError(f"--label_size is {size}, the input has {len(labels)} records")
    without = int((labels[:size] < 0).sum())
    if without:
        raise DataError(
            f"of the first {size} records {without} have no true label",
            "--label_size",
            f"--label_size={int(np.argmax(labels < 0))}, or leave it out",
        )
    return np.where(np.arange(len(labels)) < size, originals, -1)


def _follow(sources: Int64Array, originals: Int64Array) -> NDArray[np.bool_]:
    """Which records are copies of these originals."""
    chosen = np.zeros(len(sources), np.bool_)
    chosen[originals] = True
    return (sources >= 0) & chosen[np.maximum(sources, 0)]


def _valid(
    options: SplitOptions, pool: RecordPool, label_ids: Int64Array, unlabel_ids: Int64Array
) -> Int64Array:
    """The records that training will hold out, by the rule of ``realmix_tf.data.division``.

    These are the first originals with a true label that are not, pixel by pixel, a record of the
    labelled file.
    """
    if not options.validation:
        return np.zeros(0, np.int64)
    labels, sources = pool.tags.labels, pool.tags.sources
    hashes = PoolHashes(pool)
    labeled = hashes(label_ids)
    candidates = unlabel_ids[(labels[unlabel_ids] >= 0) & (sources[unlabel_ids] < 0)]
    while True:
        valid = candidates[: options.validation]
        equal = np.isin(hashes(valid), labeled)
        if not equal.any():
            break
        candidates = np.concatenate([valid[~equal], candidates[options.validation :]])
    if len(valid) < options.validation:
        raise DataError(
            f"{options.validation} validation images were asked for, but only {len(valid)} "
            "unlabelled originals with a true label can be held out",
            "--validation",
            f"--validation={len(valid)} or less",
        )
    return valid


def _gaps(
    options: SplitOptions, labeled: dict[str, int], valid: dict[str, int], total: dict[str, int]
) -> Iterator[str]:
    """What is said of classes that a set lacks."""
    for what, counts in (("label", labeled), ("validation image", valid)):
        if what != "label" and not options.validation:
            continue
        missing = [name for name in total if not counts[name]]
        if missing:
            shown = ", ".join(missing[:8]) + (", …" if len(missing) > 8 else "")
            yield f"{len(missing)} of {len(total)} classes get no {what}: {shown}"


def read_fold(path: Path, seed: int) -> Int64Array:
    """A line of STL-10's file of folds: the ids in its training set that are labelled.

    Raises:
      UsageError: there is no such line.
      DataError: the file is not what is published: 10 lines of 1,000 different whole numbers.
    """
    if not 0 <= seed < FOLDS:
        raise UsageError(
            f"--seed is {seed}; with {STL10_FOLD} labels of STL-10 it is a line of {FOLD_FILE}",
            path,
            f"--seed=0..{FOLDS - 1}",
        )
    remedy = "create_datasets stl10 writes it"
    with open_regular(path) as file:
        text = file.read(_MOST_FOLD_BYTES + 1)
    lines = text.split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if len(text) > _MOST_FOLD_BYTES or len(lines) != FOLDS:
        raise DataError(f"the file has not {FOLDS} lines of ids", path, remedy)
    folds = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        good = all(word.isdigit() and len(word) < 10 for word in words)
        if not good or len(words) != STL10_FOLD or len(set(words)) != STL10_FOLD:
            raise DataError(
                f"this is not a line of {STL10_FOLD} different ids",
                f"{path}, line {number}",
                remedy,
            )
        folds.append(np.array(words, np.int64))
    return folds[seed]


def _check_fold(
    ids: Int64Array, labels: Int64Array, pool: RecordPool, file: int, fold: Path
) -> None:
    inside = ids < pool.firsts[file + 1]
    known = inside & (labels[np.where(inside, ids, 0)] >= 0)
    if not known.all():
        wrong = int(ids[np.argmin(known)] - pool.firsts[file])
        raise DataError(
            f"id {wrong} is no record with a true label of {pool.readers[file].path.name}",
            fold,
            "the training set that the file belongs to",
        )


def _write_map(path: Path, split: _Split) -> None:
    """The ids of each file in its order, as JSON, without holding them all as Python numbers."""
    parts = {"label": split.label_ids, "unlabel": split.unlabel_ids}
    if len(split.valid_ids):
        parts["valid"] = split.valid_ids
    with atomic_write(path) as file:
        for key, ids in parts.items():
            file.write(f'{"{" if key == "label" else ", "}"{key}": ['.encode())
            for first in range(0, len(ids), _IDS_AT_ONCE):
                text = ", ".join(map(str, ids[first : first + _IDS_AT_ONCE].tolist()))
                file.write(((", " if first else "") + text).encode())
            file.write(b"]")
        file.write(b"}\n")


def describe(result: SplitResult) -> str:
    """The result as a table for people."""
    columns = [
        ("input", result.total, result.without_label),
        ("labelled", result.labeled, 0),
        ("unlabelled", result.unlabeled, result.without_label),
    ]
    if any(result.valid.values()):
        columns.append(("of these validation", result.valid, 0))
    width = max(len("class"), *(len(name) for name in result.total))
    rows = [(name, [counts[name] for _, counts, _ in columns]) for name in result.total]
    if result.without_label:
        rows.append(("(none)", [without for _, _, without in columns]))
    sums = [sum(counts.values()) + without for _, counts, without in columns]
    rows.append(("total", sums))
    lines = [f"{'class':<{width}}" + "".join(f"  {title}" for title, _, _ in columns)]
    lines += [
        f"{name:<{width}}"
        + "".join(
            f"  {value:>{len(title)}}" for (title, _, _), value in zip(columns, values, strict=True)
        )
        for name, values in rows
    ]
    lines.append(f"nothing lost: {sums[0]} = {sums[1]} labelled + {sums[2]} unlabelled")
    if any(result.copies):
        lines.append(
            f"copies with their originals: {result.copies[0]} labelled, "
            f"{result.copies[1]} unlabelled"
        )
    lines += [f"wrote {path}" for path in (result.label_file, result.unlabel_file, result.map_file)]
    lines.append(f"train with --dataset={result.name}")
    return "\n".join(lines)
