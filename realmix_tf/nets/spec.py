"""What a network is, as data: stored in run folders and exported models, readable without TF."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

from realmix_tf.errors import CheckpointError, UsageError
from realmix_tf.nets.applications import APPLICATIONS, PREFIX, application, is_application
from realmix_tf.nets.registry import ARCHITECTURES, registered_networks
from realmix_tf.options import check_options, option


class _Architecture(NamedTuple):
    """What an architecture makes of a description.

    Attributes:
      filters: its width where none is given; 0 if it has no choice of width.
      reads: which of ``repeat`` and ``scales`` mean something to it. ``small`` has always
        tolerated both.
      smallest: side of the smallest images in pixels.
    """

    filters: int
    reads: tuple[str, ...]
    smallest: int


_BUILT_IN = {
    "resnet": _Architecture(32, ("repeat", "scales"), 4),
    "small": _Architecture(32, ("repeat", "scales"), 4),
    "cnn13": _Architecture(32, (), 12),
    "shake": _Architecture(32, ("repeat", "scales"), 4),
    "resnet18": _Architecture(64, (), 4),
    "resnet50": _Architecture(64, (), 4),
    "resnet50_imagenet": _Architecture(64, (), 64),
}
_OWN = _Architecture(32, ("repeat", "scales"), 4)
_APPLICATION = _Architecture(0, (), 4)

# Fields that descriptions of earlier versions lack, and what these then mean.
_LATER: dict[str, Any] = {"dropout": 0.0, "pretrained": False}


def known_architecture(arch: str) -> str | None:
    """An architecture's exact name, or None if there is none of this name.

    Models of keras.applications are found whatever the case of their letters.
    """
    if arch in _BUILT_IN or arch in registered_networks():
        return arch
    if is_application(arch):
        wanted = arch.removeprefix(PREFIX).lower()
        return next((PREFIX + name for name in APPLICATIONS if name.lower() == wanted), None)
    return None


def _checked_architecture(arch: object) -> str:
    found = known_architecture(arch) if isinstance(arch, str) else None
    if found is not None:
        return found
    names = [*ARCHITECTURES, *registered_networks(), *(PREFIX + name for name in APPLICATIONS)]
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(str(arch).lower(), by_lower, n=1, cutoff=0.6)
    others = ", ".join([*names[: -len(APPLICATIONS)], f"{PREFIX}NAME"])
    remedy = f"--arch={by_lower[near[0]]}" if near else others
    raise UsageError(f"there is no architecture {arch!r}", "--arch", remedy)


@dataclass(frozen=True)
class NetworkOptions:
    """What a user chooses of a network; image size, channels and classes come from the data.

    Raises:
      UsageError: an option out of range, or an unknown architecture (with the nearest known one).
    """

    arch: str = option(
        "resnet",
        f"Network: {', '.join(ARCHITECTURES)}, or keras:NAME, a model of keras.applications such "
        "as keras:MobileNetV2.",
    )
    filters: int = option(
        0, "Channels of the first scale; 0 is the network's own (32; resnet18/50: 64).", 0, 4096
    )
    repeat: int = option(4, "Residual units a scale (resnet, shake).", 1, 64)
    scales: int = option(
        0, "Resolutions (resnet, shake); 0 means ceil(log2(size)) - 2, at least 1.", 0, 10
    )
    bn_decay: float = option(0.999, "Decay of batch normalisation's moving averages.", 0, 0.999999)
    whiten: bool = option(False, "Normalise images by the training set's mean and deviation.")
    dropout: float = option(
        0.0, "Share of the features that training hides from the last layer.", 0, 0.999999
    )
    pretrained: bool = option(
        False, "Start keras:NAME from its ImageNet weights (Keras's cache, or downloaded)."
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "arch", _checked_architecture(self.arch))
        check_options(self)

    def changed(self) -> dict[str, Any]:
        """The options that are not at their defaults; an architecture's own width is a default."""
        plain = self
        if self.filters == default_filters(self.arch):
            plain = replace(self, filters=0)
        items = ((item.name, item.default, getattr(plain, item.name)) for item in fields(self))
        return {name: value for name, default, value in items if value != default}


