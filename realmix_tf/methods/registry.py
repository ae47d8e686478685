"""All methods in one place: importing this module registers them."""

from __future__ import annotations

import difflib

from realmix_tf.errors import UsageError
from realmix_tf.methods import mixmatch, mixup_supervised, realmix, supervised
from realmix_tf.methods.base import Method, registered

FILES = (supervised, mixup_supervised, mixmatch, realmix)


def get_method(name: str) -> type[Method]:
    """Finds a method by name.

    Raises:
      UsageError: there is none of that name; the message offers the nearest.
    """
    methods = registered()
    if name not in methods:
        nearest = difflib.get_close_matches(name, methods, n=1)
        remedy = f"--method={nearest[0]}" if nearest else " or ".join(sorted(methods))
        raise UsageError(f"there is no method {name!r}", "--method", remedy)
    return methods[name]
