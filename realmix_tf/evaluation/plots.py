"""Plots as PNG bytes. Matplotlib's Agg canvas is used directly: no pyplot, no global state.

Plots take plain numbers and a ``Theme`` and have a transparent background, so a page can show each
in light and in dark; ``on_paper`` makes them files of their own.
"""

from __future__ import annotations

import functools
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib import get_data_path
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image, ImageDraw, ImageFont

_DPI = 160
_MAX_NAME = 18
_MAX_CELLS_WITH_TEXT = 20
_MAX_TICKS = 40


@dataclass(frozen=True)
class Theme:
    """Colours: text, faint lines, the page behind, and the series in order of importance."""

    text: str
    faint: str
    paper: str
    series: tuple[str, ...]


LIGHT = Theme(
    "#3b4252",
    "#d9dee7",
    "#ffffff",
    ("#2f6bed", "#e07b2a", "#25a06e", "#a855c7", "#d64562", "#0e97a8"),
)
DARK = Theme(
    "#c3cad6",
    "#343c49",
    "#171b22",
    ("#7aa7ff", "#f3a25f", "#56cf9d", "#cf92ea", "#f2849a", "#54c8d8"),
)


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
      name: for the legend.
      x, y: numbers of the same length; NaN in ``y`` leaves a gap.
      style: ``solid``, ``dashed`` or ``dotted``.
      color: index into the theme's series; −1 is the colour of the text.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "solid"
    color: int = 0


@dataclass(frozen=True)
class Band:
    """A shaded range: ``low`` to ``high`` over ``x``, in the series' colour ``color``."""

    name: str
    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    color: int = 0


def curves(
    lines: Sequence[Line],
    theme: Theme,
    xlabel: str = "",
    ylabel: str = "",
    percent: bool = False,
    whole: bool = False,
    bands: Sequence[Band] = (),
) -> bytes:
    """Lines over a common axis; a single point is drawn as a dot. PNG.

    The vertical axis is logarithmic where positive values span more than a factor of 300.

    Args:
      lines: what to draw, the most important first.
      theme: the colours.
      xlabel, ylabel: the axes' titles.
      percent: values are fractions in [0, 1], shown in percent.
      whole: the vertical axis covers all of [0, 1].
      bands: ranges drawn behind the lines.
    """
    figure, axes = _figure(5.6, 3.3, theme)
    axes.grid(True, color=theme.faint, linewidth=0.7)
    for band in bands:
        color = theme.series[band.color]
        axes.fill_between(band.x, band.low, band.high, color=color, alpha=0.16, linewidth=0)
    for line in reversed(lines):
        color = theme.text if line.color < 0 else theme.series[line.color % len(theme.series)]
        marker = "o" if np.isfinite(np.asarray(line.y, float)).sum() <= 12 else None
        main = line.style == "solid"
        axes.plot(
            line.x,
            line.y,
            color=color,
            linestyle=line.style,
            linewidth=2.0 if main else 1.3,
            marker=marker,
            markersize=4 if main else 2.5,
            label=line.name,
        )
    values = np.concatenate([np.asarray(line.y, float) for line in lines]) if lines else np.ones(1)
    values = values[np.isfinite(values)]
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, None if _narrow(axes) else 0))
    elif values.size and values.min() > 0 and values.max() / values.min() > 300:
        axes.set_yscale("log")
    if whole:
        axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(xlabel, color=theme.text, fontsize=9)
    axes.set_ylabel(ylabel, color=theme.text, fontsize=9)
    handles, names = axes.get_legend_handles_labels()
    if len(handles) > 1:
        legend = axes.legend(
            handles[::-1], names[::-1], fontsize=8, frameon=True, labelcolor=theme.text
        )
        legend.get_frame().set(facecolor=theme.paper, edgecolor="none", alpha=0.7)
    return _png(figure)


