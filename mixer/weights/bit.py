"""The weights of BiT-ResNets: their shapes, and the namings of the .npz files of both versions.

The parameter tree has the names of the published code of `v1`. Released files of `v2` have names
such as `resnet/block1/unit01/a/standardized_conv2d/kernel`, where the normalisation of a part
comes before its convolution, so that of `a` has the channels of the unit's input.
"""

import functools
import re
from collections.abc import Iterable

from mixer.weights.naming import (
    Flat,
    Found,
    Read,
    dimension,
    is_any,
    read_renamed,
    refuse,
    renamed,
    without_prefix,
)
from mixer.weights.shapes import Shapes

MODEL = "BiT-ResNet"

_ROOT_CHANNELS = 64  # at width 1

_RELEASED_MODULES = {  # outside of units
    "root_block/standardized_conv2d": "conv_root",
    "group_norm": "norm",
    "head/conv2d": "head",
}
_RELEASED_PARTS = {  # of a unit
    "a/proj/standardized_conv2d": "conv_proj",
    "a/group_norm": "gn1",
    "a/standardized_conv2d": "conv1",
    "b/group_norm": "gn2",
    "b/standardized_conv2d": "conv2",
    "c/group_norm": "gn3",
    "c/standardized_conv2d": "conv3",
}
_RELEASED_NAMES = {ours: released for released, ours in _RELEASED_MODULES.items()}
_RELEASED_PART_NAMES = {ours: released for released, ours in _RELEASED_PARTS.items()}
_RELEASED = re.compile(
    r"resnet/(?:(block\d{1,3})/unit(\d{1,4})/)?(.+)/(kernel|bias|gamma|beta)", re.A
)
_OURS = re.compile(r"(?:(block\d{1,3})/unit(\d{1,4})/)?(.+)/(kernel|bias|scale)", re.A)
_LEAVES = {"gamma": "scale", "beta": "bias"}
_NUMBERED = re.compile(r"(?<=conv2d)_\d+(?=/)", re.A)  # as some files have it

_BATCH_NORMALISED = "one with batch normalisation"
_UNSUPPORTED = {  # pattern of a name -> what it is a part of
    "(^|/)norm-pre-head/": "one of another code, whose root pads its maximum with minus infinity",
    r"^batch_stats/|(^|/)BatchNorm_\d+/": _BATCH_NORMALISED,
}
_TIMM = {
    r"\.running_mean$": _BATCH_NORMALISED,
    r"(^|\.)stages\.\d+\.blocks\.\d+\.downsample\.conv\.weight$": (
        "one in timm's naming (the weights of BiT are released as .npz)"
    ),
}


def is_npz(names: Iterable[str]) -> bool:
    """True if a .npz with these names holds a BiT-ResNet, also one that is not supported."""
    names = list(names)
    inner = without_prefix(names)
    is_hybrid = any(name.startswith("Transformer/") for name in inner)
    is_ours = any(name.startswith(("resnet/", "conv_root/")) for name in inner)
    return not is_hybrid and (is_ours or is_any(names, _UNSUPPORTED))


def from_npz(shapes: Shapes, read: Read) -> Flat:
    """Returns the parameters in a .npz by our names; see `mixer.weights.naming` for the arguments.

    Raises:
      ValueError: they are not exactly those of one BiT-ResNet.
    """
    refuse(shapes, _UNSUPPORTED, MODEL)
    inner = without_prefix(shapes)
    names = renamed(inner, _our_name)
    found = find({name: shapes[raw] for name, raw in names.items()})
    return read_renamed(shapes, read, names, expected_shapes(found), MODEL)


def to_npz(params: Flat) -> Flat:
    """Returns the parameters by their released names; those of `v1` are ours."""
    if find_version(params) == "v1":
        return dict(params)
    released = {_released_name(name): array for name, array in params.items()}
    if (kernel := "resnet/head/conv2d/kernel") in released:
        released[kernel] = released[kernel][None, None]
    return released


def is_timm(names: Iterable[str]) -> bool:
    """True if a .safetensors with these names holds a ResNet, none of which is supported."""
    return is_any(names, _TIMM)


