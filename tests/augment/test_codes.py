"""The value of --augment: what it means, and what is said when it means nothing."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from realmix_tf.augment.codes import STRONG_WORDS, StrongCode, parse, parse_strong
from realmix_tf.augment.names import POLICY_NAMES
from realmix_tf.errors import UsageError


def names(text: str, dataset: str = "cifar10", usual: str = "d.d.d") -> tuple[str, ...]:
    parsed = parse(text, dataset, usual)
    return parsed.labeled.name, parsed.weak.name, parsed.strong.name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("d.d.d", ("cifar10", "cifar10", "cifar10")),
        ("d.d.rac", ("cifar10", "cifar10", "cifar10+rac")),
        ("d.d.cta", ("cifar10", "cifar10", "cifar10+cta")),
        ("cta.d.cta", ("cifar10+cta", "cifar10", "cifar10+cta")),
        ("x.x.rac", ("none", "none", "none+rac")),
        ("d.m.rac", ("cifar10", "mirror", "mirror+rac")),
        ("aac.m.x", ("mirror+aac", "mirror", "none")),
        ("d.stl10.r2_5_50", ("cifar10", "stl10", "stl10+r2_5_50")),
        ("svhn.cutout.color", ("svhn", "cutout", "color")),
    ],
)
def test_three_slots(text, expected):
    assert names(text) == expected


@pytest.mark.parametrize(
    ("dataset", "policy"), [("svhn", "svhn"), ("stl10", "stl10"), ("pets", "cifar10")]
)
def test_d_is_the_policy_of_the_dataset(dataset, policy):
    assert names("d.d.rac", dataset) == (policy, policy, f"{policy}+rac")
    assert parse("d.d.aa", dataset).strong.dataset == dataset


def test_auto_leaves_the_slots_to_the_method_and_d_to_the_dataset():
    assert names("auto", "svhn", "d.d.ctac") == ("svhn", "svhn", "svhn+ctac")
    assert names("auto") == ("cifar10",) * 3


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_one_weak_policy_says_what_d_is_in_the_methods_slots(name):
    assert names(name, "svhn", "d.x.rac") == (name, "none", "none+rac")
    assert names(name, "svhn", "d.d.ctac") == (name, name, f"{name}+ctac")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("aa", StrongCode("aa", "autoaugment")),
        ("aac", StrongCode("aac", "autoaugment", cutout=True)),
        ("ra", StrongCode("ra", "randaugment")),
        ("rac", StrongCode("rac", "randaugment", cutout=True)),
        ("ra10", StrongCode("ra10", "randaugment", level=10)),
        ("rac4", StrongCode("rac4", "randaugment", level=4, cutout=True)),
        ("rap", StrongCode("rap", "randaugment", "paper")),
        ("rapc", StrongCode("rapc", "randaugment", "paper", cutout=True)),
        (
            "rau",
            StrongCode("rau", "randaugment", "uniform", operations=3, always=True, cutout=True),
        ),
        ("cta", StrongCode("cta", "ctaugment")),
        ("ctac", StrongCode("ctac", "ctaugment", cutout=True)),
        (
            "r3_12_50",
            StrongCode(
                "r3_12_50",
                "randaugment",
                operations=3,
                level=12,
                always=True,
                cutout=True,
                cutout_percent=50,
            ),
        ),
        (
            "r1_1_0",
            StrongCode(
                "r1_1_0", "randaugment", operations=1, level=1, always=True, cutout_percent=0
            ),
        ),
    ],
)
def test_strong_codes(text, code):
    assert parse_strong(text) == code
    assert parse(f"d.d.{text}", "cifar10").strong.strong == code


def test_only_cta_learns():
    for word in STRONG_WORDS:
        assert parse(f"d.d.{word}", "cifar10").learned == word.startswith("cta")
    parsed = parse("cta.d.rac", "cifar10")
    assert parsed.learned
    assert (parsed.labeled.learned, parsed.weak.learned, parsed.strong.learned) == (
        True,
        False,
        False,
    )


def test_what_was_parsed_cannot_be_changed():
    parsed = parse("d.d.rac", "cifar10")
    for part in (parsed, parsed.strong, parsed.strong.strong):
        with pytest.raises(dataclasses.FrozenInstanceError):
            part.weak = "x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"'' is no weak augmentation policy .*--augment.*labeled\.weak\.strong.*or auto"),
        ("cifar", r"'cifar' is no weak augmentation policy .*; try: cifar10$"),
        ("rac", r"'rac' is no weak augmentation policy .*; try: .*d\.d\.rac"),
        ("d.rac", r"'d\.rac' has 2 slots .*; try: labeled\.weak\.strong"),
        ("d.d.rac.d", r"'d\.d\.rac\.d' has 4 slots"),
        ("d..rac", r"the weak slot of 'd\.\.rac' is '', which is no augmentation policy"),
        ("q.d.rac", r"the labeled slot of 'q\.d\.rac' is 'q'.*--augment.*d, x, m, none.*rac"),
        ("d.d.raq", r"the strong slot of 'd\.d\.raq' is 'raq'.*; try: ra"),
        ("d.cifar100.d", r"the weak slot of 'd\.cifar100\.d' is 'cifar100'.*; try: cifar10$"),
        ("d.rac.rac", r"the weak slot of 'd\.rac\.rac' is 'rac', a strong policy.*; try: d, x, m"),
        ("d.ra0.d", r"the level of 'ra0' is 0, the weak slot.*a number from 1 to 10"),
        ("d.d.rac11", r"the level of 'rac11' is 11, the strong slot.*a number from 1 to 10"),
        ("d.d.r0_5_50", r"number of operations of 'r0_5_50' is 0.*a number from 1 to 8"),
        ("d.d.r9_5_50", r"number of operations of 'r9_5_50' is 9"),
        ("d.d.r2_0_50", r"level of 'r2_0_50' is 0.*a number from 1 to 15"),
        ("d.d.r2_16_50", r"level of 'r2_16_50' is 16"),
        ("d.d.r2_5_101", r"cutout percentage of 'r2_5_101' is 101.*a number from 0 to 100"),
        ("d.d.r2_5", r"the strong slot of 'd\.d\.r2_5' is 'r2_5'"),
        ("d.d.ra-1", r"the strong slot .* is 'ra-1'"),
        ("d.d.ra٣", r"the strong slot .* is 'ra٣'"),
        ("d.d.RAC", r"the strong slot .* is 'RAC'"),
        (" d.d.d", r"the labeled slot .* is ' d'"),
        ("d.d.d\n", r"the strong slot .* is 'd\\n'"),
    ],
)
def test_anything_else_is_a_usage_error_that_names_the_slot(text, message):
    with pytest.raises(UsageError, match=message) as caught:
        parse(text, "cifar10")
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.line()


@pytest.mark.process
def test_codes_are_read_without_tensorflow():
    code = "import sys, realmix_tf.augment.codes; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
