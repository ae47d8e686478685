"""Datasets from a user's own images: class folders, or files named ``{number}_{class}.ext``."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_tools.folders.rename_journal import OWN_FILES
from data_tools.outputs import NewFiles, OutputSet, outside_inputs
from data_tools.pictures.balance import Balanced, balance, class_target
from data_tools.pictures.class_folders import (
    EXPECTED,
    LabeledFolder,
    alike_class,
    classes_by_name,
    contents,
    scan_labeled,
)
from data_tools.pictures.decoding import FILE_TIMEOUT, Batch, Decoder, ImageFormat, processors
from data_tools.pictures.file_sample import FileSample
from data_tools.pictures.listing import Listing
from data_tools.pictures.picture_report import SHOWN, PictureReport
from data_tools.pictures.pseudo_labels import match, occurring, read_predictions
from data_tools.pictures.used_pictures import UsedPictures
from data_tools.pictures.work import Job, Work, make_job
from data_tools.plan import FileUse, Plan, estimate_seconds, resident_bytes
from data_tools.progress import Progress
from data_tools.sources import COMMAND, SourceResult
from realmix_tf.data.images import MAX_PIXELS, ImageEntry, png_bytes_estimate, walk_images
from realmix_tf.data.manifest import manifest_path, provenance
from realmix_tf.data.names import check_dataset
from realmix_tf.data.record_writer import RecordWriter
from realmix_tf.errors import DataError, ResourceError, UsageError, printable
from realmix_tf.files import require_space, require_writable, write_json

ON_BAD = ("error", "skip")
CROPS = ("none", "center")
MAX_BAD = 10.0
CUTOUT = ("", "train", "unlabel", "all")
CUTOUT_PROBABILITY = 0.3

# The names of the files and the framing take some 150 bytes a record.
_BESIDES_THE_IMAGE = 150
# A file takes 2 bytes for its name's place, a record up to 28 for its label, its place in the
# order and what balancing adds.
_BYTES_A_RECORD = 30


@dataclass(frozen=True)
class CustomOptions:
    """What to build from.

    Attributes:
      name: of the dataset.
      data_dir: where the records go.
      train_dir: labelled training images.
      test_dir: labelled test images.
      unlabel_dir: unlabelled images in any arrangement; None for none.
      size: (height, width) of the records' images, in pixels.
      crop: ``center`` cuts off what is too much of an image's longer side, on both ends alike;
        ``none`` stretches.
      channels: 1 or 3.
      max_pixels: larger images are refused.
      min_side: images with a shorter side, in pixels, are refused.
      allow_missing: a class of the training folder may be missing in the test folder.
      on_bad: ``error`` or ``skip``: what unreadable labelled images do; unlabelled ones are
        left out in any case.
      max_bad: percent of the files of a folder that may be unreadable, from 101 files on; 100
        turns this limit off, and that of 100 in a row.
      file_timeout: seconds after which a file is given up.
      train_balance: as many labelled training images in all, each class as many as the others;
        0 for as many as there are. See ``data_tools.pictures.balance``.
      unlabel_balance: the same for the unlabelled images, over the classes that
        ``prediction_balance``, else ``pseudo_label``, else the names of their folders give.
      prediction_balance: a predictions file of exactly the unlabelled images.
      pseudo_label: the same; what it says becomes the unlabelled images' pseudo labels.
      min_confidence: predictions with a lower probability are not used; 0 uses all.
      cutout: ``train``, ``unlabel`` or ``all``: which training images have a rectangle erased.
      cutout_prob: the probability of that, 0..1.
      seed: of the order, of balancing and of erasing.
      overwrite: replace an existing dataset of this name.
      workers: decoding processes; the number of processors when None.
    """

    name: str
    data_dir: Path
    train_dir: Path
    test_dir: Path
    unlabel_dir: Path | None = None
    size: tuple[int, int] = (32, 32)
    crop: str = "none"
    channels: int = 3
    max_pixels: int = MAX_PIXELS
    min_side: int = 1
    allow_missing: bool = False
    on_bad: str = "error"
    max_bad: float = MAX_BAD
    file_timeout: float = FILE_TIMEOUT
    train_balance: int = 0
    unlabel_balance: int = 0
    prediction_balance: Path | None = None
    pseudo_label: Path | None = None
    min_confidence: float = 0.0
    cutout: str = ""
    cutout_prob: float = CUTOUT_PROBABILITY
    seed: int = 0
    overwrite: bool = False
    workers: int | None = None

    @property
    def folders(self) -> dict[str, Path]:
        """The input folders by part."""
        found = {"train": self.train_dir, "test": self.test_dir}
        if self.unlabel_dir is not None:
            found["unlabeled"] = self.unlabel_dir
        return found

    @property
    def image_format(self) -> ImageFormat:
        """What the images become."""
        cut = self.crop == "center"
        return ImageFormat(*self.size, self.channels, self.max_pixels, self.min_side, cut)

    @property
    def command(self) -> str:
        """The command line that decides what the records hold, for their manifests."""
        height, width = self.size
        words = [f"{COMMAND} custom --name={self.name} --img_size={height}x{width}"]
        words.append(f"--channels={self.channels}")
        words += [f"--crop={self.crop}"] if self.crop != "none" else []
        for name in ("train_balance", "unlabel_balance", "min_confidence", "cutout"):
            if getattr(self, name):
                words.append(f"--{name}={getattr(self, name)}")
        for name in ("prediction_balance", "pseudo_label"):
            path = getattr(self, name)
            words += [f"--{name}={printable(path.name)}"] if path else []
        words += [f"--cutout_prob={self.cutout_prob:g}"] if self.cutout else []
        return " ".join(words)


def _require_apart(folders: Sequence[Path]) -> None:
    """Refuses folders that share pictures: those would be trained on and tested with.

    Raises:
      UsageError: one is, or lies in, another.
    """
    resolved = [folder.resolve() for folder in folders]
    for i, one in enumerate(resolved):
        for j, other in enumerate(resolved):
            if i != j and one.is_relative_to(other):
                raise UsageError(
                    "the pictures of this folder would count twice, as it is or lies in another "
                    "input folder",
                    folders[i],
                    "separate folders for --traindir, --unlabeldir and --testdir",
                )


@dataclass
class _Scan:
    """What the folders hold, and what is to be made of it, after all checks without decoding."""

    classes: tuple[str, ...]
    listings: dict[str, Listing]
    jobs: dict[str, Job]
    notes: list[str]
    report: PictureReport

    @property
    def records(self) -> int:
        """Records to make, if all files can be read."""
        return sum(map(len, self.jobs.values()))

    def close(self) -> None:
        """Gives up what lies on the disk meanwhile."""
        self.report.close()
        for listing in self.listings.values():
            listing.close()


@dataclass(frozen=True)
class _Files:
    train: Path
    test: Path
    mapping: Path
    report: Path

    @classmethod
    def of(cls, options: CustomOptions) -> _Files:
        folder, name = options.data_dir, options.name
        return cls(
            folder / f"{name}-train.tfrecord",
            folder / f"{name}-test.tfrecord",
            folder / f"{name}_class_mappings.json",
            folder / f"{name}-report.json",
        )

    @property
    def all(self) -> tuple[Path, ...]:
        """Everything that is written, the marks of complete files before these."""
        records = (self.train, self.test)
        return (*map(manifest_path, records), *records, self.mapping, self.report)


def _check(options: CustomOptions) -> OutputSet:
    """What can be refused without looking into the folders."""
    check_dataset(options.name)
    if min(options.size) < 1 or options.channels not in (1, 3) or options.max_pixels < 1:
        raise UsageError("size, channels or max_pixels is out of range", "", "--channels=1 or 3")
    if options.crop not in CROPS:
        raise UsageError(f"there is no crop {options.crop!r}", "--crop", " or ".join(CROPS))
    if options.on_bad not in ON_BAD:
        raise UsageError(f"on_bad is {options.on_bad!r}", "", "--on_bad=error or skip")
    if not 0 <= options.max_bad <= 100:
        raise UsageError(f"max_bad is {options.max_bad:g} percent", "", "--max_bad from 0 to 100")
    if not 0 < options.file_timeout < 86_400:
        raise UsageError(f"file_timeout is {options.file_timeout:g} seconds", "", "60")
    if options.workers is not None and not 1 <= options.workers <= 1024:
        raise UsageError(f"{options.workers} workers", "", "--workers from 1 to 1024")
    if options.min_side < 1:
        raise UsageError(f"min_side is {options.min_side}", "", "--min_side from 1")
    _check_balance(options)
    files = _Files.of(options)
    inputs = list(options.folders.values())
    outside_inputs([files.train], inputs)
    _require_apart(inputs)
    outputs = OutputSet([files.test], files.train, COMMAND, options.overwrite)
    outputs.check()
    require_writable(options.data_dir)
    return outputs


def _check_balance(options: CustomOptions) -> None:
    if options.cutout not in CUTOUT:
        raise UsageError(f"cutout is {options.cutout!r}", "", "--cutout=train, unlabel or all")
    for name in ("cutout_prob", "min_confidence"):
        if not 0 <= getattr(options, name) <= 1:
            raise UsageError(f"{name} is {getattr(options, name):g}", "", f"--{name} from 0 to 1")
    for name in ("train_balance", "unlabel_balance", "seed"):
        if not 0 <= getattr(options, name) < 2**31:
            raise UsageError(f"{name} is {getattr(options, name)}", "", f"--{name} from 0")
    if options.unlabel_dir is None:
        for name in ("unlabel_balance", "prediction_balance", "pseudo_label"):
            if getattr(options, name):
                raise UsageError(f"--{name} needs --unlabeldir", "", "--unlabeldir=FOLDER")
    if options.prediction_balance and not options.unlabel_balance:
        raise UsageError(
            "--prediction_balance does not say how many images are wanted", "", "--unlabel_balance"
        )
    if options.min_confidence and not (options.prediction_balance or options.pseudo_label):
        raise UsageError("--min_confidence needs predictions", "", "--pseudo_label=FILE")
    if options.cutout_prob != CUTOUT_PROBABILITY and not options.cutout:
        raise UsageError("--cutout_prob does not say what to erase", "", "--cutout=train")


def _scan(options: CustomOptions, spill: Path | None) -> _Scan:
    """Lists the folders; ``spill`` as for ``Listing``."""
    labeled_action = "left out" if options.on_bad == "skip" else "stopped the build"
    report = PictureReport(
        _Files.of(options).report,
        spill,
        options.max_bad,
        {"train": labeled_action, "test": labeled_action, "unlabeled": "left out"},
    )
    folders = options.folders
    resolved = {part: os.path.realpath(folder) + os.sep for part, folder in folders.items()}

    def entries(part: str) -> Iterator[ImageEntry]:
        others = tuple(root for other, root in resolved.items() if other != part)

        def leave_out(name: str, reason: str) -> None:
            # rename_files may have been there before; what it leaves is nothing to wonder about.
            if os.path.basename(name) not in OWN_FILES:
                report.leave_out(part, name, reason)

        for entry in walk_images(folders[part], leave_out):
            if entry.name == ".":
                raise ResourceError(entry.problem, folders[part], "permission to list the folder")
            if entry.link and os.path.realpath(entry.path).startswith(others):
                report.remark(part, entry.path, "a link to a picture in another input folder")
            yield entry

    def labeled(part: str) -> LabeledFolder:
        def leave_out(*what: str) -> None:
            report.leave_out(part, *what)

        return scan_labeled(folders[part], spill, entries(part), leave_out)

    train, test = labeled("train"), labeled("test")
    classes = train.names
    notes = [*train.notes, *(note for note in test.notes if note not in train.notes)]
    notes += _compare_classes(options, classes, test.names)
    rank = {name: i for i, name in enumerate(classes)}
    ids = np.array([rank[name] for name in test.names], train.labels.dtype)
    erased = {
        part: options.cutout_prob if options.cutout in (which, "all") else 0.0
        for part, which in (("train", "train"), ("unlabeled", "unlabel"))
    }
    balanced = None
    if options.train_balance:
        labels = train.labels.astype(np.int64)
        balanced = _balance(options, labels, classes, options.train_balance, notes, "training")
    listings = {"train": train.listing, "test": test.listing}
    jobs = {
        "train": make_job(
            "train", train.listing, train.labels,
            balanced=balanced, mix=True, cutout=erased["train"], seed=options.seed,
        ),
        "test": make_job("test", test.listing, ids[test.labels]),
    }  # fmt: skip
    if options.unlabel_dir is not None:
        listing = Listing(options.unlabel_dir, spill)
        for entry in entries("unlabeled"):
            listing.add(entry)
        if not len(listing):
            raise DataError(
                f"no images in this folder, {contents(options.unlabel_dir)}",
                options.unlabel_dir,
                "images in any arrangement, or no --unlabeldir",
            )
        listings["unlabeled"] = listing
        jobs["unlabeled"] = _unlabeled_job(options, listing, classes, erased["unlabeled"], notes)
    return _Scan(classes, listings, jobs, notes, report)


def _balance(
    options: CustomOptions,
    labels: NDArray[np.int64],
    classes: Sequence[str],
    total: int,
    notes: list[str],
    kind: str,
) -> Balanced:
    count = class_target(total, len(classes)) * len(classes)
    require_space(options.data_dir, count * _record_bytes(options), f"{count} records")
    result = balance(labels, classes, total, options.seed)
    used = int((result.copies == 0).sum())
    notes.append(
        f"balanced: {class_target(total, len(classes))} {kind} images of each of {len(classes)} "
        f"classes, {used} of {len(labels)} images and {len(result.rows) - used} augmented copies"
    )
    return result


def _unlabeled_job(
    options: CustomOptions,
    listing: Listing,
    classes: tuple[str, ...],
    cutout: float,
    notes: list[str],
) -> Job:
    pseudo = balanced = None
    if options.pseudo_label is not None:
        pseudo, _ = _predicted(options, options.pseudo_label, listing, classes, notes)
    if options.unlabel_balance:
        if options.prediction_balance is not None:
            found = _predicted(options, options.prediction_balance, listing, None, notes)
        else:
            found = classes_by_name(listing) if pseudo is None else (pseudo, classes)
        labels, names = occurring(*found)
        balanced = _balance(options, labels, names, options.unlabel_balance, notes, "unlabelled")
    return make_job(
        "unlabeled",
        listing,
        # The same number throughout, stored once.
        np.broadcast_to(np.int64(-1), len(listing)),
        pseudo=pseudo,
        balanced=balanced,
        cutout=cutout,
        seed=options.seed,
    )


def _predicted(
    options: CustomOptions,
    path: Path,
    listing: Listing,
    classes: tuple[str, ...] | None,
    notes: list[str],
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """What a file predicts for the unlabelled images: ids (−1 for none) and the classes' names."""
    predictions = read_predictions(path)
    confidence = options.min_confidence or None
    matched = match(predictions, listing.root, (e.name for e in listing), classes, confidence)
    for count, why in (
        (matched.unreadable, "could not be read when they were predicted"),
        (matched.unsure, f"were predicted with less than {options.min_confidence:g}"),
    ):
        if count:
            notes.append(f"{count} unlabelled images {why}, {path.name} gives them no class")
    return matched.labels, predictions.classes if classes is None else classes


