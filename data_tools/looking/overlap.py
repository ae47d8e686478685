"""Which pictures the sets of a dataset share: by exact pixels, and as near-duplicates.

Copies (records with a ``source``) of one picture are of one family; that they resemble each other
is no finding. Everything else that two sets share is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.looking import near_duplicates, sheets
from data_tools.looking.image_sets import UNKNOWN, ImageSet, open_sets
from data_tools.looking.inputs import Inputs
from data_tools.looking.near_duplicates import Describer, Descriptors
from data_tools.plan import FileUse, Plan, estimate_seconds, files, resident_bytes
from data_tools.progress import Progress
from realmix_tf.data.pixels import BLOCK_BYTES, decoded_blocks, pixel_hashes
from realmix_tf.errors import UsageError, printable

COMMAND = "check_split"
MOST_SETS = 32
SHOWN_PAIRS = 48  # of a sheet of pictures
_CELL = 96
_BYTES_PER_RECORD = 150  # hashes, ids, families and the table of pictures
_SAMPLE = 512

Int64Array = NDArray[np.int64]
UInt64Array = NDArray[np.uint64]

_LEAKS = (
    {"labeled", "test"},
    {"validation", "labeled"},
    {"validation", "unlabeled"},
)


@dataclass(frozen=True)
class OverlapOptions:
    """What to compare and how.

    Attributes:
      inputs: record files, or a dataset with its sets.
      near: look for near-duplicates too.
      examples: pairs to name for each two sets, at most.
      pictures: PNG file that shows the pairs; None for none.
      overwrite: replace that file.
    """

    inputs: Inputs
    near: bool = True
    examples: int = 20
    pictures: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class SetFacts:
    """A set as it was found.

    Attributes:
      images: its records; repeats: those that equal an earlier one of another family.
      copies: records made from another one.
      plain: different pictures without enough detail to look for near-duplicates.
    """

    name: str
    kind: str
    file: str
    images: int
    repeats: int
    copies: int
    plain: int


@dataclass(frozen=True)
class Place:
    """One record: its set, file, number and the name it was built from (may be empty)."""

    set: str
    file: str
    record: int
    name: str


@dataclass(frozen=True)
class Pair:
    """Two records that show the same picture; ``correlation`` is 1 where the pixels are equal."""

    exact: bool
    correlation: float
    first: Place
    second: Place


@dataclass(frozen=True)
class Overlap:
    """What the sets share.

    Attributes:
      sets: S sets, in the order of the rows and columns.
      exact: int [S][S]: different pictures that both sets have; the diagonal counts repeats.
      near: int [S][S]: images of the row set with a near-duplicate in the column set, pixels that
        are equal apart; None where it was not looked for.
      pairs: examples.
      leaks: what two sets share that must not, one line each.
      notes: remarks.
    """

    sets: tuple[SetFacts, ...]
    exact: tuple[tuple[int, ...], ...]
    near: tuple[tuple[int, ...], ...] | None
    pairs: tuple[Pair, ...]
    leaks: tuple[str, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The result as JSON-able data."""
        names = [facts.name for facts in self.sets]

        def table(rows: Sequence[Sequence[int]]) -> dict[str, dict[str, int]]:
            return {
                name: dict(zip(names, row, strict=True))
                for name, row in zip(names, rows, strict=True)
            }

        return {
            "sets": [asdict(facts) for facts in self.sets],
            "exact": table(self.exact),
            "near": None if self.near is None else table(self.near),
            "pairs": [asdict(pair) for pair in self.pairs],
            "leaks": list(self.leaks),
            "notes": list(self.notes),
        }


def find_overlap(options: OverlapOptions) -> Overlap:
    """Compares all sets with each other.

    Two pictures are equal when their decoded pixels are; ``near_duplicates`` says what else is the
    same picture. Of a dataset with augmented copies the copies are not decoded: what they were
    made from decides.

    Raises:
      DataError: a file is missing or damaged, or its copies cannot be told from each other.
      UsageError: the sheet of pictures exists; fewer validation images than the name asks for.
    """
    _check(options)
    with ExitStack() as stack:
        sets, notes = open_sets(options.inputs, stack)
        if len({item.reader.image_shape for item in sets}) > 1:
            notes.append("the sets have images of different sizes, which never have equal pixels")
        comparison = _Comparison(sets, options.near)
        comparison.read()
        comparison.compare()
        result = comparison.result(options.examples, notes)
        if options.pictures is not None:
            _draw(result, sets, options.pictures)
    return result


