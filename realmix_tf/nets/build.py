"""From a description to a network."""

from __future__ import annotations

from realmix_tf.nets.layers import Network
from realmix_tf.nets.small import SmallNet
from realmix_tf.nets.spec import NetworkSpec
from realmix_tf.nets.wide_resnet import WideResNet

_CLASSES: dict[str, type[Network]] = {"resnet": WideResNet, "small": SmallNet}


def build_network(
    spec: NetworkSpec,
    precision: str = "float32",
    seed: int = 0,
    synchronized: bool = False,
) -> Network:
    """Builds a network; all its variables exist when this returns.

    Args:
      spec: what to build.
      precision: ``float32`` or ``mixed_bfloat16`` (activations in bfloat16, weights in float32).
      seed: of the initial weights; the same seed gives the same weights, bit for bit.
      synchronized: batch statistics over all replicas instead of each replica's own.
    """
    return _CLASSES[spec.arch](spec, precision, seed, synchronized)