def confusion(table: npt.ArrayLike, classes: Sequence[str], theme: Theme) -> bytes:
    """A confusion matrix, coloured by the share of each row. PNG.

    Args:
      table: counts [C, C], rows are true classes; a row without images stays blank.
      classes: the C names; long ones are shortened, and beyond 40 only some are written.
      theme: the colours.
    """
    counts = np.asarray(table, np.float64)
    size = len(classes)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = float(np.clip(1.9 + 0.36 * size, 3.6, 9.0))
    figure, axes = _figure(side + 0.5, side, theme)
    colors = LinearSegmentedColormap.from_list("share", [theme.paper, theme.series[0]])
    axes.imshow(share, cmap=colors, vmin=0, vmax=1, interpolation="nearest", aspect="equal")
    step = -(-size // _MAX_TICKS)
    ticks = list(range(0, size, step))
    names = [_short(classes[i]) for i in ticks]
    font = float(np.clip(150 / max(size, 1), 5.5, 9))
    long = max(map(len, names), default=0) > 3
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    axes.set_xticklabels(names, fontsize=font, parse_math=False)
    axes.set_yticklabels(names, fontsize=font, parse_math=False)
    if long:
        for label in axes.get_xticklabels():
            label.set(rotation=45, horizontalalignment="right", rotation_mode="anchor")
    axes.set_xlabel("predicted", color=theme.text, fontsize=9)
    axes.set_ylabel("true", color=theme.text, fontsize=9)
    axes.tick_params(length=0)
    if size <= _MAX_CELLS_WITH_TEXT:
        for i, j in zip(*np.nonzero(counts), strict=True):
            ink = theme.paper if share[i, j] > 0.55 else theme.text
            text = f"{counts[i, j]:.0f}"
            axes.text(j, i, text, ha="center", va="center", color=ink, fontsize=font)
        axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
        axes.grid(True, which="minor", color=theme.faint, linewidth=0.6)
        axes.tick_params(which="minor", length=0)
    return _png(figure)


def reliability_diagram(
    confidence: Sequence[float | None],
    accuracy: Sequence[float | None],
    count: Sequence[int],
    theme: Theme,
) -> bytes:
    """How often predictions of a confidence are right, and how many there are. PNG.

    Args:
      confidence, accuracy: means a bin in [0, 1]; None for an empty bin.
      count: predictions a bin.
      theme: the colours.
    """
    figure = Figure(figsize=(4.6, 4.4), dpi=_DPI, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
    edges = np.linspace(0, 1, len(count) + 1)
    width = edges[1] - edges[0]
    centres = edges[:-1] + width / 2
    filled = [i for i, n in enumerate(count) if n]
    hits = np.array([accuracy[i] or 0.0 for i in filled])
    sure = np.array([confidence[i] or 0.0 for i in filled])
    base, blue, cyan, red = np.minimum(hits, sure), *(theme.series[i] for i in (0, 5, 4))
    # The two kinds of gap look different: too much confidence is the worse one.
    for heights, bottoms, color, alpha, name in (
        (base, 0 * base, blue, 0.9, "right"),
        (hits - base, base, cyan, 0.45, "underconfident"),
        (sure - base, base, red, 0.55, "overconfident"),
    ):
        x = centres[filled]
        top.bar(x, heights, width * 0.92, bottoms, color=color, alpha=alpha, label=name)
    top.plot([0, 1], [0, 1], color=theme.text, linestyle="dashed", linewidth=1)
    top.set(xlim=(0, 1), ylim=(0, 1))
    top.set_ylabel("share that is right", color=theme.text, fontsize=9)
    legend = top.legend(fontsize=8, loc="upper left", frameon=False, labelcolor=theme.text)
    legend.set_zorder(5)
    bottom.bar(centres, count, width * 0.92, color=theme.text, alpha=0.45)
    bottom.set_xlabel("confidence", color=theme.text, fontsize=9)
    bottom.set_ylabel("images", color=theme.text, fontsize=9)
    for axes in (top, bottom):
        _dress(axes, theme)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    top.yaxis.set_major_formatter(PercentFormatter(1.0))
    return _png(figure)


def image_png(image: npt.NDArray[np.uint8], most: int = 96) -> bytes:
    """One image, uint8 [H, W, C] with C 1 or 3, as PNG; sides beyond ``most`` pixels shrink."""
    picture = _picture(image)
    if max(picture.size) > most:
        picture.thumbnail((most, most), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def grid(
    images: npt.NDArray[np.uint8],
    captions: Sequence[str] = (),
    columns: int = 8,
    least: int = 64,
    most: int = 192,
) -> bytes:
    """A grid of images as PNG.

    Args:
      images: uint8 [N, H, W, C], N at least 1, C 1 or 3.
      captions: a line below each image; too long ones are cut. None when empty.
      columns: images a row.
      least: smaller images are enlarged by a whole factor to about this many pixels, each pixel
        a square.
      most: larger ones are shrunk to this.
    """
    height, width = images.shape[1:3]
    factor = max(1, round(least / max(height, width)))
    shrink = min(1.0, most / max(height, width))
    size = (max(1, round(width * factor * shrink)), max(1, round(height * factor * shrink)))
    mode = Image.Resampling.NEAREST if shrink == 1.0 else Image.Resampling.LANCZOS
    gap, line = 4, 16 if captions else 0
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    cell = (size[0] + gap, size[1] + gap + line)
    shape = (columns * cell[0] + gap, rows * cell[1] + gap)
    sheet = Image.new("RGB", shape, LIGHT.paper if captions else LIGHT.faint)
    pen, font = ImageDraw.Draw(sheet), _font(10)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        left, top = gap + column * cell[0], gap + row * cell[1]
        sheet.paste(_picture(image).resize(size, mode), (left, top))
        if index < len(captions):
            text = captions[index]
            while len(text) > 1 and font.getlength(text) > size[0]:
                text = text[:-2] + "…"
            pen.text((left, top + size[1] + 1), text, LIGHT.text, font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def on_paper(png: bytes, theme: Theme = LIGHT) -> bytes:
    """A PNG with its transparent parts filled with the theme's paper, for use outside a page."""
    picture = Image.open(io.BytesIO(png), formats=["PNG"]).convert("RGBA")
    sheet = Image.new("RGBA", picture.size, theme.paper)
    sheet.alpha_composite(picture)
    buffer = io.BytesIO()
    sheet.convert("RGB").save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def sequence(points: Sequence[Mapping[str, object]], *path: str) -> list[float]:
    """The number at ``path`` in each of several nested mappings; NaN where there is none."""
    values = []
    for point in points:
        value: object = point
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        known = isinstance(value, (int, float)) and not isinstance(value, bool)
        values.append(float(value) if known else float("nan"))  # type: ignore[arg-type]
    return values


def _picture(image: npt.NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image[..., :3])


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # The font the plots use, which comes with Matplotlib and knows more than Latin letters.
    return ImageFont.truetype(os.path.join(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"


def _figure(width: float, height: float, theme: Theme) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    _dress(axes, theme)
    return figure, axes


def _dress(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor("none")
    axes.tick_params(colors=theme.text, labelsize=8, length=3, color=theme.faint)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.faint)


def _narrow(axes: Axes) -> bool:
    """Whether whole percents would repeat along the vertical axis."""
    low, high = axes.get_ylim()
    return high - low < 0.06


def _png(figure: Figure) -> bytes:
    figure.patch.set_facecolor("none")
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script the font lacks is drawn as boxes; that is no reason to speak up.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        # Without the program's name and version in it the same numbers give the same file.
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
