"""Reads and writes the .safetensors weights of timm's Mixers, in PyTorch's names and layout.

Weights trained in PyTorch need `gelu_approximate=False`; those that timm converted from the paper's
released weights do not. Wrappers of the model (`module.`, `model.`, `state_dict.`) put their names
before those of all tensors; they are left out.
"""

import pathlib
import re

import numpy as np
import safetensors
import safetensors.numpy

from mixer.weights.architecture import (
    Shapes,
    architecture_of,
    check_shapes,
    expected_shapes,
    first_names,
)
from mixer.weights.finite import check_finite

_TIMM_MODULES = {
    "stem": "stem.proj",
    "LayerNorm_0": "norm1",
    "token_mixing/Dense_0": "mlp_tokens.fc1",
    "token_mixing/Dense_1": "mlp_tokens.fc2",
    "LayerNorm_1": "norm2",
    "channel_mixing/Dense_0": "mlp_channels.fc1",
    "channel_mixing/Dense_1": "mlp_channels.fc2",
    "pre_head_layer_norm": "norm",
    "head": "head",
}
_RELEASED_MODULES = {timm: released for released, timm in _TIMM_MODULES.items()}

_RELEASED_NAME = re.compile(r"(?:MixerBlock_([0-9]+)/)?(.+)/(kernel|scale|bias)")
_TIMM_NAME = re.compile(r"(?:blocks\.(0|[1-9][0-9]{0,5})\.)?(.+)\.(weight|bias)")

# Permutations by number of dimensions: timm stores kernels as [out, in] and [out, in, H, W], flax
# as [in, out] and [H, W, in, out].
_TO_RELEASED = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
_TO_TIMM = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}

_STEM = "stem.proj.weight"
_FLOATS = ("F64", "F32", "F16", "BF16")


def load(path: pathlib.Path) -> tuple[dict[str, np.ndarray], str]:
    """Returns the float32 parameters by released name, and a description of the file.

    Raises:
      ValueError: the file is damaged, does not hold exactly the parameters of one Mixer, or has
        values that are not finite.
    """
    with _open(path) as file, np.errstate(over="ignore"):  # what overflows is named below
        prefix, expected = _check_header(file)
        params = {
            name: np.array(
                file.get_tensor(prefix + _timm_name(name)).transpose(_TO_RELEASED[len(shape)]),
                np.float32,
                order="C",
            )
            for name, shape in expected.items()
        }
    check_finite({prefix + _timm_name(name): array for name, array in params.items()})
    return params, ".safetensors in timm's naming" + (f", below {prefix}" if prefix else "")


def check_container(path: pathlib.Path) -> None:
    """Raises ValueError unless the file is a whole .safetensors file; reads its header."""
    with _open(path):
        pass


def save(path: pathlib.Path, params: dict[str, np.ndarray]) -> None:
    """Writes the parameters, keyed by released name, in timm's naming and layout."""
    tensors = {
        _timm_name(name): np.ascontiguousarray(array.transpose(_TO_TIMM[array.ndim]))
        for name, array in params.items()
    }
    safetensors.numpy.save_file(tensors, path)


def _open(path: pathlib.Path) -> safetensors.safe_open:
    try:
        # Opening validates all offsets, shapes and types against each other and the file size.
        return safetensors.safe_open(path, framework="numpy")
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"Expected a .safetensors file; got something else, or an incomplete one: {error}. "
            "Copy or download the file again."
        ) from error


def _check_header(file: safetensors.safe_open) -> tuple[str, Shapes]:
    """Checks names, shapes and types; returns the wrappers' names and the expected shapes."""
    tensors = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    prefix = _prefix(list(tensors))
    found = {name: tuple(tensor.get_shape()) for name, tensor in tensors.items()}
    released = {
        _released_name(name.removeprefix(prefix)): _permuted(shape, _TO_RELEASED)
        for name, shape in found.items()
    }
    expected = expected_shapes(architecture_of(released))
    check_shapes(
        found,
        {prefix + _timm_name(name): _permuted(shape, _TO_TIMM) for name, shape in expected.items()},
    )
    for name, tensor in tensors.items():
        if tensor.get_dtype() not in _FLOATS:
            raise ValueError(
                f"Expected tensors of type {' or '.join(_FLOATS)}; {name} is {tensor.get_dtype()}. "
                "Save it as float32."
            )
    return prefix, expected


def _prefix(names: list[str]) -> str:
    """Returns what stands before `stem.proj.weight`, and before every other name.

    Raises:
      ValueError: it does not stand before all.
    """
    found = [name.removesuffix(_STEM) for name in names if name.endswith(f".{_STEM}")]
    if _STEM in names or not found:
        return ""
    others = [name for name in names if not name.startswith(found[0])]
    if others:
        raise ValueError(
            f"Expected the tensors of one model; got some below {first_names(found)} and others: "
            f"{first_names(others)}. Save the tensors of one model alone."
        )
    return found[0]


def _permuted(shape: tuple[int, ...], axes: dict[int, tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in axes.get(len(shape), range(len(shape))))


def _released_name(name: str) -> str:
    """Returns the released name of a timm tensor, or `name` itself if there is none."""
    match = _TIMM_NAME.fullmatch(name)
    if match is None or match[2] not in _RELEASED_MODULES:
        return name
    kernel_or_scale = "scale" if "norm" in match[2] else "kernel"
    leaf = "bias" if match[3] == "bias" else kernel_or_scale
    block = "" if match[1] is None else f"MixerBlock_{match[1]}/"
    return f"{block}{_RELEASED_MODULES[match[2]]}/{leaf}"


def _timm_name(name: str) -> str:
    """Returns timm's name for a parameter in the released naming."""
    match = _RELEASED_NAME.fullmatch(name)
    assert match is not None, name
    block = "" if match[1] is None else f"blocks.{match[1]}."
    leaf = "bias" if match[3] == "bias" else "weight"
    return f"{block}{_TIMM_MODULES[match[2]]}.{leaf}"
