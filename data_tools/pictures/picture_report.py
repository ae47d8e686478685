"""What became of pictures that were not simply used: counted, limited, listed in a JSON file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.pictures.listing import Spill
from realmix_tf.errors import DataError, printable
from realmix_tf.files import atomic_write

SCHEMA = 1
SHOWN = 5
# Fewer bad files than this never stop the work for their share alone.
_FEW = 100
_IN_A_ROW = 100
_BLOCK = 1 << 20

_SECTIONS = ("unreadable", "notes", "left_out")


class PictureReport:
    """Collects what is to be said about the files of a dataset.

    The lists lie on the disk while they grow (see ``Spill``), so any number of bad files is fine.

    Args:
      path: the JSON file.
      spill: the folder that may hold the lists meanwhile; None keeps them in memory.
      max_bad: percent of a part's files that may be bad; 100 turns the limits off.
      bad_action: what is done with an unreadable file of each part, for the list.
    """

    def __init__(
        self, path: Path, spill: Path | None, max_bad: float, bad_action: dict[str, str]
    ) -> None:
        self.path = path
        self._max_bad, self._bad_action = max_bad, bad_action
        self._lists = {name: Spill(spill) for name in _SECTIONS}
        self._first: dict[str, list[str]] = {}
        self._kinds: Counter[str] = Counter()
        self.unreadable: Counter[str] = Counter()
        self.left_out = 0
        self.same_pictures: dict[str, Any] = {}
        self._part, self._in_a_row, self._tried = "", 0, 0

    def close(self) -> None:
        """Gives the lists up."""
        for items in self._lists.values():
            items.close()

    def leave_out(self, part: str, name: str, reason: str) -> None:
        """Lists a file or folder that was passed over while looking for pictures."""
        self.left_out += 1
        self._show("left_out", f"{part}/{name}")
        item = {"path": f"{part}/{name}", "set": part, "reason": reason, "action": "passed over"}
        self._list("left_out", item)

    def remark(self, part: str, path: str, note: str) -> None:
        """Lists something worth knowing about a picture that is used."""
        self._kinds[note] += 1
        self._list("notes", {"path": path, "set": part, "note": note, "action": "used"})

    def bad(self, part: str, path: str, reason: str) -> None:
        """Lists a file that cannot be used."""
        self.unreadable[part] += 1
        self._show(part, f"{printable(path)}: {reason}")
        action = self._bad_action[part]
        item = {"path": path, "set": part, "reason": reason, "action": action}
        self._list("unreadable", item)

    def tried(self, part: str, items: int, bad_places: list[int]) -> None:
        """Counts a run of files, and gives up when too many are bad.

        Args:
          part: the set they belong to.
          items: how many were tried.
          bad_places: the places among them of those that were ``bad``, ascending.

        Raises:
          DataError: more than ``max_bad`` percent (and more than 100), or 100 in a row, are bad.
        """
        if part != self._part:
            self._part, self._in_a_row, self._tried = part, 0, 0
        self._tried += items
        previous, longest = -1, 0
        for place in bad_places:
            self._in_a_row = self._in_a_row + 1 if place == previous + 1 else 1
            longest, previous = max(longest, self._in_a_row), place
        if previous != items - 1:
            self._in_a_row = 0
        if self._max_bad >= 100:
            return
        count = self.unreadable[part]
        if longest >= _IN_A_ROW:
            self._give_up(part, f"{_IN_A_ROW} files in a row cannot be used")
        if count > _FEW and 100 * count > self._max_bad * self._tried:
            self._give_up(part, f"{count} of the first {self._tried} files cannot be used")

    def stop_if_bad(self, parts: tuple[str, ...]) -> None:
        """Ends the work if labelled pictures could not be read, after writing the report.

        Raises:
          DataError: there are such.
        """
        count = sum(self.unreadable[part] for part in parts)
        if not count:
            return
        self.write()
        shown = [line for part in parts for line in self._first.get(part, [])][:SHOWN]
        more = f"; and {count - len(shown)} more" if count > len(shown) else ""
        raise DataError(
            f"{count} labelled images cannot be read: {'; '.join(shown)}{more}",
            f"all are listed in {self.path}",
            "repair or remove them, or --on_bad=skip",
        )

    def summary(self) -> list[str]:
        """What a user should be told, one line each."""
        lines = []
        for part, count in self.unreadable.items():
            kind = "unlabelled images" if part == "unlabeled" else f"labelled {part} images"
            lines.append(
                f"{count} {kind} could not be read and were left out, such as "
                f"{self._first[part][0]} (all in {self.path.name})"
            )
        lines += [f"{count} images: {note}" for note, count in sorted(self._kinds.items())]
        if self.left_out:
            shown = ", ".join(map(repr, self._first["left_out"][:3]))
            lines.append(
                f"{self.left_out} hidden or foreign files and folders were passed over, "
                f"such as {shown}"
            )
        return lines

    def write(self) -> None:
        """Writes the JSON file.

        Raises:
          ResourceError: it cannot be written.
        """
        with atomic_write(self.path) as file:
            file.write(b'{\n"schema": %d' % SCHEMA)
            same = json.dumps(self.same_pictures, sort_keys=True)
            file.write(f',\n"same_pictures": {same}'.encode())
            for name in _SECTIONS:
                file.write(f',\n"{name}": ['.encode())
                for block in _blocks(self._lists[name]):
                    file.write(block)
                file.write(b"\n]")
            file.write(b"\n}\n")

    def _give_up(self, part: str, what: str) -> None:
        self.write()
        raise DataError(
            f"{what} ({part}), such as {self._first[part][0]}",
            f"all so far are listed in {self.path}",
            f"check that this is the right folder, or --max_bad=100 if so many may be bad "
            f"(now {self._max_bad:g} percent)",
        )

    def _show(self, kind: str, text: str) -> None:
        first = self._first.setdefault(kind, [])
        if len(first) < SHOWN:
            first.append(printable(text))

    def _list(self, section: str, item: dict[str, str]) -> None:
        spill = self._lists[section]
        item["path"] = printable(item["path"])
        line = json.dumps(item, sort_keys=True)
        spill.append(f"{',' if spill.size else ''}\n{line}".encode())


def _blocks(spill: Spill) -> Iterator[bytes]:
    for start in range(0, spill.size, _BLOCK):
        yield spill.read(start, min(start + _BLOCK, spill.size))
