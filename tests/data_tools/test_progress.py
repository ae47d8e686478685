"""The line about long work: how much, how fast, how long still."""

from __future__ import annotations

import pytest

from data_tools import progress
from data_tools.progress import Progress, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (75, "1 min 15 s"), (3725, "1 h 2 min")],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def test_the_line_tells_rate_and_rest():
    work = Progress(1000, "images", "decoding")
    assert work.line(1.0) == "decoding: 0 of 1000 images, 0 a second, 0 s left"
    work.add(250)
    assert work.line(10.0) == "decoding: 250 of 1000 images, 25 a second, 30 s left"


def test_bytes_are_shown_as_people_read_them():
    work = Progress(3 << 20, "B", "downloading a.tar.gz")
    work.add(1 << 20)
    assert work.line(2.0) == (
        "downloading a.tar.gz: 1.0 MiB of 3.0 MiB, 512.0 KiB a second, 4 s left"
    )


def test_a_line_comes_every_thirty_seconds(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress(10, "records", "copying") as work:
        for second in range(70):
            now[0] = float(second)
            work.add(0)
        work.add(5)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("copying: 0 of 10 records")
