"""Documented, range-checked dataclass fields: the options of methods, networks and training.

A command turns each field into a flag, the Python API takes them as keywords; the help text and
the allowed range stand in one place.
"""

from __future__ import annotations

import math
from dataclasses import field
from typing import Any

from realmix_tf.errors import UsageError


def option(
    default: Any,
    help: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    off: float | None = None,
) -> Any:
    """A documented field of a ``Config``; it becomes a flag with this help, checked to its range.

    Args:
      default: value when the flag is not given; its type is the flag's.
      help: one sentence with the unit.
      low, high: inclusive bounds of a number.
      choices: allowed words.
      off: a number outside the bounds that means "not used".
    """
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "off": off}
    return field(default=default, metadata=metadata)


_KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "True or False"),
    int: ((int,), "a whole number"),
    float: ((float, int), "a number"),
    str: ((str,), "text"),
}


def check_options(config: Any) -> None:
    """Checks a ``Config`` against the types of its defaults and the bounds its fields declare.

    Raises:
      UsageError: a value of another type or out of range; the message names the option.
    """
    for name, item in type(config).__dataclass_fields__.items():
        value, rules = getattr(config, name), item.metadata
        low, high, choices = rules.get("low"), rules.get("high"), rules.get("choices")
        for kind, (types, words) in _KINDS.items():
            if type(item.default) is kind and type(value) not in types:
                raise UsageError(f"{value!r} is not {words}", f"--{name}", words)
        if choices and value not in choices:
            raise UsageError(f"{value!r} is not possible here", f"--{name}", " or ".join(choices))
        if value == rules.get("off"):
            continue
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            above = low is None or value >= low
            below = high is None or value <= high
            if not (above and below and math.isfinite(value)):
                bounds = f"from {'−∞' if low is None else low} to {'∞' if high is None else high}"
                raise UsageError(f"{value!r} is out of range", f"--{name}", f"a number {bounds}")