def build_custom(options: CustomOptions) -> SourceResult:
    """Writes ``<name>-{train,test}.tfrecord``, ``_class_mappings.json`` and ``-report.json``.

    The training file holds the labelled images first, class-mixed in a fixed seeded order, then
    the unlabelled ones (``labeled`` = 0). The classes and their order are those of the training
    folder. Unreadable unlabelled images are left out, counted and reported; unreadable labelled
    ones end the build after all of them were listed in the report, or are left out too
    (``on_bad``). Memory is some tens of bytes a file beside what the processes need.

    Raises:
      UsageError: the dataset exists, or options that make no sense.
      DataError: folders, names or images that cannot be used.
      ResourceError: the records do not fit or cannot be written.
    """
    outputs = _check(options)
    scan = _scan(options, options.data_dir)
    try:
        return _build(options, outputs, scan)
    finally:
        scan.close()


def _build(options: CustomOptions, outputs: OutputSet, scan: _Scan) -> SourceResult:
    files, report, classes = _Files.of(options), scan.report, scan.classes
    _require_room(options, scan)
    common: dict[str, Any] = {
        "dataset": options.name,
        "classes": classes,
        "shape": options.image_format.shape,
        "provenance": provenance(
            options.command,
            seed=options.seed,
            more={} if options.crop == "none" else {"resize": options.crop},
        ),
        "overwrite": True,
    }
    with (
        NewFiles(options.data_dir) as new,
        RecordWriter(files.train, role="train", **common) as train_writer,
        RecordWriter(files.test, role="test", **common) as test_writer,
        contextlib.closing(UsedPictures(options.data_dir)) as used,
    ):
        with (
            Progress(scan.records, "images", "decoding") as progress,
            Decoder(options.image_format, options.workers, options.file_timeout) as decoder,
        ):
            builder = _Builder(decoder, progress, report, used)
            made = {
                "train": builder.add(train_writer, scan.jobs["train"]),
                "test": builder.add(test_writer, scan.jobs["test"]),
            }
            if options.on_bad == "error":
                report.stop_if_bad(tuple(made))
            for part, outcome in made.items():
                _require_classes(scan.jobs[part].originals, outcome.kept, classes, report)
            if "unlabeled" in scan.jobs:
                made["unlabeled"] = builder.add(train_writer, scan.jobs["unlabeled"])
                _require_some(made["unlabeled"], scan.listings["unlabeled"], report)
        # The processes have ended, and given back the memory that this takes.
        same = used.find_same(classes, report)
        # Only now, when nothing can go wrong any more, does an older set lose its validity.
        # The writers commit in reverse: the training file, the mark of the set, is the last.
        new.about_to_write(files.all)
        outputs.open()
        write_json(files.mapping, dict(enumerate(classes)))
        report.write()
    facts = _facts(scan, made) | {"notes": scan.notes + report.summary() + same}
    written = (files.train, files.test, files.mapping, files.report)
    return SourceResult(options.name, written, False, facts)


