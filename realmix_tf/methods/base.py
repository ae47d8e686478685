"""The contract of a method: what a step reads, and which losses it makes of it.

A method never sees an optimiser, a device, a file or a log. It reads a ``Batch``, calls the
network, and returns named loss terms; the engine does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar

from realmix_tf.options import check_options, option

if TYPE_CHECKING:
    import tensorflow as tf

FeatureMap = tuple[int, int, int]

__all__ = [
    "ADAM",
    "RECIPES",
    "SGD",
    "Batch",
    "Context",
    "Method",
    "NetworkFunction",
    "Recipe",
    "StepResult",
    "Task",
    "Term",
    "Views",
    "check_options",
    "option",
    "register",
    "registered",
]


@dataclass(frozen=True)
class Recipe:
    """The optimisation a method was published with; flags of the same names override it.

    Attributes:
      optimizer: ``adam`` (0.9, 0.999, ε = 1e−8) or ``sgd`` (Nesterov's momentum 0.9).
      lr: learning rate at the start.
      lr_final: its share at the end; lr(t) = lr·cos(t·arccos(lr_final)), so 1 keeps it constant.
      wd: weight decay of kernels.
      wd_mode: ``decoupled``, v ← v·(1 − wd·lr(t)) after each update, or ``l2``, wd·Σv²/2 in the
        loss.
    """

    optimizer: str = "adam"
    lr: float = 0.002
    lr_final: float = 1.0
    wd: float = 0.02
    wd_mode: str = "decoupled"


# MixMatch, ReMixMatch and their baselines; FixMatch and what followed it.
ADAM = Recipe()
SGD = Recipe("sgd", lr=0.03, lr_final=math.cos(7 * math.pi / 16), wd=5e-4, wd_mode="l2")
RECIPES = {"adam": ADAM, "sgd": SGD}


@dataclass(frozen=True)
class Task:
    """What a method may know of the data beforehand.

    Attributes:
      num_classes: C, at least 2.
      num_labeled, num_unlabeled: images to train on.
      batch: labelled images an update, over all replicas.
      image_size: height and width in pixels.
    """

    num_classes: int = 2
    num_labeled: int = 1
    num_unlabeled: int = 1
    batch: int = 64
    image_size: tuple[int, int] = (32, 32)


@dataclass(frozen=True)
class Views:
    """Which views of the images a step reads.

    The name of a view says how it is made: ``weak``, ``weak0``, ``weak1``, … by the first part
    of --augment on labelled images and by the second on unlabelled ones, ``strong``, ``strong0``,
    … by the third. Each name draws numbers of its own.

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
      labeled_index: int64 [B], which of the ``num_labeled`` images these are.
      unlabeled_index: int64 [ratio·B], which of the ``num_unlabeled`` images these are.
    """

    labeled: Mapping[str, tf.Tensor]
    labels: tf.Tensor
    unlabeled: Mapping[str, tf.Tensor]
    labeled_index: Any = ()
    unlabeled_index: Any = ()


class NetworkFunction(Protocol):
    """How a method calls the network; see ``realmix_tf.nets.layers.Network.call``."""

    def __call__(self, images: tf.Tensor, *, training: bool, update_stats: bool) -> Any: ...


class Context(Protocol):
    """What a step may know beyond its batch. All sums and means are over the global batch.

    Attributes:
      progress: float32 scalar, images seen over images planned, in [0, 1].
      images: float32 scalar, labelled images seen before this update.
      replica: int32 scalar, which replica this is, from 0.
      state: the method's own variables by name, as ``initial_state`` named them.
      weights: the method's own trainable weights by name, as ``heads`` named them.
    """

    progress: tf.Tensor
    images: tf.Tensor
    replica: tf.Tensor
    state: Mapping[str, tf.Variable]
    weights: Mapping[str, tf.Tensor]

    def seed(self, purpose: str) -> tf.Tensor:
        """int32 [2], a pure function of (run seed, update, replica, purpose)."""

    def mean(self, per_row: tf.Tensor) -> tf.Tensor:
        """This replica's share of the mean over all replicas' rows; shares add up to it."""

    def masked_mean(self, per_row: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """This replica's share of sum(mask·per_row) / max(sum(mask), 1) over all replicas."""

    def total(self, value: tf.Tensor) -> tf.Tensor:
        """The sum over replicas of a tensor of any shape."""

    def batch_mean(self, rows: tf.Tensor) -> tf.Tensor:
        """The mean over all replicas' rows, the same on each: [N, …] → […]."""

    def gather(self, rows: tf.Tensor) -> tf.Tensor:
        """All replicas' rows, in the order one device would have them: [N, …] → [R·N, …]."""

    def teacher(self, images: tf.Tensor) -> Any:
        """The averaged weights' ``Output``, normalised by these images' own statistics.

        Only for methods whose ``reads_teacher`` is true. Nothing moves, nothing gets a gradient.
        """


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
      augment: --augment codes it was published with, labelled.weak.strong.
      reads_teacher: whether ``losses`` calls ``context.teacher``.
    """

    name: ClassVar[str] = ""
    Config: ClassVar[type]
    recipe: ClassVar[Recipe] = ADAM
    augment: ClassVar[str] = "d.d.d"
    reads_teacher: bool = False

    def __init__(self, config: Any, task: Task) -> None:
        self.config, self.task, self.num_classes = config, task, task.num_classes

    def views(self) -> Views:
        """Which views a step reads; depends on ``config`` only."""
        return Views()

    def check(self, replicas: int) -> None:
        """Looks whether options and task suit each other, before any training.

        Args:
          replicas: parts each batch is cut into.

        Raises:
          UsageError: they do not.
        """

    def heads(self, seed: int, features: int, feature_map: FeatureMap) -> dict[str, tf.Tensor]:
        """Initial values of the trainable weights the method adds to the network's.

        They train, decay (names that end in ``/kernel``) and are saved with the network's, but
        are no part of the classifier.

        Args:
          seed: the run's, for ``realmix_tf.methods.heads``.
          features: D, width of the pooled features.
          feature_map: height, width and channels before pooling.
        """
        return {}

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
