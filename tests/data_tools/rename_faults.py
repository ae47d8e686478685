"""Kills a renaming at every step and checks that nothing is lost; run by test_renaming.

A process of its own, as it forks: one that has TensorFlow's threads had better not.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_tools.folders.rename_journal import Journal
from data_tools.folders.renaming import RenameOptions, pending, rename, undo

STEPS = ("link", "unlink", "rename", "replace", "fsync")


def contents(folder: Path) -> dict[bytes, bytes]:
    """Visible names and contents; hidden files count too while they hold a picture."""
    found = {}
    for path, _, files in os.walk(os.fsencode(folder)):
        for name in files:
            full = os.path.join(path, name)
            with open(full, "rb") as file:
                data = file.read()
            if data.startswith(b"\x89PNG"):
                found[os.path.relpath(full, os.fsencode(folder))] = data
    return found


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Does the work in a process that is killed before call ``step`` of os; False if it ended."""
    child = os.fork()
    if child == 0:
        calls = 0

        def counted(function: Callable[..., object]) -> Callable[..., object]:
            def call(*arguments: object, **named: object) -> object:
                nonlocal calls
                if calls == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                calls += 1
                return function(*arguments, **named)

            return call

        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        with contextlib.suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        return False
    return True


def make(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for i, name in enumerate((b"a/x\xff.png", b"a/00_a.PNG", b"a/2.png", b"b/sub/y.png")):
        path = os.path.join(os.fsencode(folder), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"\x89PNG\r\n\x1a\n" + bytes([i]) * 20)


@dataclass(frozen=True)
class Scenario:
    """Work that is killed: a renaming (with this first number) or its undo."""

    index: int
    earlier: int | None = None
    backwards: bool = False

    def prepare(self, folder: Path) -> None:
        """Makes the folder as it is before the work."""
        make(folder)
        if self.earlier is not None:
            rename(RenameOptions(folder, self.earlier))
        if self.backwards:
            rename(RenameOptions(folder, self.index))

    def work(self, folder: Path) -> None:
        """The work."""
        if self.backwards:
            undo(folder)
        else:
            rename(RenameOptions(folder, self.index))


def check(folder: Path, before: dict[bytes, bytes], goal: dict[bytes, bytes]) -> None:
    """After a kill every content is there, and under no other name than the journal's."""
    now = contents(folder)
    assert set(now.values()) == set(before.values()), now
    assert all(name in before or name in goal or b"/.tmp-rename" in name for name in now), now
    journal = Journal.load(folder)
    assert journal is not None or now == before
    if journal is not None and journal.unfinished:
        places = journal.places()
        assert sum(places.values()) == len(journal.moves)
        assert not places["missing"]


def complete(folder: Path, scenario: Scenario, goal: dict[bytes, bytes]) -> None:
    """What a user does who wants the work done."""
    if pending(folder) is not None or contents(folder) != goal:
        scenario.work(folder)


def revert(folder: Path, goal: dict[bytes, bytes]) -> None:
    """What a user does who has changed their mind."""
    if pending(folder) is not None or contents(folder) == goal:
        undo(folder)


def run(folder: Path, scenario: Scenario) -> int:
    """Kills the work before each of its steps; returns how many there are."""
    scenario.prepare(folder)
    before = contents(folder)
    scenario.work(folder)
    goal = contents(folder)
    assert sorted(goal.values()) == sorted(before.values())
    assert not set(goal) & set(before) or scenario.earlier is not None
    for step in itertools.count():
        for again in (False, True)[: 1 + step % 2]:
            scenario.prepare(folder)
            if not killed_at(step, lambda: scenario.work(folder)):
                assert contents(folder) == goal
                return step
            check(folder, before, goal)
            if again:
                killed_at(step % 5, lambda: complete(folder, scenario, goal))
                check(folder, before, goal)
            complete(folder, scenario, goal)
            assert contents(folder) == goal
        if not scenario.backwards:
            scenario.prepare(folder)
            killed_at(step, lambda: scenario.work(folder))
            revert(folder, goal)
            assert contents(folder) == before
    raise AssertionError("unreachable")


if __name__ == "__main__":
    for scenario in (
        Scenario(0),
        Scenario(1, earlier=0),
        Scenario(0, backwards=True),
        Scenario(1, earlier=0, backwards=True),
    ):
        print(run(Path(sys.argv[1], "pictures"), scenario))
