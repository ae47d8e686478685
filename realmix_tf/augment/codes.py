"""The value of ``--augment``: which policy every kind of view gets; readable without TensorFlow.

Three slots, ``labeled.weak.strong``, such as ``d.d.rac``: the views of labelled images, the weak
and the strong views of unlabelled ones. A slot is one of

| slot | policy |
|---|---|
| d | the dataset's published weak policy |
| x | none |
| m | mirror only |
| a weak policy's name | that policy |
| aa, aac | AutoAugment, without and with cutout |
| ra, rac | RandAugment of the FixMatch code, without and with cutout |
| ra<m>, rac<m> | the same at one level m, from 1 to 10 |
| r<n>_<m>_<p> | n operations, all applied at level m (1 to 15), then cutout of p % of the side |
| rap, rapc | RandAugment with the ranges of the paper's table |
| rau | RandAugment as TorchSSL and USB train with it |
| cta, ctac | CTAugment, without and with a forced cutout; it learns while training |

The strong ones (from ``aa`` on) work on top of the weak slot's policy, drawn anew. One weak
policy's name alone says what ``d`` stands for in the method's own slots; ``auto`` leaves both to
the dataset and the method.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from realmix_tf.augment.names import POLICY_NAMES, default_policy
from realmix_tf.errors import UsageError

SLOTS = ("labeled", "weak", "strong")
STRONG_WORDS = ("aa", "aac", "ra", "rac", "rap", "rapc", "rau", "cta", "ctac")

_FLAG = "--augment"
_WEAK_FORMS = f"d, x, m, {', '.join(POLICY_NAMES)}"
_STRONG_FORMS = f"{', '.join(STRONG_WORDS)}, ra<level>, rac<level> or r<ops>_<level>_<cutout %>"
_ONE_LEVEL = re.compile(r"(rac?)([0-9]{1,4})")
_FIXED = re.compile(r"r([0-9]{1,4})_([0-9]{1,4})_([0-9]{1,4})")


@dataclass(frozen=True)
class StrongCode:
    """A strong policy.

    Attributes:
      text: the code as typed.
      family: ``autoaugment``, ``randaugment`` or ``ctaugment``.
      ranges: of RandAugment's operations: ``code``, ``paper`` (levels) or ``uniform``.
      operations: how many RandAugment draws for an image.
      level: RandAugment's level; None for a random one from 1 to 9.
      always: whether every drawn operation is applied, otherwise each with probability 1/2.
      cutout: whether a window is hidden at the end.
      cutout_percent: side of the window in percent of the image's smaller side; None for the
        policy's own size.
    """

    text: str
    family: str
    ranges: str = "code"
    operations: int = 2
    level: int | None = None
    always: bool = False
    cutout: bool = False
    cutout_percent: int | None = None


@dataclass(frozen=True)
class Slot:
    """What one kind of view gets.

    Attributes:
      weak: a weak policy's name, applied first.
      strong: what is applied on top; None for nothing.
      dataset: whose AutoAugment policy is meant.
    """

    weak: str
    strong: StrongCode | None
    dataset: str

    @property
    def learned(self) -> bool:
        """Whether the policy learns while the model trains."""
        return self.strong is not None and self.strong.family == "ctaugment"

    @property
    def name(self) -> str:
        """Such as ``cifar10`` or ``cifar10+rac``."""
        return self.weak if self.strong is None else f"{self.weak}+{self.strong.text}"


@dataclass(frozen=True)
class Augmentation:
    """A parsed ``--augment``.

    Attributes:
      labeled, weak, strong: for the views of labelled images, and the weak and the strong views of
        unlabelled ones. ``weak.strong`` is always None.
    """

    labeled: Slot
    weak: Slot
    strong: Slot

    @property
    def learned(self) -> bool:
        """Whether any of the three learns while the model trains."""
        return any(slot.learned for slot in (self.labeled, self.weak, self.strong))

    @property
    def name(self) -> str:
        """Such as ``cifar10.cifar10.cifar10+rac``."""
        return ".".join(slot.name for slot in (self.labeled, self.weak, self.strong))


def parse(text: str, dataset: str, usual: str = "d.d.d") -> Augmentation:
    """Parses the value of ``--augment``.

    Args:
      text: three slots, a weak policy's name, or ``auto``.
      dataset: name of the dataset, which decides about ``d`` and about AutoAugment's policy.
      usual: the method's own three slots.

    Raises:
      UsageError: it is none of these, or a number in it is out of range; the slot is named.
    """
    default = default_policy(dataset)
    if text == "auto":
        text = usual
    elif text in POLICY_NAMES:
        text, default = usual, text
    slots = text.split(".")
    if len(slots) != len(SLOTS):
        raise UsageError(_not_three(text, len(slots)), _FLAG, _near_value(text))
    parsed = [_slot(word, place, text) for word, place in zip(slots, SLOTS, strict=True)]
    base = parsed[1]
    if isinstance(base, StrongCode):
        raise UsageError(
            f"the weak slot of {text!r} is {slots[1]!r}, a strong policy; "
            "the strong ones work on top of a weak one",
            _FLAG,
            _WEAK_FORMS,
        )
    base = base or default
    return Augmentation(
        *(
            Slot(base, word, dataset)
            if isinstance(word, StrongCode)
            else Slot(word or default, None, dataset)
            for word in parsed
        )
    )


def parse_strong(text: str) -> StrongCode | None:
    """The strong policy of that code; None where the text has not the form of one.

    Raises:
      UsageError: a number is out of range.
    """
    if text in STRONG_WORDS:
        return _word(text)
    match = _ONE_LEVEL.fullmatch(text)
    if match:
        level = _in_range(int(match[2]), "level", 1, 10, text)
        return StrongCode(text, "randaugment", level=level, cutout=match[1] == "rac")
    match = _FIXED.fullmatch(text)
    if match:
        percent = _in_range(int(match[3]), "cutout percentage", 0, 100, text)
        return StrongCode(
            text,
            "randaugment",
            operations=_in_range(int(match[1]), "number of operations", 1, 8, text),
            level=_in_range(int(match[2]), "level", 1, 15, text),
            always=True,
            cutout=percent > 0,
            cutout_percent=percent,
        )
    return None


def _word(text: str) -> StrongCode:
    cutout = text.endswith("c")
    if text.startswith("aa"):
        return StrongCode(text, "autoaugment", cutout=cutout)
    if text.startswith("cta"):
        return StrongCode(text, "ctaugment", cutout=cutout)
    if text == "rau":
        return StrongCode(text, "randaugment", "uniform", operations=3, always=True, cutout=True)
    ranges = "paper" if text.startswith("rap") else "code"
    return StrongCode(text, "randaugment", ranges, cutout=cutout)


def _in_range(number: int, what: str, low: int, high: int, text: str) -> int:
    if not low <= number <= high:
        raise UsageError(
            f"the {what} of {text!r} is {number}", _FLAG, f"a number from {low} to {high}"
        )
    return number


def _slot(word: str, place: str, text: str) -> str | StrongCode | None:
    """A weak policy's name, a strong policy, or None for the default policy."""
    named = {"d": None, "x": "none", "m": "mirror"} | {name: name for name in POLICY_NAMES}
    if word in named:
        return named[word]
    try:
        strong = parse_strong(word)
    except UsageError as error:
        raise UsageError(
            f"{error.what}, the {place} slot of {text!r}", error.where, error.remedy
        ) from None
    if strong is None:
        nearest = difflib.get_close_matches(word, [*named, *STRONG_WORDS], n=1, cutoff=0.6)
        forms = _WEAK_FORMS if place == "weak" else f"{_WEAK_FORMS}, {_STRONG_FORMS}"
        raise UsageError(
            f"the {place} slot of {text!r} is {word!r}, which is no augmentation policy",
            _FLAG,
            nearest[0] if nearest else forms,
        )
    return strong


def _not_three(text: str, count: int) -> str:
    if count == 1:
        return f"{text!r} is no weak augmentation policy"
    return f"{text!r} has {count} slots"


def _near_value(text: str) -> str:
    nearest = difflib.get_close_matches(text, ["auto", *POLICY_NAMES], n=1, cutoff=0.6)
    form = "labeled.weak.strong, such as d.d.rac"
    return nearest[0] if nearest else f"{form}; {' or '.join(POLICY_NAMES)}; or auto"
