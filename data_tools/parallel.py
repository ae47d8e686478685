"""Work on several threads with the results in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def threads() -> int:
    """How many threads work at once: one a processor."""
    return os.cpu_count() or 1


def in_order(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """``map(function, items)`` on several threads, with a bounded number of items under way.

    It pays where ``function`` spends its time in code that lets other threads run, such as
    compression. What ``function`` or ``items`` raise is raised here; then nothing goes on in the
    background.
    """
    waiting: deque[Future[_Result]] = deque()
    pool = ThreadPoolExecutor(threads())
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads() + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
