"""Weight files: the released ones (.npz) and timm's (.safetensors), read without trusting them."""

import os
import pathlib
import types
from collections.abc import Mapping
from typing import Any

import flax
import numpy as np

from mixer.weights import released, timm
from mixer.weights.architecture import architecture_of, check_shapes, expected_shapes, flat_shapes

Params = dict[str, Any]  # nested, the keys are those of the model's parameters

_FORMATS = {".npz": released, ".safetensors": timm}


def load_params(path: str | os.PathLike[str]) -> Params:
    """Returns the parameters of a model in float32, nested and named as the model has them.

    The file is a local one in the format that its suffix says: `.npz` in the released or the older
    naming, or timm's `.safetensors`. It need not be trusted: nothing of it is run, and nothing is
    loaded before names, shapes and sizes were found to be those of an MLP-Mixer. A `.npz` has
    checksums, which are compared; a `.safetensors` has none, so damage within its numbers goes
    unnoticed: compare the SHA-256 of the file.

    Raises:
      ValueError: there is no such file, it is damaged, or it is not exactly one MLP-Mixer.
    """
    return read_params(path)[0]


def read_params(path: str | os.PathLike[str]) -> tuple[Params, str]:
    """Returns what `load_params` does, and the format and naming of the file in words."""
    path = _local(path)
    form = _format(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "something else" if path.exists() else "nothing"
        raise ValueError(f"Expected a file of weights at {path}; got {found}. Check the path.")
    try:
        params, description = form.load(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"Cannot load {path}. {error}") from error
    return flax.traverse_util.unflatten_dict(params, sep="/"), description


def save_params(
    path: str | os.PathLike[str], params: Mapping[str, Any], *, overwrite: bool = False
) -> None:
    """Writes the parameters of a model in float32, in the format that the suffix says.

    `.npz` is the released naming, `.safetensors` timm's. The file appears when it is complete.

    Raises:
      ValueError: unknown suffix, the file exists and is not to be overwritten, its folder does not
        exist, or `params` are not exactly those of one MLP-Mixer.
    """
    path = _local(path)
    form = _format(path)
    if path.exists() and not overwrite:
        raise ValueError(
            f"Expected a new file; {path} exists. Choose another name, or overwrite it with "
            "overwrite=True (--overwrite)."
        )
    if not path.parent.is_dir():
        raise ValueError(f"Expected a folder {path.parent} to write to; got none. Make it first.")
    shapes = flat_shapes(params)
    check_shapes(shapes, expected_shapes(architecture_of(shapes)))
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        form.save(temporary, {name: np.asarray(array, np.float32) for name, array in flat.items()})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _local(path: str | os.PathLike[str]) -> pathlib.Path:
    if "://" in os.fspath(path):
        raise ValueError(
            f"Expected a local file of weights; got {os.fspath(path)}. Copy or download it first."
        )
    return pathlib.Path(path)


def _format(path: pathlib.Path) -> types.ModuleType:
    if path.suffix not in _FORMATS:
        raise ValueError(
            f"Expected a file with the suffix {' or '.join(_FORMATS)}; got {path}. Other formats "
            "are not supported; rename the file if it is one of these."
        )
    return _FORMATS[path.suffix]
