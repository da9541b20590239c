"""Pictures of a Mixer's weights: Figures 5 and 6 (token mixing) and 7 (the stem)."""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mixer.paper.units import pair_units

_GAP = 1  # cells between two tiles
_INCHES_PER_TILE = 0.25


def token_units(params: dict[str, Any], block: int) -> np.ndarray:
    """Returns the hidden units of a token-mixing MLP, float `[D_S, rows, columns]`, in pairs.

    Each has one weight per token, of the first dense layer; see `pair_units` for the order.

    Raises:
      ValueError: the tokens are no square grid, or there is no such block.
    """
    name = f"MixerBlock_{block}"
    if name not in params:
        count = sum(name.startswith("MixerBlock_") for name in params)
        raise ValueError(f"Expected a block from 1 to {count}; got {block + 1}.")
    kernel = np.asarray(params[name]["token_mixing"]["Dense_0"]["kernel"])  # [S, D_S]
    side = math.isqrt(len(kernel))
    if side**2 != len(kernel):
        raise ValueError(f"Expected a square grid of tokens; got {len(kernel)} tokens.")
    units = kernel.T.reshape(-1, side, side)
    return units[pair_units(units)]


def stem_units(params: dict[str, Any]) -> np.ndarray:
    """Returns the units of the stem as pictures in [0, 1], `[C, P, P, 3]`, each scaled alone."""
    units = np.moveaxis(np.asarray(params["stem"]["kernel"], np.float64), -1, 0)
    largest = np.abs(units).max(axis=(1, 2, 3), keepdims=True)
    return 0.5 + 0.5 * units / np.where(largest > 0, largest, 1)


def mosaic(tiles: np.ndarray, columns: int) -> np.ndarray:
    """Returns tiles `[n, rows, columns, ...]` side by side in rows of `columns`, NaN between."""
    count, height, width = tiles.shape[:3]
    rows = math.ceil(count / columns)
    shape = rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, *tiles.shape[3:]
    picture = np.full(shape, np.nan)
    for number, tile in enumerate(tiles):
        top, left = (height + _GAP) * (number // columns), (width + _GAP) * (number % columns)
        picture[top : top + height, left : left + width] = tile
    return picture


def draw_token_units(params: dict[str, Any], blocks: int, count: int | None) -> Figure:
    """Draws the first `count` hidden units (None: all) of the first blocks, in pairs.

    With three blocks side by side this is Figure 5, with all units of two below each other Figure
    6. Each unit has its own scale; blue is negative, red positive.
    """
    shown = [token_units(params, block)[:count] for block in range(blocks)]
    columns = 8 if count else 32
    across, down = (blocks, 1) if count else (1, blocks)
    rows = math.ceil(len(shown[0]) / columns)
    size = (across * columns * _INCHES_PER_TILE, down * (rows * _INCHES_PER_TILE + 0.3))
    figure = Figure(figsize=size, layout="constrained")
    for number, (axes, units) in enumerate(
        zip(figure.subplots(down, across, squeeze=False).flat, shown, strict=True)
    ):
        largest = np.abs(units).max(axis=(1, 2), keepdims=True)
        tiles = units / np.where(largest > 0, largest, 1)
        axes.imshow(mosaic(tiles, columns), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        axes.set_title(f"token-mixing MLP {number + 1}: {len(units)} units", fontsize=8)
        axes.axis("off")
    return figure


def draw_stem(params: dict[str, Any]) -> Figure:
    """Draws all units of the stem, Figure 7."""
    units = stem_units(params)
    columns = max(1, math.isqrt(2 * len(units)))
    rows = math.ceil(len(units) / columns)
    figure = Figure(
        figsize=(columns * _INCHES_PER_TILE, rows * _INCHES_PER_TILE + 0.3), layout="constrained"
    )
    axes = figure.subplots()
    picture = mosaic(units, columns)
    axes.imshow(np.where(np.isnan(picture), 1, picture), interpolation="nearest")
    axes.set_title(
        f"stem: {len(units)} units of {units.shape[1]} x {units.shape[2]} pixels", fontsize=8
    )
    axes.axis("off")
    return figure
