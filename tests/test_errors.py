"""Errors are one printable line each, with the documented exit code."""

from __future__ import annotations

import pytest

from realmix_tf import errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("x"), 2),
        (errors.DataError("x"), 3),
        (errors.ResourceError("x"), 4),
        (errors.CheckpointError("x"), 5),
        (errors.DivergedError("x"), 6),
        (errors.Interrupted(2, "x"), 130),
        (errors.Interrupted(15, "x"), 143),
    ],
)
def test_every_kind_has_its_documented_exit_code(error, code):
    assert isinstance(error, errors.RealmixError)
    assert error.exit_code == code


def test_a_line_says_what_where_and_what_to_do():
    error = errors.DataError("record 7 is cut short", "a/b.tfrecord", "build it again")
    assert error.line() == "record 7 is cut short (a/b.tfrecord); try: build it again"
    assert str(error) == error.line()
    assert errors.DataError("no images").line() == "no images"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\r", r"two\nlines\r"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("right-to-left \u202e", r"right-to-left \u202e"),
        ("broken \udcff name", r"broken \udcff name"),
        ("größer · 日本 – fine", "größer · 日本 – fine"),
    ],
)
def test_control_characters_and_broken_bytes_cannot_reach_a_terminal(text, shown):
    assert errors.printable(text) == shown
    assert errors.printable(text).isprintable()
    assert errors.UsageError(text, text, text).line().isprintable()
