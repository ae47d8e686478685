"""All methods in one place: importing this module registers them."""

from __future__ import annotations

import difflib

from realmix_tf.errors import UsageError
from realmix_tf.methods import (
    adamatch,
    comatch,
    crmatch,
    dash,
    defixmatch,
    fixmatch,
    flexmatch,
    freematch,
    ict,
    mean_teacher,
    mixmatch,
    mixup,
    mixup_supervised,
    pi_model,
    pseudo_label,
    realmix,
    remixmatch,
    simmatch,
    softmatch,
    supervised,
    uda,
    vat,
)
from realmix_tf.methods.base import RECIPES, Method, Recipe, registered

FILES = (
    supervised,
    mixup_supervised,
    pseudo_label,
    pi_model,
    mean_teacher,
    vat,
    ict,
    mixup,
    mixmatch,
    realmix,
    remixmatch,
    uda,
    fixmatch,
    flexmatch,
    freematch,
    softmatch,
    adamatch,
    dash,
    simmatch,
    comatch,
    crmatch,
    defixmatch,
)


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


def recipe_of(method: type[Method], name: str = "") -> Recipe:
    """The recipe called ``name``, or the method's own where that is empty.

    Raises:
      UsageError: there is none of that name.
    """
    if not name:
        return method.recipe
    if name not in RECIPES:
        raise UsageError(f"there is no recipe {name!r}", "--recipe", " or ".join(RECIPES))
    return RECIPES[name]
