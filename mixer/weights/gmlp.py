"""The weights of gMLPs: their shapes, our .npz files, and timm's .safetensors.

No weights were released by the authors, so the names in the parameter tree, and in .npz files, are
ours. timm's are of training in PyTorch, with its exact GELU, which is the model's default.
"""

import functools
import re
from collections.abc import Iterable

import numpy as np

from mixer.weights.naming import (
    FROM_TIMM,
    TO_TIMM,
    Flat,
    Found,
    Read,
    dimension,
    permuted,
    read_renamed,
    renamed,
    without_prefix,
)
from mixer.weights.shapes import Shapes, check_shapes

MODEL = "gMLP"

_GATE = "spatial_gating_unit"
_TIMM_MODULES = {"stem": "stem.proj", "pre_head_layer_norm": "norm", "head": "head"}
_TIMM_PARTS = {  # of a block
    "LayerNorm_0": "norm",
    "Dense_0": "mlp_channels.fc1",
    f"{_GATE}/LayerNorm_0": "mlp_channels.gate.norm",
    f"{_GATE}/Dense_0": "mlp_channels.gate.proj",
    "Dense_1": "mlp_channels.fc2",
}
_MODULES = {timm: ours for ours, timm in _TIMM_MODULES.items()}
_PARTS = {timm: ours for ours, timm in _TIMM_PARTS.items()}
_NAME = re.compile(r"(?:GmlpBlock_(\d+)/)?(.+)/(kernel|scale|bias)", re.A)
_TIMM_NAME = re.compile(r"(?:blocks\.(0|[1-9]\d{0,5})\.)?(.+)\.(weight|bias)", re.A)


def is_npz(names: Iterable[str]) -> bool:
    """True if a .npz with these names holds a gMLP."""
    return any(f"/{_GATE}/" in name for name in names)


def from_npz(shapes: Shapes, read: Read) -> Flat:
    """Returns the parameters in a .npz; see `mixer.weights.naming` for the arguments.

    Raises:
      ValueError: they are not exactly those of one gMLP.
    """
    names = renamed(without_prefix(shapes), str)
    found = find({name: shapes[raw] for name, raw in names.items()})
    return read_renamed(shapes, read, names, expected_shapes(found), MODEL)


def to_npz(params: Flat) -> Flat:
    """Returns the parameters by the names of the tree."""
    return dict(params)


def find(shapes: Shapes) -> Found:
    """Returns the architecture that the shapes, by the names of the tree, are of.

    Raises:
      ValueError: a parameter that it is inferred from is missing.
    """
    size = functools.partial(dimension, shapes, model=MODEL)
    block = "GmlpBlock_0"
    fields = dict(
        num_classes=size("head/bias", 0) if "head/bias" in shapes else 0,
        num_blocks=len({name.split("/")[0] for name in shapes if name.startswith("GmlpBlock_")}),
        patch_size=size("stem/kernel", 0),
        hidden_dim=size("stem/kernel", -1),
        mlp_dim=size(f"{block}/Dense_0/kernel", -1),
    )
    return Found(fields, size(f"{block}/{_GATE}/Dense_0/bias", 0))


def expected_shapes(found: Found) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter of the model, by the names of the tree."""
    f, tokens = found.fields, found.num_tokens
    width, hidden, half = f["hidden_dim"], f["mlp_dim"], f["mlp_dim"] // 2

    def dense(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)}

    def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}/scale": (channels,), f"{name}/bias": (channels,)}

    shapes: dict[str, tuple[int, ...]] = {
        "stem/kernel": (f["patch_size"], f["patch_size"], 3, width),
        "stem/bias": (width,),
    }
    for block in (f"GmlpBlock_{number}" for number in range(f["num_blocks"])):
        shapes |= norm(f"{block}/LayerNorm_0", width) | dense(f"{block}/Dense_0", width, hidden)
        shapes |= norm(f"{block}/{_GATE}/LayerNorm_0", half)
        shapes |= dense(f"{block}/{_GATE}/Dense_0", tokens, tokens)
        shapes |= dense(f"{block}/Dense_1", half, width)
    shapes |= norm("pre_head_layer_norm", width)
    return shapes | (dense("head", width, f["num_classes"]) if f["num_classes"] else {})


def is_timm(names: Iterable[str]) -> bool:
    """True if a .safetensors with these names holds a gMLP."""
    return any(".mlp_channels.gate." in name for name in names)


def from_timm(shapes: Shapes, read: Read) -> Flat:
    """Returns the parameters by the names of the tree; see `mixer.weights.naming`.

    Raises:
      ValueError: they are not exactly those of one gMLP.
    """
    ours = {_our_name(name): permuted(shape, FROM_TIMM) for name, shape in shapes.items()}
    expected = expected_shapes(find(ours))
    timm_shapes = {_timm_name(name): permuted(shape, TO_TIMM) for name, shape in expected.items()}
    check_shapes(shapes, timm_shapes, MODEL)
    return {
        name: np.ascontiguousarray(read(_timm_name(name)).transpose(FROM_TIMM[len(shape)]))
        for name, shape in expected.items()
    }


def to_timm(params: Flat) -> Flat:
    """Returns the parameters in timm's naming and layout."""
    return {
        _timm_name(name): array.transpose(TO_TIMM[array.ndim]) for name, array in params.items()
    }


def _our_name(name: str) -> str:
    """Returns our name for a timm tensor, or `name` itself if there is none."""
    match = _TIMM_NAME.fullmatch(name)
    module = match and (_MODULES if match[1] is None else _PARTS).get(match[2])
    if match is None or module is None:
        return name
    block = "" if match[1] is None else f"GmlpBlock_{match[1]}/"
    kernel_or_scale = "scale" if "norm" in match[2] else "kernel"
    return f"{block}{module}/{'bias' if match[3] == 'bias' else kernel_or_scale}"


def _timm_name(name: str) -> str:
    """Returns timm's name for a parameter of the tree."""
    match = _NAME.fullmatch(name)
    assert match is not None, name
    block = "" if match[1] is None else f"blocks.{match[1]}."
    leaf = "bias" if match[3] == "bias" else "weight"
    modules = _TIMM_MODULES if match[1] is None else _TIMM_PARTS
    return f"{block}{modules[match[2]]}.{leaf}"
