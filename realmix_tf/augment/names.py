"""Names of the weak policies and which one a dataset gets; readable without TensorFlow."""

from __future__ import annotations

POLICY_NAMES = ("none", "mirror", "cifar10", "svhn", "stl10", "digits", "color", "cutout")

_BY_DATASET = {
    "svhn": "svhn",
    "svhn_noextra": "svhn",
    "stl10": "stl10",
    "digits": "digits",
}


def default_policy(dataset: str) -> str:
    """The published weak policy of a dataset; ``cifar10`` for those that have none of their own."""
    return _BY_DATASET.get(dataset, "cifar10")
