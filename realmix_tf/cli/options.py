"""Dataclass fields as flags and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from absl import flags as absl_flags

_DEFINE: dict[type, Any] = {
    bool: absl_flags.DEFINE_bool,
    int: absl_flags.DEFINE_integer,
    float: absl_flags.DEFINE_float,
    str: absl_flags.DEFINE_string,
}


def define_fields(
    values: absl_flags.FlagValues, cls: type, defaults: Mapping[str, Any] | None = None
) -> None:
    """Adds one flag a field of a dataclass; the field's metadata hold the help text.

    Args:
      values: receives the flags.
      cls: a dataclass whose fields all have plain defaults.
      defaults: values that replace the fields' own, by name.
    """
    for item in fields(cls):
        default = (defaults or {}).get(item.name, item.default)
        if default is MISSING:
            raise ValueError(f"{cls.__name__}.{item.name} has no default")
        choices = item.metadata.get("choices")
        text = item.metadata.get("help", "")
        if choices:
            text += f" One of: {', '.join(choices)}."
        _DEFINE[type(default)](item.name, default, text, flag_values=values)


def collect(values: absl_flags.FlagValues, cls: type) -> Any:
    """Builds the dataclass from the parsed flags."""
    return cls(
        **{item.name: values[item.name].value for item in fields(cls) if item.name in values}
    )
