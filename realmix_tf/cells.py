"""How texts from files appear in the CSV files that commands write; readers need the same rules."""

from __future__ import annotations

import os

from realmix_tf.errors import printable

# What spreadsheet programs take for the start of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def utf8(text: str) -> str:
    """``text`` with bytes that are not UTF-8 (surrogate escapes) as ``\\xff``."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def escaped(text: str) -> str:
    """``text`` on one line: control characters and bytes that are not UTF-8 are escaped.

    Several texts may look alike then, as a backslash stays a backslash.
    """
    return printable(utf8(text))


def cell(text: str) -> str:
    """``text`` escaped, and with an apostrophe before what a spreadsheet would run."""
    return f"'{escaped(text)}" if text.startswith(_FORMULA) else escaped(text)
