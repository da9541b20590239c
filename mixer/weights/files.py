"""Reads and writes weights as .npz (released namings) or timm's .safetensors; executes nothing."""

import dataclasses
import functools
import json
import os
import pathlib
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import flax
import numpy as np
import safetensors.numpy

from mixer.weights.content import kind_of_file
from mixer.weights.families import FAMILIES, Naming, family_of, family_of_names
from mixer.weights.finite import check_finite
from mixer.weights.naming import Flat, Read, prefix_of
from mixer.weights.npz import NpzArchive
from mixer.weights.safetensors_file import SafetensorsFile
from mixer.weights.shapes import Shapes, check_shapes, flat_shapes

Params = dict[str, Any]  # nested, with the names of the model's parameter tree

_GELU = "gelu_approximate"
_FORMATS = (".npz", ".safetensors")
_PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth", ".tar")
_SHARD = re.compile(r"(.+?)(-\d+-of-\d+\.safetensors|\.(safetensors|bin)\.index\.json)")


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """What a file holds."""

    params: Params
    description: str  # of its format and naming
    gelu_approximate: bool | None  # None: the family has no GELU
    records_gelu: bool  # False: `gelu_approximate` is what weights in this format usually have


def load_params(path: str | os.PathLike[str]) -> Params:
    """Returns the parameters in a local file as float32, in the structure of the model's tree.

    The suffix selects the format: `.npz` in the released or the older naming, or timm's
    `.safetensors`. Names, shapes and sizes are checked before any array is read. The checksums in
    a `.npz` are verified; a `.safetensors` file has none, so corrupted values go unnoticed unless
    you compare the file's SHA-256.

    Raises:
      ValueError: the file is missing, damaged, not exactly one model, or has values that are
        not finite.
    """
    return read_file(path).params


