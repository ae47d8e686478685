"""From a parsed slot of ``--augment`` to the policy that makes its views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from realmix_tf.augment.autoaugment import AutoAugment, searched_policy
from realmix_tf.augment.codes import Augmentation, Slot, StrongCode
from realmix_tf.augment.ctaugment import Chain, CTAugment
from realmix_tf.augment.policies import Policy, get_policy
from realmix_tf.augment.randaugment import RandAugment
from realmix_tf.augment.views import View

Strong = AutoAugment | RandAugment | CTAugment


@dataclass(frozen=True)
class SlotPolicy:
    """A weak policy, and perhaps a strong one on top of it.

    Attributes:
      name: such as ``cifar10`` or ``cifar10+rac``.
      weak: applied first; it reads the first ``weak.width`` uniform numbers.
      strong: applied to its result, with the numbers that follow; None for nothing.
    """

    name: str
    weak: Policy
    strong: Strong | None

    @property
    def learned(self) -> bool:
        """Whether the policy has rates that training updates."""
        return isinstance(self.strong, CTAugment)

    @property
    def width(self) -> int:
        """Uniform numbers a view needs an image."""
        return self.weak.width + (self.strong.width if self.strong else 0)

    @property
    def probe_width(self) -> int:
        """Uniform numbers a probe view needs an image.

        Raises:
          TypeError: the policy learns nothing.
        """
        return self.weak.width + self._learner().probe_width

    @property
    def min_size(self) -> int:
        """The smallest height and width it can be used on, in pixels."""
        return max(self.weak.min_size, self.strong.min_size if self.strong else 1)

    def __call__(
        self, images: tf.Tensor, uniforms: tf.Tensor, rates: tf.Tensor | None = None
    ) -> View:
        """Views.

        Args:
          images: uint8 [N, H, W, C].
          uniforms: float32 [N, width] in [0, 1).
          rates: float32 [19, 2, 17] where the policy learns.

        Raises:
          TypeError: the policy learns and there are no rates.
        """
        moved = self.weak(images, uniforms[:, : self.weak.width])
        numbers = uniforms[:, self.weak.width :]
        if self.strong is None:
            return View(moved, None)
        if isinstance(self.strong, CTAugment):
            if rates is None:
                raise TypeError(f"the policy {self.name!r} needs rates")
            return self.strong(moved, numbers, rates)
        return self.strong(moved, numbers)

    def probe(self, images: tf.Tensor, uniforms: tf.Tensor) -> tuple[View, Chain]:
        """Probe views, and the chains that made them, for ``CTAugment.updated``.

        Args:
          images: uint8 [N, H, W, C].
          uniforms: float32 [N, probe_width] in [0, 1).

        Raises:
          TypeError: the policy learns nothing.
        """
        learner = self._learner()
        moved = self.weak(images, uniforms[:, : self.weak.width])
        drawn = learner.probe(uniforms[:, self.weak.width :])
        return learner.apply(moved, drawn), drawn

    def _learner(self) -> CTAugment:
        if not isinstance(self.strong, CTAugment):
            raise TypeError(f"the policy {self.name!r} learns nothing")
        return self.strong


class Policies(NamedTuple):
    """The policies of a parsed ``--augment``."""

    labeled: SlotPolicy
    weak: SlotPolicy
    strong: SlotPolicy


def slot_policies(augmentation: Augmentation, learner: CTAugment | None = None) -> Policies:
    """The policies of all slots, see ``slot_policy``."""
    slots = (augmentation.labeled, augmentation.weak, augmentation.strong)
    return Policies(*(slot_policy(slot, learner) for slot in slots))


def slot_policy(slot: Slot, learner: CTAugment | None = None) -> SlotPolicy:
    """The policy of a slot.

    Args:
      slot: of ``codes.parse``.
      learner: depth, threshold and decay of CTAugment where they are not the usual ones; whether
        there is a forced cutout is the slot's to say.

    Raises:
      UsageError: there is no weak policy of that name.
    """
    strong = None if slot.strong is None else _strong(slot.strong, slot.dataset, learner)
    return SlotPolicy(slot.name, get_policy(slot.weak), strong)


def _strong(code: StrongCode, dataset: str, learner: CTAugment | None) -> Strong:
    if code.family == "autoaugment":
        return AutoAugment(searched_policy(dataset), code.cutout)
    if code.family == "randaugment":
        return RandAugment(code)
    usual = learner or CTAugment()
    return CTAugment(usual.depth, usual.threshold, usual.decay, code.cutout)
