"""The models of keras.applications by name: what can be known of them without Keras."""

from __future__ import annotations

from typing import NamedTuple

PREFIX = "keras:"


class Application(NamedTuple):
    """A model without its classifier.

    Attributes:
      smallest: side in pixels below which Keras refuses to build it.
      weights: how many it has at least, whatever the images; in thousands.
    """

    smallest: int
    weights: int


# Counted with Keras 3.15 on images of one channel, rounded down.
APPLICATIONS = {
    "ConvNeXtBase": Application(32, 87_000),
    "ConvNeXtLarge": Application(32, 196_000),
    "ConvNeXtSmall": Application(32, 49_000),
    "ConvNeXtTiny": Application(32, 27_000),
    "ConvNeXtXLarge": Application(32, 348_000),
    "DenseNet121": Application(32, 7_000),
    "DenseNet169": Application(32, 12_000),
    "DenseNet201": Application(32, 18_000),
    "EfficientNetB0": Application(32, 4_000),
    "EfficientNetB1": Application(32, 6_500),
    "EfficientNetB2": Application(32, 7_700),
    "EfficientNetB3": Application(32, 10_700),
    "EfficientNetB4": Application(32, 17_600),
    "EfficientNetB5": Application(32, 28_000),
    "EfficientNetB6": Application(32, 40_000),
    "EfficientNetB7": Application(32, 64_000),
    "EfficientNetV2B0": Application(32, 5_900),
    "EfficientNetV2B1": Application(32, 6_900),
    "EfficientNetV2B2": Application(32, 8_700),
    "EfficientNetV2B3": Application(32, 12_900),
    "EfficientNetV2L": Application(32, 117_000),
    "EfficientNetV2M": Application(32, 53_000),
    "EfficientNetV2S": Application(32, 20_000),
    "InceptionResNetV2": Application(75, 54_000),
    "InceptionV3": Application(75, 21_000),
    "MobileNet": Application(32, 3_200),
    "MobileNetV2": Application(32, 2_200),
    "MobileNetV3Large": Application(32, 2_900),
    "MobileNetV3Small": Application(32, 900),
    "NASNetLarge": Application(32, 84_000),
    "NASNetMobile": Application(32, 4_200),
    "ResNet101": Application(32, 42_000),
    "ResNet101V2": Application(32, 42_000),
    "ResNet152": Application(32, 58_000),
    "ResNet152V2": Application(32, 58_000),
    "ResNet50": Application(32, 23_000),
    "ResNet50V2": Application(32, 23_000),
    "VGG16": Application(32, 14_000),
    "VGG19": Application(32, 20_000),
    "Xception": Application(71, 20_000),
}


def is_application(arch: str) -> bool:
    """Whether an architecture's name means a model of keras.applications."""
    return arch.startswith(PREFIX)


def application(arch: str) -> Application:
    """What is known of ``keras:<name>``, a name as in ``APPLICATIONS``."""
    return APPLICATIONS[arch.removeprefix(PREFIX)]
