"""What a command would do, for --dry_run: nothing is written to find out.

A plan comes from the same checks as the work itself, so what the work would refuse the dry run
refuses too.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.progress import duration
from realmix_tf.errors import printable
from realmix_tf.files import free_bytes, human_bytes

SHOWN = 8


@dataclass(frozen=True)
class FileUse:
    """A file, or a folder with everything of it that counts, and its bytes (estimated if new)."""

    path: str
    bytes: int


@dataclass(frozen=True)
class Plan:
    """What a command would read and write, and what that would take.

    Attributes:
      reads: what would be read.
      writes: what would be written, with estimated bytes.
      memory: estimated peak resident bytes of the process and its children.
      seconds: estimated from a timed sample of the work on this machine; None where the work
        ends in a moment.
      facts: what would come out, for people and as JSON, such as records per class.
      notes: remarks, the same ones the work would make.
    """

    reads: tuple[FileUse, ...]
    writes: tuple[FileUse, ...]
    memory: int
    seconds: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON-able data."""
        return {
            "dry_run": True,
            "reads": [{"path": printable(use.path), "bytes": use.bytes} for use in self.reads],
            "writes": [{"path": printable(use.path), "bytes": use.bytes} for use in self.writes],
            "memory": self.memory,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "facts": self.facts,
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """The plan for people."""
        lines = ["dry run: nothing was written"]
        for title, uses in (("reads", self.reads), ("writes", self.writes)):
            total = human_bytes(sum(use.bytes for use in uses))
            about = "about " if title == "writes" else ""
            lines.append(f"{title} {about}{total}")
            lines += [f"  {printable(use.path)}  {human_bytes(use.bytes)}" for use in uses[:SHOWN]]
            if len(uses) > SHOWN:
                lines.append(f"  and {len(uses) - SHOWN} more")
        if self.writes:
            free = free_bytes(Path(self.writes[0].path).parent)
            lines.append(f"free there {human_bytes(free)}")
        lines.append(f"memory about {human_bytes(self.memory)}")
        if self.seconds is not None:
            lines.append(f"time about {duration(self.seconds)}")
        for name, value in self.facts.items():
            shown = value
            if isinstance(value, dict):
                shown = ", ".join(f"{key} {count}" for key, count in value.items())
            lines.append(f"{name}: {shown}")
        return "\n".join(lines)


def files(paths: Iterable[Path]) -> tuple[FileUse, ...]:
    """Existing files with their sizes."""
    return tuple(FileUse(str(path), path.stat().st_size) for path in paths)


def estimate_seconds(total: int, sample: Callable[[], int]) -> float:
    """How long ``total`` units would take.

    Args:
      total: units of the whole work.
      sample: does a little of the work (some tenths of a second) and returns how many units.
    """
    begin = time.perf_counter()
    done = sample()
    elapsed = time.perf_counter() - begin
    return elapsed * total / done if done else 0.0


def resident_bytes() -> int:
    """Bytes of memory that this process has taken so far, at most (the peak where only that is
    known)."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