def _facts(scan: _Scan, made: dict[str, _Made]) -> dict[str, Any]:
    """Counts for the result of a build."""
    records = {part: len(outcome.kept) + len(outcome.copies) for part, outcome in made.items()}
    train = scan.jobs["train"].originals.labels[made["train"].kept]
    facts: dict[str, Any] = {
        "classes": _per_class(scan.classes, np.concatenate([train, made["train"].copies])),
        "labeled": records["train"],
        "unlabeled": records.get("unlabeled", 0),
        "unlabeled_unreadable": scan.report.unreadable["unlabeled"],
        "test": records["test"],
        "left_out": scan.report.left_out,
    }
    copies = {part: len(outcome.copies) for part, outcome in made.items() if len(outcome.copies)}
    if copies:
        facts["copies"] = copies
    pseudo = scan.jobs["unlabeled"].originals.pseudo if "unlabeled" in made else None
    if pseudo is not None:
        facts["pseudo_labels"] = _per_class(scan.classes, pseudo[pseudo >= 0])
    for key, part in (("labeled_unreadable", "train"), ("test_unreadable", "test")):
        labels = np.delete(scan.jobs[part].originals.labels, made[part].kept)
        lost = _per_class(scan.classes, labels)
        if any(lost.values()):
            facts[key] = {name: count for name, count in lost.items() if count}
    return facts


