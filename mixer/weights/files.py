"""Reads and writes weights as .npz (released naming) or timm's .safetensors; executes nothing."""

import os
import pathlib
import types
from collections.abc import Mapping
from typing import Any

import flax
import numpy as np

from mixer.weights import released, timm
from mixer.weights.architecture import architecture_of, check_shapes, expected_shapes, flat_shapes

Params = dict[str, Any]  # nested, with the names of the model's parameter tree

_FORMATS = {".npz": released, ".safetensors": timm}


def load_params(path: str | os.PathLike[str]) -> Params:
    """Returns the parameters in a local file as float32, in the structure of the model's tree.

    The suffix selects the format: `.npz` in the released or the older naming, or timm's
    `.safetensors`. Names, shapes and sizes are checked before any array is read. The checksums in
    a `.npz` are verified; a `.safetensors` file has none, so corrupted values go unnoticed unless
    you compare the file's SHA-256.

    Raises:
      ValueError: the file is missing, damaged, or not exactly one MLP-Mixer.
    """
    return read_params(path)[0]


def read_params(path: str | os.PathLike[str]) -> tuple[Params, str]:
    """Like `load_params`, but also returns a description of the file's format and naming."""
    path = _local(path)
    form = _format(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "something else" if path.exists() else "nothing"
        raise ValueError(f"Expected a weights file at {path}; got {found}. Check the path.")
    try:
        params, description = form.load(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"Cannot load {path}. {error}") from error
    return flax.traverse_util.unflatten_dict(params, sep="/"), description


def save_params(
    path: str | os.PathLike[str], params: Mapping[str, Any], *, overwrite: bool = False
) -> None:
    """Writes the nested parameters of a model to a local file as float32.

    The suffix selects the format: `.npz` in the released naming, or timm's `.safetensors`. The file
    appears only once it is complete.

    Raises:
      ValueError: the suffix is unknown, the file exists and `overwrite` is false, its folder does
        not exist, or `params` are not exactly those of one MLP-Mixer.
    """
    path = _local(path)
    form = _format(path)
    if path.exists() and not overwrite:
        raise ValueError(
            f"Expected a new file; {path} exists. Choose another name, or pass overwrite=True "
            "(--overwrite)."
        )
    if not path.parent.is_dir():
        raise ValueError(f"Expected {path.parent} to be a folder; got none. Create it first.")
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
            f"Expected a local weights file; got {os.fspath(path)}. Copy or download it first."
        )
    return pathlib.Path(path)


def _format(path: pathlib.Path) -> types.ModuleType:
    if path.suffix not in _FORMATS:
        raise ValueError(
            f"Expected a file with the suffix {' or '.join(_FORMATS)}; got {path}. Other formats "
            "are not supported. If the file is in one of these formats, rename it."
        )
    return _FORMATS[path.suffix]
