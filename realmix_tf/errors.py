"""Errors that reach a user: each is one line (what, where, what to do) and one exit code.

Library code raises these; only ``realmix_tf.cli.app`` turns them into text and exit codes.

| code | meaning |
|---|---|
| 0 | ok |
| 2 | usage: a flag or name that cannot be understood |
| 3 | bad data: images, records, labels, predictions |
| 4 | resources: disk, memory, permissions, a file that is in use |
| 5 | a checkpoint or model that cannot be used |
| 6 | training diverged |
| 130, 143 | interrupted (Ctrl-C, SIGTERM); what was done is saved |
"""

from __future__ import annotations


class RealmixError(Exception):
    """Base of all errors a user is meant to read.

    Args:
      what: what went wrong, naming the offending value.
      where: the file, record, flag or step concerned; may be empty.
      remedy: what to do about it, a command or flag if possible; may be empty.
    """

    exit_code = 1

    def __init__(self, what: str, where: object = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, str(where), remedy
        super().__init__(self.line())

    def line(self) -> str:
        """The error as a single printable line; control characters are escaped."""
        text = self.what
        if self.where:
            text += f" ({self.where})"
        if self.remedy:
            text += f"; try: {self.remedy}"
        return printable(text)


class UsageError(RealmixError):
    """A flag, name or combination that cannot be understood (exit code 2)."""

    exit_code = 2


class DataError(RealmixError):
    """Images, records, labels or manifests that cannot be used (exit code 3)."""

    exit_code = 3


class ResourceError(RealmixError):
    """No disk, memory or permission, or a file that something else uses (exit code 4)."""

    exit_code = 4


class CheckpointError(RealmixError):
    """A checkpoint or exported model that cannot be used (exit code 5)."""

    exit_code = 5


class DivergedError(RealmixError):
    """Training produced non-finite losses or gradients too often in a row (exit code 6)."""

    exit_code = 6


class Interrupted(RealmixError):
    """A signal asked the work to stop; the state was saved (exit code 128 + signal number)."""

    def __init__(self, signal_number: int, what: str, where: object = "", remedy: str = "") -> None:
        super().__init__(what, where, remedy)
        self.exit_code = 128 + signal_number


def printable(text: str) -> str:
    """Returns ``text`` with control characters and undecodable bytes escaped, on one line."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