def plan_overlap(options: OverlapOptions) -> Plan:
    """What ``find_overlap`` would do.

    Raises:
      DataError, UsageError: as ``find_overlap``.
    """
    _check(options)
    with ExitStack() as stack:
        sets, notes = open_sets(options.inputs, stack)
        total = sum(len(item.ids) for item in sets)
        comparison = _Comparison(sets, options.near)
        seconds = comparison.estimate()
        paths = dict.fromkeys(item.reader.path for item in sets)
        largest = max(item.reader.sizes().max(initial=0) for item in sets)
        memory = resident_bytes() + total * _BYTES_PER_RECORD + 16 * BLOCK_BYTES + int(largest)
        if options.near:
            memory += total * comparison.describer.bytes_per_picture
            memory += 12 * near_duplicates.ROWS * near_duplicates.COLUMNS * (os.cpu_count() or 1)
        return Plan(
            reads=files(paths),
            writes=(FileUse(str(options.pictures), SHOWN_PAIRS * 2 * _CELL**2 * 3),)
            if options.pictures
            else (),
            memory=memory,
            seconds=seconds,
            facts={"images": {item.name: len(item.ids) for item in sets}},
            notes=tuple(notes),
        )


def describe(result: Overlap) -> str:
    """The result as tables for people."""
    lines = ["exact pixels: pictures that two sets share; on the diagonal, repeats within a set"]
    lines += _table(result.sets, result.exact)
    if result.near is not None:
        lines += ["", "near-duplicates: images of the row that have one in the column"]
        lines += _table(result.sets, result.near)
    shown = result.pairs[:10]
    if shown:
        lines += ["", f"examples ({len(shown)} of {len(result.pairs)}; --json has the others):"]
    for pair in shown:
        kind = "equal" if pair.exact else f"near, {pair.correlation:.2f}"
        lines.append(f"  {_place(pair.first)} = {_place(pair.second)} ({kind})")
    return "\n".join([*lines, "", *([*result.leaks] or ["nothing leaks between the sets"])])


def _table(sets: Sequence[SetFacts], rows: Sequence[Sequence[int]]) -> list[str]:
    names = [printable(facts.name) for facts in sets]
    first = max(map(len, names))
    width = max(8, *(len(name) for name in names))
    lines = [" ".join([f"{'':<{first}}", f"{'images':>8}", *(f"{n:>{width}}" for n in names)])]
    for name, facts, row in zip(names, sets, rows, strict=True):
        counts = (f"{count:>{width}}" for count in row)
        lines.append(" ".join([f"{name:<{first}}", f"{facts.images:>8}", *counts]))
    return lines


def _place(place: Place) -> str:
    name = f" {place.name}" if place.name else ""
    return printable(f"{place.set} {place.record}{name}")


def _check(options: OverlapOptions) -> None:
    sheets.check_target(options.pictures, options.overwrite)
    if options.examples < 0:
        raise UsageError(f"--examples is {options.examples}", "", "0 or more")
    if len(options.inputs.files) > MOST_SETS:
        raise UsageError(
            f"{len(options.inputs.files)} files are too many", "", f"at most {MOST_SETS} at a time"
        )


