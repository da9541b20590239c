"""The weights of MLP-Mixers in timm's .safetensors, in PyTorch's names and layout.

Weights trained in PyTorch need `gelu_approximate=False`; those that timm converted from the
released ones do not.
"""

import re
from collections.abc import Iterable

import numpy as np

from mixer.weights.mixer import MODEL, expected_shapes, find
from mixer.weights.naming import (
    FROM_TIMM,
    TO_TIMM,
    Flat,
    Read,
    is_any,
    permuted,
    refuse,
    refuse_gated,
)
from mixer.weights.shapes import Shapes, check_shapes

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

_UNSUPPORTED = {  # pattern of a name -> what it is a part of
    r"^blocks\.\d+\.(linear_tokens\.|norm\d\.alpha$|ls\d$)": "a ResMLP",
}

_RELEASED_NAME = re.compile(r"(?:MixerBlock_([0-9]+)/)?(.+)/(kernel|scale|bias)")
_TIMM_NAME = re.compile(r"(?:blocks\.(0|[1-9][0-9]{0,5})\.)?(.+)\.(weight|bias)")


def is_timm(names: Iterable[str]) -> bool:
    """True if a .safetensors with these names holds a Mixer, also one that is not supported."""
    names = list(names)
    return any(".mlp_tokens." in name for name in names) or is_any(names, _UNSUPPORTED)


def from_timm(shapes: Shapes, read: Read) -> Flat:
    """Returns the parameters in timm's naming by released name; see `mixer.weights.naming`.

    Raises:
      ValueError: they are not exactly those of one Mixer.
    """
    refuse(shapes, _UNSUPPORTED, MODEL)
    for mlp in ("mlp_tokens", "mlp_channels"):  # as in gMixer
        refuse_gated(shapes, f"blocks.0.{mlp}", MODEL)
    released = {_from_timm_name(name): permuted(shape, FROM_TIMM) for name, shape in shapes.items()}
    expected = expected_shapes(find(released))
    timm_shapes = {_timm_name(name): permuted(shape, TO_TIMM) for name, shape in expected.items()}
    check_shapes(shapes, timm_shapes, MODEL)
    return {
        name: np.ascontiguousarray(read(_timm_name(name)).transpose(FROM_TIMM[len(shape)]))
        for name, shape in expected.items()
    }


def to_timm(params: Flat) -> Flat:
    """Returns the parameters, by released name, in timm's naming and layout."""
    return {
        _timm_name(name): array.transpose(TO_TIMM[array.ndim]) for name, array in params.items()
    }


def _from_timm_name(name: str) -> str:
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
