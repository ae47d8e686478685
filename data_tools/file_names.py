"""Names of files and folders that stay harmless and apart on every file system."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from realmix_tf.data.images import is_junk

_MAX_FOLDER_BYTES = 200
_FORBIDDEN = re.compile(r'[/\\:*?"<>|]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)


def alike(name: str) -> str:
    """What names have in common that some file systems take for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def folder_names(names: Sequence[str], reserved: Sequence[str] = ()) -> list[str]:
    """Names of folders for classes, which stay apart on every file system.

    What could lead elsewhere, or cannot be in a name on some system, becomes ``_``. A name that
    would be the same as an earlier one, but for case or Unicode form, has a number added.

    Args:
      names: of the classes; any text.
      reserved: names that are taken.

    Returns:
      One name a class: never empty, ``.`` or ``..``, never hidden, at most 200 bytes of UTF-8.
    """
    taken = {alike(name) for name in reserved}
    found = []
    for name in names:
        plain = _plain(name)
        candidate, number = plain, 2
        while alike(candidate) in taken:
            candidate, number = f"{plain}_{number}", number + 1
        taken.add(alike(candidate))
        found.append(candidate)
    return found


def _plain(name: str) -> str:
    """One name made harmless."""
    text = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode("utf-8"))
    text = "".join("_" if unicodedata.category(c)[0] == "C" else c for c in text)
    text = _FORBIDDEN.sub("_", text).strip()
    if text.endswith("."):
        text = text[:-1] + "_"
    # Hidden and junk folders would be passed over when the files are read again.
    if not text or is_junk(text) or text.startswith("-") or _RESERVED.match(text):
        text = "_" + text.lstrip(".-")
    return text.encode()[:_MAX_FOLDER_BYTES].decode("utf-8", "ignore").rstrip(" .") or "_"
