"""Draws docs/architecture.png: python docs/draw_architecture.py [--variant=B/16] [--output=FILE].

Every number in the figure comes from the sizes of Table 1, `mixer.models.mixer.VARIANTS`.
"""

import argparse
import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from mixer.models.mixer import VARIANTS

IMAGE_SIZE = 224
NUM_CLASSES = 1000
INK, PALE, LINE = "#22272e", "#eef0f3", "#8a929c"
TOKENS, TOKENS_PALE = "#2f6db5", "#d6e5f6"
CHANNELS, CHANNELS_PALE = "#cc6f1d", "#fbe3cc"
HEAD, HEAD_PALE = "#4c8b57", "#dcefdf"
TIMES = "$\\times$"


def draw(variant: str, output: pathlib.Path) -> None:
    """Writes the figure of one size of Table 1 as a PNG, whose metadata holds that size."""
    plt.rcParams.update({"font.family": "DejaVu Sans", "text.color": INK, "font.size": 9})
    figure = plt.figure(figsize=(11, 5.25))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 11), ylim=(0, 5.25))
    axes.axis("off")
    left, right, bottom = _draw_model(axes, variant, y=4.05)
    zoom = [(left, bottom), (right, bottom), (10.82, 2.7), (0.18, 2.7)]
    axes.add_patch(Polygon(zoom, fc=PALE, ec="none", zorder=0))
    _draw_block(axes, variant, y=1.32)
    sizes = json.dumps({variant: VARIANTS[variant]})
    figure.savefig(output, dpi=200, facecolor="white", metadata={"Description": sizes})
    plt.close(figure)


def _draw_model(axes: Axes, variant: str, y: float) -> tuple[float, float, float]:
    """Draws the upper row, image to logits; returns the left, right and bottom of the block."""
    size = VARIANTS[variant]
    patch, side = size["patch_size"], IMAGE_SIZE // size["patch_size"]
    axes.imshow(_landscape(), extent=(0.4, 2.0, y - 0.8, y + 0.8), aspect="auto", zorder=1)
    for line in np.linspace(0, 1.6, side + 1):
        axes.plot([0.4 + line] * 2, [y - 0.8, y + 0.8], color="white", lw=0.5, zorder=2)
        axes.plot([0.4, 2.0], [y - 0.8 + line] * 2, color="white", lw=0.5, zorder=2)
    _note(axes, 1.2, y + 0.94, f"image [{IMAGE_SIZE}, {IMAGE_SIZE}, 3]")
    _note(axes, 1.2, y - 0.94, f"{side} {TIMES} {side} patches of {patch} {TIMES} {patch} pixels")

    _arrow(axes, (2.04, y), (2.42, y))
    _box(axes, 2.85, y, 0.84, 0.8, "stem", "linear,\nper patch", PALE, LINE)
    _arrow(axes, (3.29, y), (3.66, y))
    _matrix(axes, 4.05, y)
    _note(axes, 4.05, y + 0.6, "channels")
    axes.text(3.59, y - 0.3, "tokens", rotation=90, ha="center", va="center", fontsize=7.5)
    _note(axes, 4.05, y - 0.62, f"[{side**2}, {size['hidden_dim']}]")

    left, right, height = 4.72, 7.06, 1.08
    _arrow(axes, (4.44, y), (left - 0.02, y))
    for offset in (0.14, 0.07, 0):
        edge = LINE if offset else INK
        middle = (left + right) / 2 + offset
        _box(axes, middle, y + offset, right - left, height, "", "", "white", edge)
    axes.text(5.89, y + 0.34, "mixer block", ha="center", va="center", weight="bold", zorder=6)
    _box(axes, 5.31, y - 0.15, 0.98, 0.5, "token\nmixing", "", TOKENS_PALE, TOKENS, small=True)
    _arrow(axes, (5.81, y - 0.15), (5.98, y - 0.15))
    _box(
        axes, 6.48, y - 0.15, 0.98, 0.5, "channel\nmixing", "", CHANNELS_PALE, CHANNELS, small=True
    )
    axes.text(
        7.28, y + 0.72, f"{TIMES} {size['num_blocks']}", weight="bold", fontsize=12, va="center"
    )

    _arrow(axes, (7.22, y), (7.5, y))
    _box(axes, 7.87, y, 0.72, 0.8, "Layer-\nNorm", "", PALE, LINE, small=True)
    _arrow(axes, (8.24, y), (8.5, y))
    _box(axes, 8.87, y, 0.72, 0.8, "mean", "over\ntokens", PALE, LINE)
    _note(axes, 8.87, y - 0.55, f"[{size['hidden_dim']}]")
    _arrow(axes, (9.24, y), (9.5, y))
    _box(axes, 9.82, y, 0.62, 0.8, "head", "linear", HEAD_PALE, HEAD)
    _arrow(axes, (10.14, y), (10.36, y))
    for row, share in enumerate((0.12, 0.2, 0.36, 0.15, 0.08)):
        axes.add_patch(Rectangle((10.42, y + 0.27 - 0.16 * row), share, 0.1, fc=HEAD, ec="none"))
    _note(axes, 10.4, y - 0.55, f"logits [{NUM_CLASSES}]")
    return left, right, y - height / 2


