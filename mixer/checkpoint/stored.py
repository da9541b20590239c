"""What the files of a checkpoint say that they hold: compared before any array is read."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from mixer.checkpoint.checksum import leaf_name
from mixer.checkpoint.damage import DamagedCheckpoint, damage

# Compressed parameters are hardly smaller, those of a model that was not trained yet are.
_LARGEST_RATIO = 1000
_ANY_RATIO_BELOW = 1 << 24  # bytes


def check_stored(directory: epath.Path, arrays: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises DamagedCheckpoint unless the files describe arrays of these types and shapes.

    Otherwise what is read, and the memory for it, would be as large as the files say.
    """
    with damage(directory, "arrays: they cannot be read"):
        tree = ocp.StandardCheckpointHandler().metadata(directory / "state").tree
        leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
        stored = {leaf_name(path): leaf for path, leaf in leaves}
    for name, wanted in arrays.items():
        if name not in stored:
            raise DamagedCheckpoint(f"arrays: {name} is missing")
        found, shape = stored[name], tuple(wanted["shape"])
        chunk = found.storage.chunk_shape if found.storage else shape
        is_same = (tuple(found.shape), str(found.dtype)) == (shape, wanted["dtype"])
        if not is_same or any(n > max(1, m) for n, m in zip(chunk, shape, strict=True)):
            raise DamagedCheckpoint(
                f"arrays: {name} is stored as {found.dtype}{list(found.shape)} in pieces of "
                f"{list(chunk)}, not as {in_words(dict(wanted))}"
            )


def check_size(directory: epath.Path, arrays: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises DamagedCheckpoint if the arrays claim far more than the files can hold."""
    claimed = sum(
        math.prod(array["shape"]) * np.dtype(array["dtype"]).itemsize for array in arrays.values()
    )
    held = _size_of(epath.Path(directory))
    if claimed > _LARGEST_RATIO * held + _ANY_RATIO_BELOW:
        raise DamagedCheckpoint(f"arrays: they claim {claimed:,} bytes, the files hold {held:,}")


def in_words(kind: dict[str, Any] | None) -> str:
    """Returns the type and shape of an array as text."""
    return "nothing" if kind is None else f"{kind['dtype']}{kind['shape']}"


def _size_of(folder: epath.Path) -> int:
    """Returns the bytes of all files in a folder."""
    return sum(_size_of(path) if path.is_dir() else path.stat().length for path in folder.iterdir())
