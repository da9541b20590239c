"""Adapts a pre-trained Mixer to larger images, as the paper does for fine-tuning.

The token-mixing weights depend on the number of tokens, so a larger image needs new ones. The paper
splits the image into tiles of the pre-training size and applies a copy of the pre-trained MLP to
each: the weight matrices become block-diagonal, one block per tile. Tiles do not mix at first;
fine-tuning learns the off-diagonal blocks, which start at zero.

Dimensions: S tokens and D hidden units of the pre-trained token-mixing MLP, T tiles.
"""

from typing import Any

import numpy as np

Grid = tuple[int, int]  # rows and columns of tokens

_BLOCK = "MixerBlock_"


def resize_resolution(params: dict[str, Any], old_grid: Grid, new_grid: Grid) -> dict[str, Any]:
    """Returns the parameters for images of `new_grid` tokens.

    The resized model needs `tokens_mlp_dim` multiplied by the number of tiles T. Within each tile
    of the large image, its token features are those of the original model on that tile, so its
    pre-logits are the mean over the tiles. All parameters outside token mixing are shared with
    `params`, which is not modified.

    Grids are (rows, columns) of tokens: (28, 28) for 448 x 448 pixels and patches of 16. The
    paper's K x K tiles are `new_grid = K * old_grid`.

    Raises:
      ValueError: a side of the new grid is not a multiple of the old one, or `params` are for a
        different number of tokens.

    Source: Appendix C, "Fine-tuning at higher resolution". The paper orders tokens tile by tile.
    Ours are in row-major order over the whole image, so the permutation is folded into the weights.
    """
    tiles = _tile_grid(old_grid, new_grid)
    resized = dict(params)
    for name in (name for name in params if name.startswith(_BLOCK)):
        mlp = params[name]["token_mixing"]
        num_tokens = mlp["Dense_0"]["kernel"].shape[0]
        if num_tokens != old_grid[0] * old_grid[1]:
            raise ValueError(
                f"Expected weights for {old_grid[0]} x {old_grid[1]} tokens; those of {name} are "
                f"for {num_tokens}. Check old_grid."
            )
        resized[name] = {**params[name], "token_mixing": _block_diagonal(mlp, old_grid, tiles)}
    return resized


def _tile_grid(old_grid: Grid, new_grid: Grid) -> Grid:
    sides = list(zip(old_grid, new_grid, strict=True))
    if any(old < 1 or new < 1 or new % old for old, new in sides):
        rows, columns = (", ".join(str(old * k) for k in (1, 2, 3)) for old in old_grid)
        raise ValueError(
            f"Expected a token grid that is an integer multiple of {old_grid[0]} x {old_grid[1]}; "
            f"got {new_grid[0]} x {new_grid[1]}. Use {rows}, ... rows and {columns}, ... columns."
        )
    return new_grid[0] // old_grid[0], new_grid[1] // old_grid[1]


def _block_diagonal(mlp: dict[str, Any], grid: Grid, tiles: Grid) -> dict[str, Any]:
    """Returns the token-mixing MLP with one copy of `mlp` per tile."""
    first, second = mlp["Dense_0"], mlp["Dense_1"]
    num_tiles = tiles[0] * tiles[1]
    num_tokens, mlp_dim = first["kernel"].shape  # S, D
    # The row-major index of each token of each tile, [T, S].
    numbers = np.arange(num_tiles * num_tokens).reshape(tiles[0], grid[0], tiles[1], grid[1])
    tokens = numbers.transpose(0, 2, 1, 3).reshape(num_tiles, num_tokens)
    units = np.arange(num_tiles * mlp_dim).reshape(num_tiles, mlp_dim)  # [T, D]

    first_kernel = np.zeros((tokens.size, units.size), first["kernel"].dtype)  # [T S, T D]
    second_kernel = np.zeros((units.size, tokens.size), second["kernel"].dtype)  # [T D, T S]
    second_bias = np.zeros(tokens.size, second["bias"].dtype)
    for of_tile, in_tile in zip(tokens, units, strict=True):
        first_kernel[np.ix_(of_tile, in_tile)] = first["kernel"]
        second_kernel[np.ix_(in_tile, of_tile)] = second["kernel"]
        second_bias[of_tile] = second["bias"]
    return {
        "Dense_0": {"kernel": first_kernel, "bias": np.tile(first["bias"], num_tiles)},
        "Dense_1": {"kernel": second_kernel, "bias": second_bias},
    }