def from_timm(shapes: Shapes, read: Read) -> Flat:
    """Raises ValueError: those of timm and PyTorch are other networks, or in a naming of theirs."""
    refuse(shapes, _TIMM, MODEL)
    raise AssertionError("`is_timm` is the condition")


def find_version(names: Iterable[str]) -> str:
    """Returns the version of the network with parameters of these names."""
    return "v1" if "gn_root/scale" in set(names) else "v2"


def find(shapes: Shapes) -> Found:
    """Returns the architecture that the shapes, by our names, are of.

    Raises:
      ValueError: a parameter that it is inferred from is missing.
    """
    size = functools.partial(dimension, shapes, model=MODEL)
    matches = [match for name in shapes if (match := _OURS.fullmatch(name)) and match[1]]
    units = {(int(match[1].removeprefix("block")), int(match[2])) for match in matches}
    blocks = range(1, 1 + len({block for block, _ in units}))
    fields = dict(
        num_classes=size("head/bias", 0) if "head/bias" in shapes else 0,
        block_sizes=tuple(sum(unit[0] == block for unit in units) for block in blocks),
        width=size("conv_root/kernel", -1) / _ROOT_CHANNELS,
        version=find_version(shapes),
    )
    return Found(fields, num_tokens=0)


def expected_shapes(found: Found) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter of the model, by our names."""
    fields = found.fields
    is_v1, root = fields["version"] == "v1", round(fields["width"] * _ROOT_CHANNELS)
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, size: int, inputs: int, outputs: int) -> None:
        shapes[f"{name}/kernel"] = (size, size, inputs, outputs)

    def norm(name: str, channels: int) -> None:
        shapes.update({f"{name}/scale": (channels,), f"{name}/bias": (channels,)})

    conv("conv_root", 7, 3, root)
    if is_v1:
        norm("gn_root", root)
    inputs = root
    for block, units in enumerate(fields["block_sizes"]):
        channels, outputs = root * 2**block, 4 * root * 2**block
        for unit in (f"block{block + 1}/unit{number + 1}" for number in range(units)):
            conv(f"{unit}/conv1", 1, inputs, channels)
            conv(f"{unit}/conv2", 3, channels, channels)
            conv(f"{unit}/conv3", 1, channels, outputs)
            # Normalised is what leaves a convolution, or, in v2, what enters it.
            for part, after, before in (
                ("gn1", channels, inputs),
                ("gn2", channels, channels),
                ("gn3", outputs, channels),
            ):
                norm(f"{unit}/{part}", after if is_v1 else before)
            if unit.endswith("/unit1"):
                conv(f"{unit}/conv_proj", 1, inputs, outputs)
                if is_v1:
                    norm(f"{unit}/gn_proj", outputs)
            inputs = outputs
    if not is_v1:
        norm("norm", inputs)
    if fields["num_classes"]:
        shapes["head/kernel"] = (inputs, fields["num_classes"])
        shapes["head/bias"] = (fields["num_classes"],)
    return shapes


def _our_name(name: str) -> str:
    """Returns our name of a released parameter, or `name` itself if there is none."""
    match = _RELEASED.fullmatch(_NUMBERED.sub("", name))
    if match is None:
        return name
    part = (_RELEASED_PARTS if match[1] else _RELEASED_MODULES).get(match[3])
    if part is None:
        return name
    unit = f"{match[1]}/unit{int(match[2])}/" if match[1] else ""
    return f"{unit}{part}/{_LEAVES.get(match[4], match[4])}"


def _released_name(name: str) -> str:
    match = _OURS.fullmatch(name)
    assert match is not None, name
    is_norm = "norm" in match[3] or "gn" in match[3]
    leaf = {"scale": "gamma", "bias": "beta"}[match[4]] if is_norm else match[4]
    if match[1] is None:
        return f"resnet/{_RELEASED_NAMES[match[3]]}/{leaf}"
    part = _RELEASED_PART_NAMES[match[3]]
    return f"resnet/{match[1]}/unit{int(match[2]):02d}/{part}/{leaf}"