def plan_custom(options: CustomOptions) -> Plan:
    """What ``build_custom`` would do; the folders are listed, and a sample of files is decoded.

    Raises:
      UsageError, DataError, ResourceError: as ``build_custom`` before it decodes.
    """
    _check(options)
    scan = _scan(options, None)
    try:
        _require_room(options, scan)
        with Decoder(options.image_format, options.workers, options.file_timeout) as decoder:
            sample = FileSample(decoder, [job.originals for job in scan.jobs.values()])
            seconds = estimate_seconds(scan.records, sample.run)
        return _plan(options, scan, sample, seconds)
    finally:
        scan.close()


def _plan(options: CustomOptions, scan: _Scan, sample: FileSample, seconds: float) -> Plan:
    files, jobs = _Files.of(options), scan.jobs
    tests = len(jobs["test"])
    each = sample.bytes_a_record or _record_bytes(options)
    writes = [
        FileUse(str(path), round(count * each))
        for path, count in ((files.train, scan.records - tests), (files.test, tests))
    ]
    # The report grows with what there is to say; this is an empty one.
    writes += [FileUse(str(files.mapping), 20 * len(scan.classes)), FileUse(str(files.report), 100)]
    largest_child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    largest_child *= 1 if sys.platform == "darwin" else 1024
    workers = options.workers or processors()
    facts: dict[str, Any] = {
        "classes": _per_class(scan.classes, jobs["train"].labels),
        "test_classes": _per_class(scan.classes, jobs["test"].labels),
        "labeled": len(jobs["train"]),
        "unlabeled": scan.records - tests - len(jobs["train"]),
        "test": tests,
        "left_out": scan.report.left_out,
    }
    return Plan(
        reads=tuple(
            FileUse(str(folder), _bytes_of(scan.listings[part]))
            for part, folder in options.folders.items()
        ),
        writes=tuple(writes),
        memory=resident_bytes() + workers * largest_child + scan.records * _BYTES_A_RECORD,
        seconds=seconds,
        facts=facts,
        notes=(*scan.notes, *scan.report.summary(), *sample.notes()),
    )


