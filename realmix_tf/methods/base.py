"""The contract of a method: what a step reads, and which losses it makes of it.

A method never sees an optimiser, a device, a file or a log. It reads a ``Batch``, calls the
network, and returns named loss terms; the engine does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar

from realmix_tf.options import check_options, option

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = [
    "Batch",
    "Context",
    "Method",
    "NetworkFunction",
    "Recipe",
    "StepResult",
    "Term",
    "Views",
    "check_options",
    "option",
    "register",
    "registered",
]


@dataclass(frozen=True)
class Recipe:
    """The optimisation a method was published with; flags override the numbers.

    Attributes:
      lr: learning rate.
      wd: decoupled weight decay of kernels: v ← v·(1 − wd·lr) after each update.
    """

    lr: float = 0.002
    wd: float = 0.02


@dataclass(frozen=True)
class Views:
    """Which views of the images a step reads.

    Attributes:
      labeled: names of the views of each labelled image.
      unlabeled: names of the views of each unlabelled image; none when they are not read.
      ratio: unlabelled images for each labelled one.
    """

    labeled: tuple[str, ...] = ("weak",)
    unlabeled: tuple[str, ...] = ()
    ratio: int = 1


class Batch(NamedTuple):
    """One replica's part of a batch, B labelled and ratio·B unlabelled images.

    Attributes:
      labeled: view name → float32 [B, H, W, C] in [−1, 1].
      labels: int64 [B].
      unlabeled: view name → float32 [ratio·B, H, W, C].
    """

    labeled: Mapping[str, tf.Tensor]
    labels: tf.Tensor
    unlabeled: Mapping[str, tf.Tensor]


class NetworkFunction(Protocol):
    """How a method calls the network; see ``realmix_tf.nets.layers.Network.call``."""

    def __call__(self, images: tf.Tensor, *, training: bool, update_stats: bool) -> Any: ...


class Context(Protocol):
    """What a step may know beyond its batch. All sums and means are over the global batch.

    Attributes:
      progress: float32 scalar, images seen over images planned, in [0, 1].
      images: float32 scalar, labelled images seen before this update.
      state: the method's own variables by name.
    """

    progress: tf.Tensor
    images: tf.Tensor
    state: Mapping[str, tf.Variable]

    def seed(self, purpose: str) -> tf.Tensor:
        """int32 [2], a pure function of (run seed, update, replica, purpose)."""

    def mean(self, per_row: tf.Tensor) -> tf.Tensor:
        """This replica's share of the mean over all replicas' rows; shares add up to it."""

    def masked_mean(self, per_row: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """This replica's share of sum(mask·per_row) / max(sum(mask), 1) over all replicas."""

    def total(self, value: tf.Tensor) -> tf.Tensor:
        """The sum over replicas of a tensor of any shape."""


class Term(NamedTuple):
    """A loss term: this replica's share of its value, and its weight in the total."""

    value: tf.Tensor
    weight: tf.Tensor | float = 1.0


class StepResult(NamedTuple):
    """What ``losses`` returns.

    Attributes:
      terms: by name; the engine minimises the weighted sum.
      metrics: scalars to report. Those whose name ends in ``/min`` or ``/max`` are combined so over
        replicas and updates; all others are shares that add up over replicas and are averaged
        over updates.
      state: new values of the method's variables, assigned after the optimiser's step.
    """

    terms: dict[str, Term]
    metrics: Mapping[str, tf.Tensor] = MappingProxyType({})
    state: Mapping[str, tf.Tensor] = MappingProxyType({})


class Method:
    """Base of all methods.

    Attributes:
      name: what users type; set by ``register``.
      Config: frozen dataclass of options.
      recipe: the optimisation it was published with.
    """

    name: ClassVar[str] = ""
    Config: ClassVar[type]
    recipe: ClassVar[Recipe] = Recipe()

    def __init__(self, config: Any, num_classes: int) -> None:
        self.config, self.num_classes = config, num_classes

    def views(self) -> Views:
        """Which views a step reads."""
        return Views()

    def initial_state(self) -> dict[str, tf.Tensor]:
        """Initial values of the variables the method keeps between updates; all are saved."""
        return {}

    def losses(self, batch: Batch, network: NetworkFunction, context: Context) -> StepResult:
        """The loss terms of one update."""
        raise NotImplementedError


_REGISTRY: dict[str, type[Method]] = {}
_MethodClass = TypeVar("_MethodClass", bound=type[Method])


def register(name: str) -> Callable[[_MethodClass], _MethodClass]:
    """Class decorator: makes a method known by ``name``."""

    def decorate(method: _MethodClass) -> _MethodClass:
        if name in _REGISTRY and _REGISTRY[name].__qualname__ != method.__qualname__:
            raise ValueError(f"two methods are called {name!r}")
        method.name = name
        _REGISTRY[name] = method
        return method

    return decorate


def registered() -> dict[str, type[Method]]:
    """All methods by name."""
    return dict(_REGISTRY)
