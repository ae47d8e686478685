"""How far long work is."""

from __future__ import annotations

import sys
import time
from typing import Any

from realmix_tf.files import human_bytes

REPORT_SECONDS = 30.0


class Progress:
    """A line about how far the work is: a bar on a terminal, a line every 30 s elsewhere.

    Both show the rate and how long the rest will take.

    Args:
      total: units of work.
      unit: what is counted, such as ``"images"``.
      purpose: what is being done.
    """

    def __init__(self, total: int, unit: str, purpose: str) -> None:
        self._total, self._unit, self._purpose = total, unit, purpose
        self._done = 0
        self._begin = self._last = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._total,
                unit=f" {self._unit}",
                desc=self._purpose,
                unit_scale=self._unit == "B",
            )
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def add(self, count: int) -> None:
        """Counts ``count`` more as done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
            return
        now = time.monotonic()
        if now - self._last >= REPORT_SECONDS:
            self._last = now
            print(self.line(now - self._begin), file=sys.stderr, flush=True)

    def line(self, elapsed: float) -> str:
        """The line after ``elapsed`` seconds of work."""
        rate = self._done / max(elapsed, 1e-9)
        left = max(self._total - self._done, 0) / rate if rate else 0.0
        return (
            f"{self._purpose}: {self._counted(self._done)} of {self._counted(self._total)}"
            f"{'' if self._unit == 'B' else ' ' + self._unit}, "
            f"{self._counted(rate)} a second, {duration(left)} left"
        )

    def _counted(self, count: float) -> str:
        return human_bytes(count) if self._unit == "B" else f"{count:.0f}"


def duration(seconds: float) -> str:
    """``75`` → ``1 min 15 s``; below a minute in seconds, from an hour on without them."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
