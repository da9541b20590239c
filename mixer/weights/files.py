"""Reads and writes weights as .npz (released naming) or timm's .safetensors; executes nothing."""

import os
import pathlib
import re
import types
from collections.abc import Mapping
from typing import Any

import flax
import numpy as np

from mixer.weights import released, timm
from mixer.weights.architecture import architecture_of, check_shapes, expected_shapes, flat_shapes
from mixer.weights.content import kind_of_file
from mixer.weights.finite import check_finite

Params = dict[str, Any]  # nested, with the names of the model's parameter tree

_FORMATS = {".npz": released, ".safetensors": timm}
_PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth", ".tar")
_SHARD = re.compile(r"(.+?)(-\d+-of-\d+\.safetensors|\.(safetensors|bin)\.index\.json)")


def load_params(path: str | os.PathLike[str]) -> Params:
    """Returns the parameters in a local file as float32, in the structure of the model's tree.

    The suffix selects the format: `.npz` in the released or the older naming, or timm's
    `.safetensors`. Names, shapes and sizes are checked before any array is read. The checksums in
    a `.npz` are verified; a `.safetensors` file has none, so corrupted values go unnoticed unless
    you compare the file's SHA-256.

    Raises:
      ValueError: the file is missing, damaged, not exactly one MLP-Mixer, or has values that are
        not finite.
    """
    return read_params(path)[0]


def read_params(path: str | os.PathLike[str]) -> tuple[Params, str]:
    """Like `load_params`, but also returns a description of the file's format and naming."""
    path = _local(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "something else" if path.exists() else "nothing"
        raise ValueError(f"Expected a weights file at {path}; got {found}. Check the path.")
    form = _format(path)
    try:
        params, description = form.load(path)
    except (ValueError, OSError) as error:
        kind = kind_of_file(path)
        hint = f"\nThis file is {kind}." if kind and path.suffix not in kind else ""
        raise ValueError(f"Cannot load {path}. {error}{hint}") from error
    return flax.traverse_util.unflatten_dict(params, sep="/"), description


def save_params(
    path: str | os.PathLike[str], params: Mapping[str, Any], *, overwrite: bool = False
) -> None:
    """Writes the nested parameters of a model to a local file as float32.

    The suffix selects the format: `.npz` in the released naming, or timm's `.safetensors`. The file
    appears only once it is complete.

    Raises:
      ValueError: the suffix is unknown, the file exists and `overwrite` is false, its folder does
        not exist, or `params` are not exactly those of one MLP-Mixer, or not finite in float32.
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
    with np.errstate(over="ignore"):  # what overflows is named next
        flat = {name: np.asarray(array, np.float32) for name, array in flat.items()}
    check_finite(flat)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        form.save(temporary, flat)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def holds_weights(name: str) -> bool:
    """True if a file of that name holds weights in a format that is read, or that is explained."""
    return pathlib.PurePath(name).suffix in (*_FORMATS, *_PICKLES) or bool(_SHARD.fullmatch(name))


def check_content(path: pathlib.Path, suffix: str) -> None:
    """Raises ValueError unless the file begins and ends as one of the format `suffix`."""
    try:
        _FORMATS[suffix].check_container(path)
    except (ValueError, OSError) as error:
        kind = kind_of_file(path)
        raise ValueError(f"{error}" + (f" It is {kind}." if kind else "")) from error


def _local(path: str | os.PathLike[str]) -> pathlib.Path:
    if "://" in os.fspath(path):
        raise ValueError(
            f"Expected a local weights file; got {os.fspath(path)}. Copy or download it first."
        )
    return pathlib.Path(os.path.expanduser(path))


def _format(path: pathlib.Path) -> types.ModuleType:
    if match := _SHARD.fullmatch(path.name):
        stem = path.parent / match[1]
        raise ValueError(
            f"Expected all weights in one file; got {path}, one of several parts or their index. "
            'Join them with\n  python -c "import glob; from safetensors.numpy import *; save_file('
            f"{{k: v for f in glob.glob('{stem}-*.safetensors') for k, v in load_file(f).items()}},"
            f" '{stem}.safetensors')\""
        )
    if path.suffix in _PICKLES:
        raise ValueError(
            f"Expected a file with the suffix {' or '.join(_FORMATS)}; got {path}, by its suffix "
            "a pickle, which can run any code when it is loaded. If you trust it, convert it in "
            "PyTorch: import torch, safetensors.torch; safetensors.torch.save_file(torch.load("
            f"'{path.name}', map_location='cpu', weights_only=True), '{path.stem}.safetensors')"
        )
    if path.suffix not in _FORMATS:
        raise ValueError(
            f"Expected a file with the suffix {' or '.join(_FORMATS)}; got {path}. Other formats "
            "are not supported. If the file is in one of these formats, rename it."
        )
    return _FORMATS[path.suffix]
