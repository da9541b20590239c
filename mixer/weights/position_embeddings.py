"""Adapts a pre-trained ViT to images of another size, as the ViT paper does for fine-tuning.

The position embeddings of the patches are interpolated in two dimensions, as one map of them; that
of the class token is kept.
"""

from typing import Any

import numpy as np

Grid = tuple[int, int]  # rows and columns of patches


def resize_position_embeddings(
    params: dict[str, Any], old_grid: Grid, new_grid: Grid
) -> dict[str, Any]:
    """Returns the parameters of a ViT for images of `new_grid` patches; `params` stays as it is.

    The interpolation is bilinear with aligned corners: the patches in the corners keep their
    embeddings. To fewer patches it does not average. `jax.image.resize`, which aligns the outer
    edges of the corner patches, gives other values.

    Raises:
      ValueError: `params` are for another number of patches, or a side is not positive.

    Source: section 3.2 of the ViT paper; its public code has what it leaves open.
    """
    if min(*old_grid, *new_grid) < 1:
        raise ValueError(
            f"Expected grids of at least 1 x 1 patches; got {_text(old_grid)} and "
            f"{_text(new_grid)}. Use the sides of the images divided by the patch size."
        )
    old = np.asarray(params["Transformer"]["posembed_input"]["pos_embedding"])  # [1, S, C]
    first = 1 if "cls" in params else 0
    patches = old.shape[1] - first
    if patches != old_grid[0] * old_grid[1]:
        raise ValueError(
            f"Expected weights for {_text(old_grid)} patches; these are for {patches}. Check "
            "old_grid."
        )
    grid = old[0, first:].reshape(*old_grid, -1)
    for axis, size in enumerate(new_grid):
        grid = _interpolate(grid, axis, size)
    new = np.concatenate([old[:, :first], grid.astype(old.dtype).reshape(1, -1, old.shape[2])], 1)
    transformer = {**params["Transformer"], "posembed_input": {"pos_embedding": new}}
    return {**params, "Transformer": transformer}


def _interpolate(grid: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Returns `grid` in float64 with `size` points on an axis, the first and last as they were."""
    old = grid.shape[axis]
    # A step from the first to the last point, in which one new point is at the first.
    places = np.arange(size) * ((old - 1) / max(size - 1, 1))
    below = np.minimum(places.astype(int), max(old - 2, 0))
    above = np.minimum(below + 1, old - 1)
    weight = (places - below).reshape(-1, *[1] * (grid.ndim - axis - 1))
    low, high = (np.take(grid, index, axis).astype(np.float64) for index in (below, above))
    return low * (1 - weight) + high * weight


def _text(grid: Grid) -> str:
    return f"{grid[0]} x {grid[1]}"
