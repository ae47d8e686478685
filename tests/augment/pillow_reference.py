"""The same chains done slowly: Pillow, one image and one operation at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from realmix_tf.augment.chain import Op

FILTERS = (
    Image.Resampling.LANCZOS,
    Image.Resampling.BICUBIC,
    Image.Resampling.BILINEAR,
    Image.Resampling.BOX,
    Image.Resampling.HAMMING,
    Image.Resampling.NEAREST,
)
Picture = Image.Image
_SHARES: dict[Op, Callable[[Picture], Picture]] = {
    Op.AUTOCONTRAST: ImageOps.autocontrast,
    Op.EQUALIZE: ImageOps.equalize,
    Op.INVERT: ImageOps.invert,
    Op.SMOOTH: lambda image: image.filter(ImageFilter.SMOOTH),
    Op.BLUR: lambda image: image.filter(ImageFilter.BLUR),
}
_ENHANCERS = {
    Op.BRIGHTNESS: ImageEnhance.Brightness,
    Op.COLOR: ImageEnhance.Color,
    Op.CONTRAST: ImageEnhance.Contrast,
    Op.SHARPNESS: ImageEnhance.Sharpness,
}
GEOMETRY = (Op.ROTATE, Op.SHEAR_X, Op.SHEAR_Y, Op.TRANSLATE_X, Op.TRANSLATE_Y, Op.RESCALE)


def picture(pixels: np.ndarray) -> Picture:
    """uint8 [H, W, C] → an image of mode L or RGB."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def pixels_of(image: Picture) -> np.ndarray:
    return np.asarray(image).reshape(image.height, image.width, -1)


def moved(image: Picture, op: Op, amount: float, option: int) -> Picture:
    """Geometry."""
    width, height = image.size
    if op is Op.ROTATE:
        return image.rotate(amount)
    if op is Op.RESCALE:
        box = (amount * width, amount * height, width * (1 - amount), height * (1 - amount))
        return image.crop(box).resize(image.size, FILTERS[option])
    entries = {
        Op.SHEAR_X: (1, amount, 0, 0, 1, 0),
        Op.SHEAR_Y: (1, 0, 0, amount, 1, 0),
        Op.TRANSLATE_X: (1, 0, amount, 0, 1, 0),
        Op.TRANSLATE_Y: (1, 0, 0, 0, 1, amount),
    }
    return image.transform(image.size, Image.Transform.AFFINE, entries[op])


def applied(image: Picture, op: Op, amount: float, option: int = 0) -> Picture:
    """One operation in the units of ``chain.Op``, cutout excepted."""
    if op is Op.IDENTITY:
        return image
    if op in GEOMETRY:
        return moved(image, op, amount, option)
    if op in _ENHANCERS:
        return _ENHANCERS[op](image).enhance(amount)
    if op is Op.POSTERIZE:
        return ImageOps.posterize(image, int(amount))
    if op is Op.SOLARIZE:
        return ImageOps.solarize(image, int(amount))
    return Image.blend(image, _SHARES[op](image), amount)


def window(height: int, width: int, row: int, column: int, side: int) -> np.ndarray:
    """bool [H, W]: a window of side // 2 pixels to every side of its centre."""
    half, inside = side // 2, np.zeros((height, width), bool)
    for y in range(max(0, row - half), min(height, row + half)):
        for x in range(max(0, column - half), min(width, column + half)):
            inside[y, x] = True
    return inside


def replayed(
    pixels: np.ndarray, steps: Iterable[tuple[Op, float, int, tuple[int, int]]]
) -> tuple[np.ndarray, np.ndarray]:
    """A chain on one image.

    Args:
      pixels: uint8 [H, W, C].
      steps: operation, amount, option, row and column of a window.

    Returns:
      uint8 [H, W, C] and bool [H, W], what is hidden.
    """
    height, width, _ = pixels.shape
    image, hidden = picture(pixels), np.zeros((height, width), bool)
    for op, amount, option, centre in steps:
        if op is Op.CUTOUT:
            inside = window(height, width, *centre, int(amount))
            hidden |= inside
            image = picture(np.where(inside[..., None], 0, pixels_of(image)).astype(np.uint8))
            continue
        image = applied(image, op, amount, option)
        if op in GEOMETRY:
            # What shows something is white; Pillow fills what it uncovers with black.
            seen = Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8))
            nearest = FILTERS.index(Image.Resampling.NEAREST)
            hidden = np.asarray(moved(seen, op, amount, nearest)) == 0
    return pixels_of(image), hidden


def as_float(pixels: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """float32 [H, W, C] in [−1, 1], hidden pixels 0."""
    values = pixels.astype(np.float32) * np.float32(2 / 255) - np.float32(1)
    return np.where(hidden[..., None], np.float32(0), values)


def varied(count: int, height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    """uint8 [N, H, W, C]: noise, flat, two values, smooth, five values, black, bright, sorted."""
    random = np.random.default_rng(seed)
    shape = (height, width, channels)

    def one(kind: int) -> np.ndarray:
        if kind == 0:
            return random.integers(0, 256, shape)
        if kind == 1:
            return np.full(shape, random.integers(0, 256))
        if kind == 2:
            return random.integers(0, 2, shape) * 255
        if kind == 3:
            small = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            large = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
            return np.asarray(large)[..., :channels]
        if kind == 4:
            low = random.integers(0, 250)
            return random.integers(low, low + 5, shape)
        if kind == 5:
            return np.zeros(shape)
        if kind == 6:
            bright = np.full(shape, 255)
            bright[0, 0] = random.integers(0, 256)
            return bright
        return np.sort(random.integers(0, 256, height * width * channels)).reshape(shape)

    return np.stack([one(i % 8) for i in range(count)]).astype(np.uint8)