def _bytes_of(listing: Listing) -> int:
    total = 0
    for entry in listing:
        with contextlib.suppress(OSError):
            total += os.stat(entry.path).st_size
    return total


def _record_bytes(options: CustomOptions) -> int:
    """An upper estimate of a record, in bytes."""
    return png_bytes_estimate(*options.image_format.shape) + _BESIDES_THE_IMAGE


def _require_room(options: CustomOptions, scan: _Scan) -> None:
    needed = scan.records * _record_bytes(options)
    require_space(options.data_dir, needed, f"{scan.records} records")


def _per_class(classes: Sequence[str], labels: NDArray[np.integer]) -> dict[str, int]:
    counts = np.bincount(labels, minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def _require_classes(
    work: Work, good: NDArray[np.int64], names: Sequence[str], report: PictureReport
) -> None:
    """Checks that every class kept some of its labelled images, those at ``good``."""
    before = np.bincount(work.labels, minlength=len(names))
    after = np.bincount(work.labels[good], minlength=len(names))
    gone = [names[i] for i in np.flatnonzero((before > 0) & (after == 0)).tolist()]
    if gone:
        report.write()
        raise DataError(
            f"no {work.part} image of the class {', '.join(map(repr, gone[:SHOWN]))} can be read",
            f"the reasons are in {report.path}",
            "repair the images or remove the class",
        )


def _require_some(made: _Made, listing: Listing, report: PictureReport) -> None:
    if not len(made.kept):
        report.write()
        raise DataError(
            f"none of the {len(listing)} files is an image that can be read",
            listing.root,
            f"the reasons are in {report.path}",
        )


class _Made(NamedTuple):
    """What became of a job: the places of the originals that became records, int64 ascending, and
    the labels of the copies that did."""

    kept: NDArray[np.int64]
    copies: NDArray[np.integer]


class _Builder:
    """Decodes files and appends them to a record file."""

    def __init__(
        self, decoder: Decoder, progress: Progress, report: PictureReport, used: UsedPictures
    ) -> None:
        self._decoder, self._progress = decoder, progress
        self._report, self._used = report, used

    def add(self, writer: RecordWriter, job: Job) -> _Made:
        """Makes the records of a job."""
        first = writer.records
        kept = self._add(writer, job.originals)
        # Copies say which record they are copies of, which only now is known.
        work = job.copies_of(kept, first)
        if work is None:
            return _Made(kept, np.zeros(0, np.int64))
        return _Made(kept, work.labels[self._add(writer, work)])

    def _add(self, writer: RecordWriter, work: Work) -> NDArray[np.int64]:
        start = 0
        for batch in self._decoder.encode(len(work), work.items, work.step):
            labels = work.labels[start : start + batch.items][batch.good]
            writer.write_frames(batch.frames, labels.astype(np.int64))
            self._used.add(batch.hashes, batch.good + start)
            self._tell(work, start, batch)
            self._progress.add(batch.items)
            start += batch.items
        return self._used.end_part(work)

    def _tell(self, work: Work, start: int, batch: Batch) -> None:
        def path(place: int) -> str:
            return work.listing.entry(int(work.rows[start + place])).path

        for place, reason in batch.problems:
            self._report.bad(work.part, path(place), reason)
        if work.sources is None:
            for place, note in batch.notes:
                self._report.remark(work.part, path(place), note)
        bad = [place for place, _ in batch.problems]
        self._report.tried(work.part, batch.items, bad)


def _compare_classes(
    options: CustomOptions, classes: tuple[str, ...], in_test: tuple[str, ...]
) -> list[str]:
    if len(classes) < 2:
        raise DataError(
            f"only one class, {classes[0]!r}", options.train_dir, "at least two: " + EXPECTED
        )
    unknown = sorted(set(in_test) - set(classes))
    if unknown:
        same = [name for name in classes if alike_class(name) == alike_class(unknown[0])]
        raise DataError(
            f"the test folder has a class that training has not: {unknown[0]!r}",
            options.test_dir,
            f"the name {same[0]!r}" if same else f"one of {', '.join(classes[:20])}",
        )
    missing = sorted(set(classes) - set(in_test))
    if missing and not options.allow_missing:
        raise DataError(
            f"the test folder lacks the class {', '.join(map(repr, missing[:SHOWN]))}",
            options.test_dir,
            "images of it, or --allow_missing",
        )
    return [f"the test set lacks {', '.join(map(repr, missing))}"] if missing else []