def read_file(path: str | os.PathLike[str]) -> WeightsFile:
    """Like `load_params`, but also returns what else the file tells."""
    path = _local(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "something else" if path.exists() else "nothing"
        raise ValueError(f"Expected a weights file at {path}; got {found}. Check the path.")
    _check_suffix(path)
    try:
        return _read_npz(path) if path.suffix == ".npz" else _read_timm(path)
    except (ValueError, OSError) as error:
        kind = kind_of_file(path)
        hint = f"\nThis file is {kind}." if kind and path.suffix not in kind else ""
        raise ValueError(f"Cannot load {path}. {error}{hint}") from error


def save_params(
    path: str | os.PathLike[str],
    params: Mapping[str, Any],
    *,
    overwrite: bool = False,
    gelu_approximate: bool | None = None,
) -> None:
    """Writes the nested parameters of a model to a local file as float32.

    The suffix selects the format: `.npz` in the released naming, or timm's `.safetensors`. The
    latter also records the model's `gelu_approximate`, unless it is None, and the number of heads
    of a ViT. The file appears only once it is complete.

    Raises:
      ValueError: the suffix is unknown, the file exists and `overwrite` is false, its folder does
        not exist, or `params` are not exactly those of one model, or not finite in float32.
    """
    path = _local(path)
    _check_suffix(path)
    if path.exists() and not overwrite:
        raise ValueError(
            f"Expected a new file; {path} exists. Choose another name, or pass overwrite=True "
            "(--overwrite)."
        )
    if not path.parent.is_dir():
        raise ValueError(f"Expected {path.parent} to be a folder; got none. Create it first.")
    family = FAMILIES[family_of(params)]
    shapes, naming = flat_shapes(params), family.naming(path.suffix)
    found = family.find(shapes)
    check_shapes(shapes, family.expected_shapes(found), family.title)
    if naming.write is None:
        raise ValueError(
            f"Expected .npz for the weights of a {family.title}; got {path.suffix}, in which they "
            "have no naming. Use .npz."
        )
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    with np.errstate(over="ignore"):  # what overflows is named next
        flat = {name: np.asarray(array, np.float32) for name, array in flat.items()}
    check_finite(flat)
    recorded = {name: found.fields[name] for name in naming.recorded}
    if gelu_approximate is not None:
        recorded[_GELU] = gelu_approximate
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        _write(temporary, naming.write(flat), path.suffix, recorded)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def holds_weights(name: str) -> bool:
    """True if a file of that name holds weights in a format that is read, or that is explained."""
    return pathlib.PurePath(name).suffix in (*_FORMATS, *_PICKLES) or bool(_SHARD.fullmatch(name))


def check_content(path: pathlib.Path, suffix: str) -> None:
    """Raises ValueError unless the file begins and ends as one of the format `suffix`."""
    try:
        with NpzArchive(path) if suffix == ".npz" else SafetensorsFile(path):
            pass
    except (ValueError, OSError) as error:
        kind = kind_of_file(path)
        raise ValueError(f"{error}" + (f" It is {kind}." if kind else "")) from error


def _local(path: str | os.PathLike[str]) -> pathlib.Path:
    if "://" in os.fspath(path):
        raise ValueError(
            f"Expected a local weights file; got {os.fspath(path)}. Copy or download it first."
        )
    return pathlib.Path(os.path.expanduser(path))


def _read_npz(path: pathlib.Path) -> WeightsFile:
    with NpzArchive(path) as archive:
        shapes = {name: header.shape for name, header in archive.headers.items()}
        naming = FAMILIES[family_of_names(shapes, ".npz")].npz
        params = _checked(naming.read, shapes, archive.read)
    description = f".npz {naming.called(shapes)}"
    if prefix := prefix_of(shapes):
        description += f", below {prefix}"
    return WeightsFile(params, description, naming.gelu_approximate, False)


def _read_timm(path: pathlib.Path) -> WeightsFile:
    with SafetensorsFile(path) as file:
        naming = FAMILIES[family_of_names(file.shapes, ".safetensors")].timm
        recorded = _recorded(file.metadata, naming)
        gelu = recorded.pop(_GELU, None)
        params = _checked(
            functools.partial(naming.read, **recorded), file.shapes, file.read, file.prefix
        )
    description = f".safetensors {naming.called(file.shapes)}"
    if file.prefix:
        description += f", below {file.prefix}"
    is_recorded = gelu is not None
    return WeightsFile(
        params, description, gelu if is_recorded else naming.gelu_approximate, is_recorded
    )


def _recorded(metadata: Mapping[str, str], naming: Naming) -> dict[str, Any]:
    """Returns the fields of the model in the metadata of a .safetensors, by name.

    Raises:
      ValueError: the GELU is no boolean.
    """
    fields = {}
    for name in {_GELU, *naming.recorded} & metadata.keys():
        try:
            fields[name] = json.loads(metadata[name])
        except (ValueError, RecursionError):  # also for numbers that are too long
            fields[name] = metadata[name]
    if not isinstance(fields.get(_GELU, True), bool):
        raise ValueError(
            f"Expected {_GELU} in the file's metadata to be true or false; got "
            f"{reprlib.repr(metadata[_GELU])}. Correct it."
        )
    return fields


def _checked(
    convert: Callable[[Shapes, Read], Flat], shapes: Shapes, read: Read, prefix: str = ""
) -> Params:
    """Returns what `convert` makes of the arrays; those that are not finite are named as there."""
    arrays: Flat = {}

    def noted(name: str) -> np.ndarray:
        arrays[prefix + name] = read(name)
        return arrays[prefix + name]

    params = convert(shapes, noted)
    check_finite(arrays)
    return flax.traverse_util.unflatten_dict(params, sep="/")


def _write(path: pathlib.Path, arrays: Flat, suffix: str, recorded: dict[str, Any]) -> None:
    if suffix == ".npz":
        with path.open("wb") as file:  # given a path, NumPy would append its suffix
            np.savez(file, allow_pickle=False, **arrays)
    else:
        metadata = {name: json.dumps(value) for name, value in recorded.items()}
        # It writes the memory of an array, whatever its strides.
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        safetensors.numpy.save_file(arrays, path, metadata or None)


def _check_suffix(path: pathlib.Path) -> None:
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
