"""The names of networks, and those of the user's own. No TensorFlow: builders are only kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from realmix_tf.errors import UsageError

if TYPE_CHECKING:
    from realmix_tf.nets.spec import NetworkSpec

Builder = Callable[["NetworkSpec"], Any]

# This package's own, besides the models of keras.applications.
ARCHITECTURES = (
    "resnet", "small", "cnn13", "shake", "resnet18", "resnet50", "resnet50_imagenet",
)  # fmt: skip

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_BUILDERS: dict[str, Builder] = {}


def register_network(name: str, builder: Builder) -> None:
    """Makes an own Keras model known as an architecture.

    Args:
      name: a lower-case word, digits and underscores allowed, that is no architecture of this
        package; then ``arch=name`` trains it. A second registration replaces the first.
      builder: called with the ``NetworkSpec`` (image size, channels, classes, ``filters``,
        ``repeat``, ``scales``; they mean what the builder makes of them), returns a Functional or
        Sequential ``keras.Model`` without classifier. It maps float32 images [N, height, width,
        channels] in [−1, 1] to a feature map [N, h, w, D] or features [N, D]. Every call must
        build the same layers. Its weights are drawn anew from the run's seed.

    Raises:
      UsageError: the name is no such word or taken.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in ARCHITECTURES:
        raise UsageError(
            f"an own network cannot be called {name!r}",
            "register_network",
            "a lower-case word that is none of " + ", ".join(ARCHITECTURES),
        )
    if not callable(builder):
        raise UsageError(f"the builder of {name!r} is not callable", "register_network")
    _BUILDERS[name] = builder


def registered_networks() -> dict[str, Builder]:
    """The own networks' builders by name."""
    return dict(_BUILDERS)
