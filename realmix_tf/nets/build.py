"""From a description to a network."""

from __future__ import annotations

from realmix_tf.nets.cnn13 import Cnn13
from realmix_tf.nets.keras_model import KerasNetwork
from realmix_tf.nets.layers import Network
from realmix_tf.nets.resnet import ResNet
from realmix_tf.nets.shake import ShakeShake
from realmix_tf.nets.small import SmallNet
from realmix_tf.nets.spec import NetworkSpec
from realmix_tf.nets.wide_resnet import WideResNet

_CLASSES: dict[str, type[Network]] = {
    "resnet": WideResNet,
    "small": SmallNet,
    "cnn13": Cnn13,
    "shake": ShakeShake,
    "resnet18": ResNet,
    "resnet50": ResNet,
    "resnet50_imagenet": ResNet,
}


def build_network(
    spec: NetworkSpec,
    precision: str = "float32",
    seed: int = 0,
    synchronized: bool = False,
    load_pretrained: bool = True,
) -> Network:
    """Builds a network; all its variables exist when this returns.

    Args:
      spec: what to build.
      precision: ``float32`` or ``mixed_bfloat16`` (activations in bfloat16, weights in float32).
      seed: of the initial weights; the same seed gives the same weights, bit for bit.
      synchronized: batch statistics over all replicas instead of each replica's own.
      load_pretrained: whether ``spec.pretrained`` fetches the ImageNet weights; False where all
        weights are assigned afterwards.

    Raises:
      UsageError: a Keras model that cannot be used; the message says why.
      ResourceError: ImageNet weights that cannot be had.
    """
    made = _CLASSES.get(spec.arch)
    if made is None:
        return KerasNetwork(spec, precision, seed, synchronized, load_pretrained)
    return made(spec, precision, seed, synchronized)