def _draw_block(axes: Axes, variant: str, y: float) -> None:
    """Draws the lower row: what happens to the tokens in one block."""
    size = VARIANTS[variant]
    tokens, channels = (IMAGE_SIZE // size["patch_size"]) ** 2, size["hidden_dim"]
    _panel(axes, 0.18, 0.12, 10.64, 2.58, "white", LINE)
    _panel(axes, 1.3, 0.26, 4.56, 2.3, "#f2f7fd", "none")
    _panel(axes, 5.98, 0.26, 4.56, 2.3, "#fef7ef", "none")
    _matrix(axes, 0.76, y)
    _note(axes, 0.76, y - 0.64, f"[{tokens}, {channels}]")
    _arrow(axes, (1.15, y), (1.72, y))
    _draw_mixing(axes, "tokens", "channel", 1.4, y, tokens, size["tokens_mlp_dim"])
    _arrow(axes, (5.76, y), (6.4, y))
    _draw_mixing(axes, "channels", "token", 6.08, y, channels, size["channels_mlp_dim"])
    _arrow(axes, (10.44, y), (10.78, y))


def _draw_mixing(
    axes: Axes, mixed: str, shared: str, x: float, y: float, width: int, hidden: int
) -> None:
    """Draws normalisation, MLP and residual connection, from `x` to `x + 4.36`."""
    is_tokens = mixed == "tokens"
    color, pale = (TOKENS, TOKENS_PALE) if is_tokens else (CHANNELS, CHANNELS_PALE)
    title = f"{mixed.removesuffix('s')} mixing"
    axes.text(x + 2.2, y + 1.04, title, color=color, weight="bold", ha="center", va="center")
    axes.add_patch(Circle((x + 0.08, y), 0.028, fc=INK, ec=INK, zorder=4))
    top = y + 0.74
    axes.plot([x + 0.08, x + 0.08, x + 4.22], [y, top, top], color=INK, lw=1, zorder=2)
    _arrow(axes, (x + 4.22, top), (x + 4.22, y + 0.14))
    _box(axes, x + 0.65, y, 0.62, 0.74, "Layer-\nNorm", "", PALE, LINE, small=True)
    _arrow(axes, (x + 0.97, y), (x + 1.18, y))
    marked = {"column": 2} if is_tokens else {"row": 2}
    _matrix(axes, x + 1.56, y, color=color, pale=pale, **marked)
    _note(axes, x + 1.56, y - 0.64, f"each {shared}:", color)
    _note(axes, x + 1.56, y - 0.82, f"{width} {mixed}", color)
    _arrow(axes, (x + 1.94, y), (x + 2.12, y), color)
    for at, label in ((2.42, f"{width}\n↓\n{hidden}"), (3.64, f"{hidden}\n↓\n{width}")):
        _box(axes, x + at, y, 0.58, 0.74, label, "", pale, color, small=True)
    _arrow(axes, (x + 2.72, y), (x + 2.82, y), color)
    _box(axes, x + 3.03, y, 0.42, 0.42, "GELU", "", "white", color, small=True)
    _arrow(axes, (x + 3.25, y), (x + 3.34, y), color)
    _note(axes, x + 3.03, y - 0.64, f"one MLP, shared by all {shared}s", color)
    _arrow(axes, (x + 3.94, y), (x + 4.08, y), color)
    axes.add_patch(Circle((x + 4.22, y), 0.13, fc="white", ec=INK, lw=1, zorder=4))
    for dx, dy in ((0.075, 0), (0, 0.075)):
        ends = [x + 4.22 - dx, x + 4.22 + dx], [y - dy, y + dy]
        axes.plot(*ends, color=INK, lw=1, zorder=5)


def _panel(
    axes: Axes, x: float, y: float, width: float, height: float, fill: str, edge: str
) -> None:
    style = "round,pad=0,rounding_size=0.1"
    panel = FancyBboxPatch((x, y), width, height, style, fc=fill, ec=edge, lw=0.8, zorder=1)
    axes.add_patch(panel)


def _box(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    title: str,
    text: str,
    fill: str,
    edge: str,
    *,
    small: bool = False,
) -> None:
    corner = (x - width / 2, y - height / 2)
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch(corner, width, height, style, fc=fill, ec=edge, lw=1, zorder=4))
    at = y + 0.17 if text else y
    weight, fontsize = ("normal", 8) if small else ("bold", 9)
    axes.text(x, at, title, ha="center", va="center", weight=weight, fontsize=fontsize, zorder=5)
    axes.text(x, y - 0.14, text, ha="center", va="center", fontsize=7.5, zorder=5)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = INK
) -> None:
    style = dict(arrowstyle="-|>", mutation_scale=8, shrinkA=0, shrinkB=0, lw=1, color=color)
    axes.add_patch(FancyArrowPatch(start, end, **style, zorder=5))