@dataclass
class _Comparison:
    sets: Sequence[ImageSet]
    near: bool
    describer: Describer = field(init=False)

    def __post_init__(self) -> None:
        shapes = [item.reader.image_shape for item in self.sets if len(item.ids)]
        shapes = shapes or [(1, 1, 1)]
        color = all(shape[2] == 3 for shape in shapes)
        self.describer = Describer(near_duplicates.working_size(shapes), color)
        self.pictures: dict[int, int] = {}  # hash → number of the picture
        self.parts: list[Descriptors] = []
        self.shown: list[Int64Array] = []  # for each set, the picture each record shows
        keys = _family_keys(self.sets)
        ends = np.cumsum([len(item.ids) for item in self.sets])
        self.families = np.split(keys, ends[:-1])
        self.near_pairs: list[tuple[int, int, float]] = []

    def read(self) -> None:
        """Decodes everything once: hashes, and descriptors of all different pictures."""
        total = sum(len(item.ids) for item in self.sets)
        with Progress(total, "images", "reading") as progress:
            for item in self.sets:
                numbers = [np.zeros(0, np.int64)]
                for _, images in decoded_blocks(item.reader, item.ids):
                    numbers.append(self._number(images))
                    progress.add(len(images))
                self.shown.append(np.concatenate(numbers))

    def _number(self, images: NDArray[np.uint8]) -> Int64Array:
        known, fresh, numbers = self.pictures, [], []
        for k, value in enumerate(pixel_hashes(images).tolist()):
            number = known.get(value)
            if number is None:
                number = known[value] = len(known)
                fresh.append(k)
            numbers.append(number)
        if self.near and fresh:
            self.parts.append(self.describer(images[fresh]))
        return np.array(numbers, np.int64)

    def compare(self) -> None:
        """Finds near-duplicates among the different pictures."""
        count = len(self.pictures)
        self.members = np.zeros(count, np.uint32)
        self.found = np.zeros(count, np.uint32)
        # Of equal pictures the last one seen stands for all.
        self.family_of = np.zeros(count, np.int64)
        for k, (numbers, families) in enumerate(zip(self.shown, self.families, strict=True)):
            self.members[numbers] |= np.uint32(1 << k)
            self.family_of[numbers] = families
        if not self.near or not count:
            return
        descriptors = near_duplicates.join(self.parts)
        self.parts.clear()
        self.plain = descriptors.plain
        pairs = near_duplicates.pairs_of(count)
        with Progress(pairs, "pairs", "comparing") as progress:
            found = near_duplicates.confirmed_pairs(descriptors, self._wanted, progress.add)
            for i, j, correlation in found:
                np.bitwise_or.at(self.found, i, self.members[j])
                np.bitwise_or.at(self.found, j, self.members[i])
                self.near_pairs += zip(i.tolist(), j.tolist(), correlation.tolist(), strict=True)

    def _wanted(self, i: Int64Array, j: Int64Array) -> NDArray[np.bool_]:
        """Pairs of different families that say something new about either picture."""
        new = (self.members[j] & ~self.found[i]) | (self.members[i] & ~self.found[j])
        return np.asarray((new != 0) & (self.family_of[i] != self.family_of[j]))

    def result(self, examples: int, notes: list[str]) -> Overlap:
        """Everything that was found."""
        size = range(len(self.sets))
        exact = np.zeros((len(size), len(size)), np.int64)
        near = np.zeros_like(exact)
        pairs: list[Pair] = []
        for a in size:
            for b in range(a, len(size)):
                shared = self._repeated(a) if a == b else self._shared(a, b)
                exact[a, b] = exact[b, a] = self._repeats(a) if a == b else len(shared)
                pairs += self._exact_pairs(a, b, shared[:examples])
            if self.near:
                bits = self.found[self.shown[a]]
                near[a] = [int(((bits >> np.uint32(b)) & 1).sum()) for b in size]
        pairs += self._examples_of_near(examples)
        leaks = self._leaks(exact, near)
        plain = self._plain()
        if sum(plain):
            notes = [*notes, f"{sum(plain)} pictures have too little detail for near-duplicates"]
        facts = tuple(
            SetFacts(
                item.name,
                item.kind,
                str(item.reader.path),
                len(item.ids),
                int(exact[k, k]),
                int((item.reader.sources[item.ids] >= 0).sum()),
                plain[k],
            )
            for k, item in enumerate(self.sets)
        )
        order = {True: 0, False: 1}
        pairs.sort(key=lambda pair: (order[self._leaking(pair)], not pair.exact))
        return Overlap(
            facts,
            tuple(map(tuple, exact.tolist())),
            tuple(map(tuple, near.tolist())) if self.near else None,
            tuple(pairs),
            tuple(leaks),
            tuple(notes),
        )

    def _spans(self, k: int) -> tuple[Int64Array, Int64Array]:
        """The lowest and highest family of each picture in a set; highest −1 where it has none."""
        least = np.full(len(self.pictures), np.iinfo(np.int64).max)
        most = np.full(len(self.pictures), -1)
        np.minimum.at(least, self.shown[k], self.families[k])
        np.maximum.at(most, self.shown[k], self.families[k])
        return least, most

    def _shared(self, a: int, b: int) -> Int64Array:
        (least_a, most_a), (least_b, most_b) = self._spans(a), self._spans(b)
        both = (most_a >= 0) & (most_b >= 0)
        differ = np.minimum(least_a, least_b) != np.maximum(most_a, most_b)
        return np.flatnonzero(both & differ)

    def _repeated(self, k: int) -> Int64Array:
        least, most = self._spans(k)
        return np.flatnonzero((most >= 0) & (least != most))

    def _repeats(self, k: int) -> int:
        pairs = np.unique(np.stack([self.shown[k], self.families[k]]), axis=1)
        return pairs.shape[1] - len(np.unique(self.shown[k]))

    def _exact_pairs(self, a: int, b: int, pictures: Int64Array) -> Iterator[Pair]:
        for picture in pictures.tolist():
            first = np.flatnonzero(self.shown[a] == picture)
            second = np.flatnonzero(self.shown[b] == picture)
            if a == b:
                families = self.families[a][second]
                second = second[families != self.families[a][first[0]]]
            yield Pair(True, 1.0, self._at(a, first[0]), self._at(b, second[0]))

    def _examples_of_near(self, most: int) -> list[Pair]:
        """For each two sets the pairs that agree best, one a picture where there are enough."""
        pairs: list[Pair] = []
        taken: dict[tuple[int, int], int] = {}
        firsts = [np.unique(numbers, return_index=True) for numbers in self.shown]
        for i, j, correlation in sorted(self.near_pairs, key=lambda pair: -pair[2]):
            for a in self._sets_with(i):
                for b in self._sets_with(j):
                    key = min(a, b), max(a, b)
                    if taken.get(key, 0) >= most:
                        continue
                    taken[key] = taken.get(key, 0) + 1
                    places = [
                        self._at(k, index[np.searchsorted(numbers, picture)])
                        for k, picture, (numbers, index) in ((a, i, firsts[a]), (b, j, firsts[b]))
                    ]
                    if a > b:
                        places.reverse()
                    pairs.append(Pair(False, round(correlation, 4), *places))
        return pairs

    def _sets_with(self, picture: int) -> list[int]:
        bits = int(self.members[picture])
        return [k for k in range(len(self.sets)) if bits >> k & 1]

    def _at(self, k: int, position: int) -> Place:
        item = self.sets[k]
        record = int(item.ids[position])
        name = item.reader.record(record).name or ""
        return Place(item.name, str(item.reader.path), record, printable(name))

    def _leaking(self, pair: Pair) -> bool:
        kinds = {item.name: item.kind for item in self.sets}
        a, b = pair.first.set, pair.second.set
        return a != b and is_leak(kinds[a], kinds[b])

    def _leaks(self, exact: Int64Array, near: Int64Array) -> list[str]:
        lines = []
        for a, first in enumerate(self.sets):
            for b in range(a + 1, len(self.sets)):
                second = self.sets[b]
                if not is_leak(first.kind, second.kind):
                    continue
                if exact[a, b]:
                    lines.append(
                        f"LEAK: {first.name} and {second.name} share {exact[a, b]} pictures"
                    )
                if near[a, b]:
                    lines.append(
                        f"LEAK: {near[a, b]} images of {first.name} have near-duplicates in "
                        f"{second.name}"
                    )
        return lines

    def _plain(self) -> list[int]:
        if not self.near or not self.pictures:
            return [0] * len(self.sets)
        return [int(self.plain[np.unique(numbers)].sum()) for numbers in self.shown]

    def estimate(self) -> float:
        """Seconds that the whole comparison takes, from samples of both steps."""
        item = max(self.sets, key=lambda item: len(item.ids))
        total = sum(len(other.ids) for other in self.sets)

        def reading() -> int:
            done = 0
            for _, images in decoded_blocks(item.reader, item.ids[:_SAMPLE]):
                pixel_hashes(images)
                if self.near:
                    sample.append(self.describer(images))
                done += len(images)
            return done

        sample: list[Descriptors] = []
        seconds = estimate_seconds(total, reading)
        if sample:
            begin = time.perf_counter()
            pairs = near_duplicates.sample_pairs(near_duplicates.join(sample))
            elapsed = time.perf_counter() - begin
            seconds += elapsed * near_duplicates.pairs_of(total) / pairs
        return seconds


