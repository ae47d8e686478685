"""What a network is, as data: stored in run folders and exported models, readable without TF."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from realmix_tf.errors import CheckpointError, UsageError
from realmix_tf.options import option

ARCHITECTURES = ("resnet", "small")

# Fields that descriptions of earlier versions lack, and what these then mean.
_LATER: dict[str, Any] = {"dropout": 0.0}


@dataclass(frozen=True)
class NetworkOptions:
    """What a user chooses of a network; image size, channels and classes come from the data."""

    arch: str = option("resnet", "Network.", choices=ARCHITECTURES)
    filters: int = option(32, "Channels of the first scale.", 1, 4096)
    repeat: int = option(4, "Residual units a scale.", 1, 64)
    scales: int = option(0, "Resolutions; 0 means ceil(log2(size)) - 2, at least 1.", 0, 10)
    bn_decay: float = option(0.999, "Decay of batch normalisation's moving averages.", 0, 0.999999)
    whiten: bool = option(False, "Normalise images by the training set's mean and deviation.")
    dropout: float = option(
        0.0, "Share of the features that training hides from the last layer.", 0, 0.999999
    )


@dataclass(frozen=True)
class NetworkSpec:
    """A network, complete enough to build it again.

    Attributes:
      arch: ``resnet`` (Wide ResNet) or ``small`` (five convolutions, for tiny images).
      num_classes: outputs of the classifier, at least 2.
      height, width: image size in pixels; channels: 1 or 3.
      filters: width of the first scale.
      repeat: residual units a scale (``resnet``).
      scales: resolutions; 0 means ceil(log2(width)) − 2, at least 1.
      bn_decay: decay of batch normalisation's moving averages, in [0, 1).
      mean, std: per channel, applied to images in [−1, 1] before the first layer.
      dropout: share of the features that training hides from the classifier, in [0, 1).
    """

    arch: str = "resnet"
    num_classes: int = 10
    height: int = 32
    width: int = 32
    channels: int = 3
    filters: int = 32
    repeat: int = 4
    scales: int = 0
    bn_decay: float = 0.999
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            raise UsageError(
                f"there is no architecture {self.arch!r}", "--arch", " or ".join(ARCHITECTURES)
            )
        for name, low, high in (
            ("num_classes", 2, 1_000_000),
            ("height", 4, 4096),
            ("width", 4, 4096),
            ("filters", 1, 4096),
            ("repeat", 1, 64),
            ("scales", 0, 10),
        ):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise UsageError(f"{name} is {value!r}, not a whole number from {low} to {high}")
        if type(self.channels) is not int or self.channels not in (1, 3):
            raise UsageError(f"channels is {self.channels!r}, not 1 or 3")
        for name in ("bn_decay", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)!r}, not in [0, 1)")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise UsageError(f"{name} must have one value a channel, not {getattr(self, name)}")
        if any(not math.isfinite(v) for v in self.mean + self.std) or min(self.std) <= 0:
            raise UsageError("mean and std must be finite numbers, std above 0")
        if (
            self.resolved_scales > 1
            and min(self.height, self.width) >> (self.resolved_scales - 1) < 1
        ):
            raise UsageError(
                f"{self.resolved_scales} scales do not fit images of {self.height}×{self.width}",
                "--scales",
                "a smaller number",
            )

    @property
    def resolved_scales(self) -> int:
        """``scales``, or what the image width implies."""
        return self.scales or max(1, math.ceil(math.log2(self.width)) - 2)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able mapping that ``from_json`` takes back.

        A field that earlier versions did not have is left out at its default, so that their runs
        can be continued and they can read models that do without it.
        """
        values = asdict(self)
        for name, default in _LATER.items():
            if values[name] == default:
                del values[name]
        return values

    @classmethod
    def from_json(cls, value: object) -> NetworkSpec:
        """Rebuilds a description from untrusted JSON.

        Raises:
          CheckpointError: keys or values that do not make a network.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(value, Mapping) or not known - set(_LATER) <= set(value) <= known:
            raise CheckpointError("the model's description does not list the expected fields")
        try:
            numbers = {name: tuple(map(float, value[name])) for name in ("mean", "std")}
            return cls(**{**value, **numbers})
        except (TypeError, ValueError, OverflowError, UsageError) as error:
            raise CheckpointError(f"the model's description is not usable: {error}") from error