def _matrix(
    axes: Axes,
    x: float,
    y: float,
    *,
    color: str = LINE,
    pale: str = "",
    row: int | None = None,
    column: int | None = None,
) -> None:
    """A small table around (x, y): a token per row, a channel per column, one of them marked."""
    cell, rows, columns = 0.14, 7, 5
    left, top = x - columns * cell / 2, y + rows * cell / 2
    for i in range(rows):
        for j in range(columns):
            fill = color if i == row or j == column else pale or "white"
            corner = (left + j * cell, top - (i + 1) * cell)
            edge = "white" if pale else LINE
            axes.add_patch(Rectangle(corner, cell, cell, fc=fill, ec=edge, lw=0.6, zorder=4))


def _note(axes: Axes, x: float, y: float, text: str, color: str = INK) -> None:
    axes.text(x, y, text, ha="center", va="center", fontsize=7.5, color=color, zorder=5)


def _landscape() -> np.ndarray:
    """A picture to cut into patches: hills and a sun, `[H, W, 3]` in [0, 1]."""
    y, x = np.mgrid[0:1:224j, 0:1:224j]
    image = (1 - y)[..., None] * (0.36, 0.62, 0.86) + y[..., None] * (0.98, 0.86, 0.68)
    sun = (x - 0.7) ** 2 + (y - 0.3) ** 2
    image = np.where((sun < 0.011)[..., None], (1.0, 0.93, 0.62), image)
    hills = (
        (0.56 + 0.09 * np.sin(5.2 * x + 0.4), (0.47, 0.62, 0.63)),
        (0.66 + 0.08 * np.sin(4.1 * x + 2.9), (0.33, 0.53, 0.42)),
        (0.8 + 0.06 * np.sin(6.3 * x + 5.0), (0.2, 0.38, 0.26)),
    )
    for height, color in hills:
        image = np.where((y > height)[..., None], color, image)
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = pathlib.Path(__file__).parent / "architecture.png"
    parser.add_argument("--variant", default="B/16", choices=VARIANTS)
    parser.add_argument("--output", type=pathlib.Path, default=default)
    arguments = parser.parse_args()
    draw(arguments.variant, arguments.output)


if __name__ == "__main__":
    main()