def is_leak(a: str, b: str) -> bool:
    """Whether sets of these kinds must not share a picture."""
    return "other" in (a, b) or {a, b} in _LEAKS


def _family_keys(sets: Sequence[ImageSet]) -> Int64Array:
    """One number for each family, over all sets; records of no known family have one each."""
    spaces = {item.space: k for k, item in enumerate(sets)}
    families = np.concatenate([item.families for item in sets])
    space = np.concatenate([np.full(len(item.ids), spaces[item.space]) for item in sets])
    _, inverse = np.unique(np.stack([space, families]), axis=1, return_inverse=True)
    # Some versions of numpy keep the other axis.
    keys = np.asarray(inverse, np.int64).reshape(-1)
    unknown = np.flatnonzero(families == UNKNOWN)
    keys[unknown] = len(keys) + np.arange(len(unknown))
    return keys


def _draw(result: Overlap, sets: Sequence[ImageSet], path: Path) -> None:
    readers = {item.reader.path: item.reader for item in sets}
    rows = []
    for pair in result.pairs[:SHOWN_PAIRS]:
        pictures = []
        for place in (pair.first, pair.second):
            reader = readers[Path(place.file)]
            ((_, images),) = decoded_blocks(reader, np.array([place.record]))
            pictures.append(images[0])
        kind = "equal pixels" if pair.exact else f"near, correlation {pair.correlation:.3f}"
        lines = (_place(pair.first), _place(pair.second), kind)
        rows.append(sheets.Row(lines, pictures))
    title = [f"{COMMAND}: {len(rows)} of {len(result.pairs)} pairs; leaks first"]
    sheets.save(sheets.sheet(title, rows, _CELL, 250, columns=3), path)
