"""Which pictures became records of a dataset, and which of them are the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.pictures.listing import Spill
from data_tools.pictures.picture_report import PictureReport
from data_tools.pictures.same_pictures import TEST, TRAIN, UNLABELED, Groups, same_pictures
from data_tools.pictures.work import Work
from realmix_tf.errors import printable

_EXAMPLES = 20
_PART_CODES = {"train": TRAIN, "test": TEST, "unlabeled": UNLABELED}


class UsedPictures:
    """Which pictures became records, and their hashes, 12 bytes a picture on the disk.

    Args:
      spill: the folder that may hold them.
    """

    def __init__(self, spill: Path) -> None:
        self._hashes, self._places = Spill(spill), Spill(spill)
        self._parts: list[tuple[Work, int]] = []

    def add(self, hashes: NDArray[np.uint64], places: NDArray[np.int64]) -> None:
        """Notes records of the part that ``end_part`` will end."""
        self._hashes.append(hashes.tobytes())
        self._places.append(places.astype(np.uint32).tobytes())

    def end_part(self, work: Work) -> NDArray[np.int64]:
        """Ends a part; returns the places of its items that became records, in their order."""
        before = sum(count for _, count in self._parts)
        data = self._places.read(4 * before, self._places.size)
        places = np.frombuffer(data, np.uint32).astype(np.int64)
        self._parts.append((work, len(places)))
        return places

    def find_same(self, classes: Sequence[str], report: PictureReport) -> list[str]:
        """Looks for pictures that occur more than once.

        Args:
          classes: names of the classes.
          report: its ``same_pictures`` are filled.

        Returns:
          Warnings, one line each.
        """
        hashes, places = self._all()
        ends = np.cumsum([0, *(count for _, count in self._parts)])
        codes = np.zeros(len(hashes), np.uint8)
        labels = np.full(len(hashes), -1, np.int64)
        for (work, _), start, stop in zip(self._parts, ends[:-1], ends[1:], strict=True):
            # Copies are the same pictures on purpose.
            codes[start:stop] = _PART_CODES[work.part] if work.sources is None else 0
            labels[start:stop] = work.labels[places[start:stop]]
        compared = np.flatnonzero(codes)
        found = same_pictures(hashes[compared], codes[compared], labels[compared])

        def name(position: int) -> str:
            position = int(compared[position])
            part = int(np.searchsorted(ends, position, side="right")) - 1
            work = self._parts[part][0]
            entry = work.listing.entry(int(work.rows[places[position]]))
            label = int(labels[position])
            belongs = f" ({classes[label]})" if label >= 0 else ""
            return printable(f"{work.part}/{entry.name}{belongs}")

        notes = []
        for key, groups, text in (
            ("train_test", found.train_test, "test pictures are labelled training pictures too"),
            ("unlabeled_test", found.unlabeled_test, "test pictures are unlabelled pictures too"),
            ("contradictions", found.contradictions, "labelled pictures have more than one class"),
        ):
            if not groups.pictures:
                continue
            examples = _names(groups, name)
            report.same_pictures[key] = {"pictures": groups.pictures, "examples": examples}
            notes.append(
                f"warning: {groups.pictures} {text} (the same pixels), such as "
                f"{' = '.join(examples[0][:3])} (examples in {report.path.name})"
            )
        return notes

    def close(self) -> None:
        """Gives them up."""
        self._hashes.close()
        self._places.close()

    def _all(self) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        """The hashes and the places of all records."""
        hashes = np.frombuffer(self._hashes.read(0, self._hashes.size), np.uint64)
        return hashes, np.frombuffer(self._places.read(0, self._places.size), np.uint32)


def _names(groups: Groups, name: Callable[[int], str]) -> list[list[str]]:
    return [[name(i) for i in group[:_EXAMPLES].tolist()] for group in groups.first(_EXAMPLES)]
