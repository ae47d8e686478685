"""What a level means for each operation of RandAugment and AutoAugment.

A level is a tenth of an operation's range. Two sets of ranges are in use: those of the published
FixMatch code (Sohn et al. 2020, arXiv 2001.07685), which AutoAugment shares, and those of the
table in that paper, which the PyTorch editions train with. Operations marked ± get a random sign.

| operation | FixMatch code, level m | paper, level m | paper, share u of the range |
|---|---|---|---|
| AutoContrast, Equalize, Identity, Invert | whole | whole | whole |
| Brightness, Color, Contrast, Sharpness | 0.1 + 0.18·m | 0.05 + 0.09·m | 0.05 + 0.9·u |
| Posterize, bits | 4 − ⌊0.4·m⌋ | 4 + ⌊0.4·m⌋ | ⌊4 + 4·u⌋ |
| Solarize, threshold | 256 − ⌊25.6·m⌋ | 256 − ⌊25.6·m⌋ | 256·u |
| Rotate, degrees | ± 3·m | ± 3·m | −30 + 60·u |
| ShearX, ShearY | ± 0.03·m | ± 0.03·m | −0.3 + 0.6·u |
| TranslateX, TranslateY, pixels | ± m | ± ⌊0.03·m·size⌋ | (−0.3 + 0.6·u)·size |

Numbers that are pixels whatever the size (the code's translations, the window of 16 pixels) are
meant for images of 32 pixels and more; on smaller ones they shrink with the smaller side. Levels
above 10 leave the ranges; what cannot go further stays at its end.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from realmix_tf.augment.chain import Op

ENHANCED = (Op.BRIGHTNESS, Op.COLOR, Op.CONTRAST, Op.SHARPNESS)
SIGNED = (Op.ROTATE, Op.SHEAR_X, Op.SHEAR_Y, Op.TRANSLATE_X, Op.TRANSLATE_Y)
# The operations of RandAugment.
RANDOM = (
    Op.IDENTITY,
    Op.AUTOCONTRAST,
    Op.EQUALIZE,
    Op.ROTATE,
    Op.SOLARIZE,
    Op.COLOR,
    Op.CONTRAST,
    Op.BRIGHTNESS,
    Op.SHARPNESS,
    Op.SHEAR_X,
    Op.TRANSLATE_X,
    Op.TRANSLATE_Y,
    Op.POSTERIZE,
    Op.SHEAR_Y,
)
Table = npt.NDArray[np.float64]


def small_scale(height: int, width: int) -> float:
    """By how much numbers of pixels shrink: smaller side / 32, at most 1."""
    return min(1.0, min(height, width) / 32)


def code_amount(op: Op, level: int, height: int, width: int) -> float:
    """``Step.amount`` of the FixMatch code at a level, without sign."""
    if op in ENHANCED:
        return level * 1.8 / 10 + 0.1
    if op is Op.POSTERIZE:
        return max(4 - int(level * 4 / 10), 1)
    if op in (Op.TRANSLATE_X, Op.TRANSLATE_Y):
        return int(level * small_scale(height, width) + 0.5)
    return _common_amount(op, level)


def paper_amount(op: Op, level: int, height: int, width: int) -> float:
    """``Step.amount`` of the paper's ranges at a level, without sign."""
    if op in ENHANCED:
        return level * 0.9 / 10 + 0.05
    if op is Op.POSTERIZE:
        return min(4 + int(level * 4 / 10), 8)
    if op in (Op.TRANSLATE_X, Op.TRANSLATE_Y):
        return int(level * 0.3 / 10 * (width if op is Op.TRANSLATE_X else height))
    return _common_amount(op, level)


def _common_amount(op: Op, level: int) -> float:
    if op is Op.SOLARIZE:
        return max(256 - int(level * 256 / 10), 0)
    if op is Op.ROTATE:
        return int(level * 30 / 10)
    if op in (Op.SHEAR_X, Op.SHEAR_Y):
        return level * 0.3 / 10
    return 1.0


def paper_range(height: int, width: int) -> tuple[Table, Table]:
    """float64 [operations] twice: both ends of the paper's ranges, signs included."""
    low, high = np.ones(len(Op)), np.ones(len(Op))
    for ops, first, last in (
        (ENHANCED, 0.05, 0.95),
        ((Op.POSTERIZE,), 4.0, 8.0),
        ((Op.SOLARIZE,), 0.0, 256.0),
        ((Op.ROTATE,), -30.0, 30.0),
        ((Op.SHEAR_X, Op.SHEAR_Y), -0.3, 0.3),
        ((Op.TRANSLATE_X,), -0.3 * width, 0.3 * width),
        ((Op.TRANSLATE_Y,), -0.3 * height, 0.3 * height),
    ):
        low[list(ops)], high[list(ops)] = first, last
    return low, high