@dataclass(frozen=True)
class NetworkSpec:
    """A network, complete enough to build it again.

    Attributes:
      arch: one of ``ARCHITECTURES``, ``keras:<name>`` (a model of keras.applications) or an own
        network (``register_network``).
      num_classes: outputs of the classifier, at least 2.
      height, width: image size in pixels; channels: 1 or 3.
      filters: width of the first scale; 0 is replaced by the architecture's own width, and is the
        only value for ``keras:<name>``.
      repeat: residual units a scale (``resnet``, ``shake``).
      scales: resolutions (``resnet``, ``shake``); 0 means ceil(log2(width)) − 2, at least 1.
      bn_decay: decay of batch normalisation's moving averages, in [0, 1).
      mean, std: per channel, applied to images in [−1, 1] before the first layer.
      dropout: share of the features that training hides from the classifier, in [0, 1).
      pretrained: begin with ImageNet weights (``keras:<name>``), which read their images as they
        were trained to: 0 to 255, prepared, in three channels.

    Raises:
      UsageError: values that make no network; the message names the flag where there is one.
    """

    arch: str = "resnet"
    num_classes: int = 10
    height: int = 32
    width: int = 32
    channels: int = 3
    filters: int = 0
    repeat: int = 4
    scales: int = 0
    bn_decay: float = 0.999
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    dropout: float = 0.0
    pretrained: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "arch", _checked_architecture(self.arch))
        if type(self.filters) is int and self.filters == 0:
            object.__setattr__(self, "filters", default_filters(self.arch))
        for name, low, high in (
            ("num_classes", 2, 1_000_000),
            ("height", 4, 4096),
            ("width", 4, 4096),
            ("filters", 0 if is_application(self.arch) else 1, 4096),
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
        if type(self.pretrained) is not bool:
            raise UsageError(f"pretrained is {self.pretrained!r}, not a truth value")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise UsageError(f"{name} must have one value a channel, not {getattr(self, name)}")
        if any(not math.isfinite(v) for v in self.mean + self.std) or min(self.std) <= 0:
            raise UsageError("mean and std must be finite numbers, std above 0")
        self._check_options()
        self._check_size()

    def _check_options(self) -> None:
        """Options that would be ignored are refused."""
        described = _described(self.arch)
        unread = {"repeat", "scales"} - set(described.reads)
        if described.filters == 0:
            unread.add("filters")
        for item in fields(NetworkOptions):
            if item.name in unread and getattr(self, item.name) != item.default:
                raise UsageError(
                    f"{self.arch} has no choice of {item.name}",
                    f"--{item.name}",
                    f"leave it out, or --arch={ARCHITECTURES[0]}",
                )
        if self.pretrained and not is_application(self.arch):
            raise UsageError(
                f"there are no ImageNet weights for {self.arch}",
                "--pretrained",
                "--arch=keras:MobileNetV2, or --load_checkpoint with a run of your own",
            )
        if self.pretrained and (self.mean, self.std) != ((0.0,), (1.0,)):
            raise UsageError(
                "ImageNet weights come with a normalisation of their own",
                "--whiten",
                "leave out --whiten or --pretrained",
            )

    def _check_size(self) -> None:
        smallest = _described(self.arch).smallest
        if is_application(self.arch):
            smallest = application(self.arch).smallest
        if min(self.height, self.width) < smallest:
            other = "resnet50" if self.arch == "resnet50_imagenet" else "resnet"
            raise UsageError(
                f"{self.arch} needs images of at least {smallest}×{smallest} pixels, these have "
                f"{self.height}×{self.width}",
                "--arch",
                f"--arch={other}, or larger images (create_datasets --img_size)",
            )
        scales = self.resolved_scales if "scales" in _described(self.arch).reads else 1
        if scales > 1 and min(self.height, self.width) >> (scales - 1) < 1:
            raise UsageError(
                f"{scales} scales do not fit images of {self.height}×{self.width}",
                "--scales",
                "a smaller number",
            )

    @property
    def resolved_scales(self) -> int:
        """``scales``, or what the image width implies."""
        return self.scales or max(1, math.ceil(math.log2(self.width)) - 2)

    def fewest_weights(self) -> int:
        """A number of weights the network certainly reaches, from the description alone."""
        if is_application(self.arch):
            return application(self.arch).weights * 1000 + self.num_classes
        width, least = self.filters, 0
        if self.arch in ("resnet", "shake"):
            width <<= self.resolved_scales - 1
            branches = 2 if self.arch == "shake" else 1
            least = branches * self.repeat * 9 * width * width
        elif self.arch == "small":
            width *= 4
            least = 9 * width * width // 2
        elif self.arch == "cnn13":
            least = 72 * width * width
        elif self.arch == "resnet18":
            width *= 8
            least = 27 * width * width
        elif self.arch in ("resnet50", "resnet50_imagenet"):
            width *= 8
            least = 39 * width * width
            width *= 4
        else:
            return max(width, self.num_classes)
        return least + width * self.num_classes

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
          CheckpointError: keys or values that do not make a network, or an own network that is
            not registered here.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(value, Mapping) or not known - set(_LATER) <= set(value) <= known:
            raise CheckpointError("the model's description does not list the expected fields")
        arch = value["arch"]
        if isinstance(arch, str) and known_architecture(arch) is None:
            remedy = "a version of this package that has it"
            if not is_application(arch):
                remedy = (
                    f"realmix_tf.nets.register_network({arch[:80]!r}, builder) if it is your own, "
                    "with the builder it was trained with"
                )
            raise CheckpointError(
                f"the model's network is {arch[:80]!r}, which is not known here", "", remedy
            )
        try:
            numbers = {name: tuple(map(float, value[name])) for name in ("mean", "std")}
            return cls(**{**value, **numbers})
        except (TypeError, ValueError, OverflowError, UsageError) as error:
            raise CheckpointError(f"the model's description is not usable: {error}") from error


def default_filters(arch: str) -> int:
    """The width an architecture has where none is chosen; 0 where there is no choice."""
    return _described(arch).filters


def _described(arch: str) -> _Architecture:
    if is_application(arch):
        return _APPLICATION
    return _BUILT_IN.get(arch, _OWN)
