"""The weights of MLP-Mixers: the released .npz in two namings, and timm's .safetensors.

The parameter tree has the released naming. In the older one, `stem` is `embedding`, `MixerBlock_3`
is `Mixer/encoderblock_3`, `pre_head_layer_norm` is `Mixer/encoder_norm`, and the two dense layers
of an MLP are `kernel1, bias1, kernel2, bias2` of `token_mixing_phase_N` or
`channel_mixing_phase_N`, with extra dimensions of size 1. The number `N` here and in `LayerNorm_N`
is arbitrary; only the order within the block matters. Block numbers are kept, so that a missing
block is detected.

Weights trained in PyTorch need `gelu_approximate=False`; those that timm converted from the
released ones do not.

Source: the loader of the public training code of the paper's authors.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable

import numpy as np

from mixer.weights.architecture import (
    Architecture,
    Shapes,
    architecture_of,
    check_shapes,
)
from mixer.weights.architecture import expected_shapes as shapes_of_architecture
from mixer.weights.naming import (
    FROM_TIMM,
    TO_TIMM,
    Flat,
    Found,
    Read,
    permuted,
    read_renamed,
    renamed,
    without_prefix,
)

MODEL = "MLP-Mixer"

_OLDER_MODULES = {"embedding": "stem", "Mixer/encoder_norm": "pre_head_layer_norm", "head": "head"}
_OLDER_BLOCK = re.compile(r"Mixer/encoderblock_(0|[1-9]\d{0,5})/([a-zA-Z_]+)_(\d{1,6})/(\w+)", re.A)
_OLDER_PARTS = {  # (name in a block, index among modules with that name) -> released name
    ("LayerNorm", 0): "LayerNorm_0",
    ("LayerNorm", 1): "LayerNorm_1",
    ("token_mixing_phase", 0): "token_mixing",
    ("channel_mixing_phase", 0): "channel_mixing",
}
_OLDER_LEAVES = {
    "kernel1": "Dense_0/kernel",
    "bias1": "Dense_0/bias",
    "kernel2": "Dense_1/kernel",
    "bias2": "Dense_1/bias",
}
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


def is_npz(names: Iterable[str]) -> bool:
    """True: what is of no other family is compared with a Mixer."""
    return True


def naming(names: Iterable[str]) -> str:
    """Returns what the naming of a .npz is called."""
    return "the older naming" if _is_older(without_prefix(names)) else "the released naming"


def from_npz(shapes: Shapes, read: Read) -> Flat:
    """Returns the parameters in a .npz by released name; see `mixer.weights.naming`.

    Raises:
      ValueError: they are not exactly those of one Mixer.
    """
    inner = without_prefix(shapes)
    names = _released_names(inner) if _is_older(inner) else inner
    found = find({name: shapes[raw] for name, raw in names.items()})
    if _is_older(inner):
        return read_renamed(shapes, read, names, expected_shapes(found), MODEL)
    expected = expected_shapes(found)
    check_shapes({name: shapes[raw] for name, raw in names.items()}, expected)
    return {name: read(names[name]) for name in expected}


def to_npz(params: Flat) -> Flat:
    """Returns the parameters by their released names, which are those of the tree."""
    return dict(params)


def find(shapes: Shapes) -> Found:
    """Returns the architecture that most shapes, by released name, agree on.

    Raises:
      ValueError: a width cannot be inferred because the relevant parameters are missing or empty.
    """
    fields = dataclasses.asdict(architecture_of(shapes))
    return Found(fields, fields.pop("num_tokens"))


def expected_shapes(found: Found) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter of the model, by released name."""
    return shapes_of_architecture(Architecture(**found.fields, num_tokens=found.num_tokens))


def is_timm(names: Iterable[str]) -> bool:
    """True: what is of no other family is compared with a Mixer."""
    return True


def from_timm(shapes: Shapes, read: Read) -> Flat:
    """Returns the parameters in timm's naming by released name; see `mixer.weights.naming`.

    Raises:
      ValueError: they are not exactly those of one Mixer.
    """
    released = {_from_timm_name(name): permuted(shape, FROM_TIMM) for name, shape in shapes.items()}
    expected = expected_shapes(find(released))
    check_shapes(
        shapes, {_timm_name(name): permuted(shape, TO_TIMM) for name, shape in expected.items()}
    )
    return {
        name: np.ascontiguousarray(read(_timm_name(name)).transpose(FROM_TIMM[len(shape)]))
        for name, shape in expected.items()
    }


def to_timm(params: Flat) -> Flat:
    """Returns the parameters, by released name, in timm's naming and layout."""
    return {
        _timm_name(name): np.ascontiguousarray(array.transpose(TO_TIMM[array.ndim]))
        for name, array in params.items()
    }


def _is_older(names: Iterable[str]) -> bool:
    return any(name.startswith("Mixer/") for name in names)


def _released_names(older: dict[str, str]) -> dict[str, str]:
    """Returns released name -> name in the file; unknown names stay as they are."""
    numbers = collections.defaultdict(set)
    for name in older:
        if match := _OLDER_BLOCK.fullmatch(name):
            numbers[match[1], match[2]].add(int(match[3]))

    def released(name: str) -> str:
        module, _, leaf = name.rpartition("/")
        if match := _OLDER_BLOCK.fullmatch(name):
            place = sorted(numbers[match[1], match[2]]).index(int(match[3]))
            part = _OLDER_PARTS.get((match[2], place))
            if part is not None:
                return f"MixerBlock_{match[1]}/{part}/{_OLDER_LEAVES.get(match[4], match[4])}"
        elif module in _OLDER_MODULES:
            return f"{_OLDER_MODULES[module]}/{leaf}"
        return name

    return renamed(older, released)


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
