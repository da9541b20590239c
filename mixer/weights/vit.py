"""The weights of ViTs: their shapes, and the namings of the released .npz files.

The parameter tree has the released naming, which numbers the modules of a block in one row:
`LayerNorm_0, MultiHeadDotProductAttention_1, LayerNorm_2, MlpBlock_3`. Later files number each kind
from 0; only the order counts. Files of all ages differ in where the position embeddings are, and
the latest have none for the class token, which joins the patches after theirs are added.
"""

import collections
import functools
import math
import re
from collections.abc import Iterable, Mapping

import numpy as np

from mixer.weights.naming import (
    Flat,
    Found,
    Read,
    dimension,
    read_renamed,
    refusal,
    refuse,
    renamed,
    without_prefix,
)
from mixer.weights.shapes import Shapes

MODEL = "ViT"

POSITIONS = "Transformer/posembed_input/pos_embedding"
_LATE_POSITIONS = "pos_embedding"
ATTENTION = "MultiHeadDotProductAttention_1"
_BLOCK = re.compile(r"(Transformer/encoderblock_(?:0|[1-9]\d{0,5}))/(\w+)_(\d{1,6})/(.+)", re.A)
_PARTS = {  # (name in a block, index among modules with that name) -> released name
    ("LayerNorm", 0): "LayerNorm_0",
    ("MultiHeadDotProductAttention", 0): ATTENTION,
    ("LayerNorm", 1): "LayerNorm_2",
    ("MlpBlock", 0): "MlpBlock_3",
}
FIXED_POSITIONS = "one without learned position embeddings"
_UNSUPPORTED = {  # pattern of a name -> what it is a part of
    "^Transformer/encoderblock/": "one with the layers of all blocks in one array (a scan)",
    "^(conv_root|gn_root|block[0-9]+)/": "a hybrid, which works on the maps of a ResNet",
    "^(MAPHead_[0-9]+/|probe$)": "one that pools by attention",
}


def is_npz(names: Iterable[str]) -> bool:
    """True if a .npz with these names holds a ViT, also one that is not supported."""
    return any(name.startswith("Transformer/") for name in without_prefix(names))


def from_npz(shapes: Shapes, read: Read) -> Flat:
    """Returns the parameters in a released .npz; see `mixer.weights.naming` for the arguments.

    Raises:
      ValueError: they are not exactly those of one ViT, or it is not a plain one.
    """
    inner = without_prefix(shapes)
    refuse(inner, _UNSUPPORTED, MODEL)
    names = renamed(inner, functools.partial(_released_name, numbers=_numbers(inner)))
    if POSITIONS not in names:
        raise refusal(FIXED_POSITIONS, f"no {POSITIONS!r}", MODEL)
    positions = inner.get(_LATE_POSITIONS)
    if positions is not None and "cls" in names and not _has_class_token(shapes[positions]):
        shapes, read = _with_class_token(shapes, read, positions)
    found = find({name: shapes[raw] for name, raw in names.items()})
    return read_renamed(shapes, read, names, expected_shapes(found), MODEL)


def to_npz(params: Flat) -> Flat:
    """Returns the parameters by their released names, which are those of the tree."""
    return dict(params)


def find(shapes: Shapes) -> Found:
    """Returns the architecture that the shapes, by released name, are of.

    Raises:
      ValueError: a parameter that it is inferred from is missing.
    """
    size = functools.partial(dimension, shapes, model=MODEL)
    block, is_token = "Transformer/encoderblock_0", "cls" in shapes
    width = size("embedding/kernel", -1)
    fields = dict(
        num_classes=size("head/bias", 0) if "head/bias" in shapes else 0,
        num_blocks=len({name.split("/")[1] for name in shapes if "/encoderblock_" in name}),
        patch_size=size("embedding/kernel", 0),
        hidden_dim=width,
        mlp_dim=size(f"{block}/MlpBlock_3/Dense_0/kernel", -1),
        num_heads=width // size(f"{block}/{ATTENTION}/query/kernel", 2),
        pool="token" if is_token else "gap",
        representation_size=size("pre_logits/bias", 0) if "pre_logits/bias" in shapes else 0,
    )
    return Found(fields, size(POSITIONS, 1) - is_token)


def expected_shapes(found: Found) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter of the model, by released name."""
    f = found.fields
    width, heads = f["hidden_dim"], (f["num_heads"], f["hidden_dim"] // f["num_heads"])
    is_token, representation_size = f["pool"] == "token", f["representation_size"]

    def dense(
        name: str, inputs: tuple[int, ...], outputs: tuple[int, ...]
    ) -> dict[str, tuple[int, ...]]:
        return {f"{name}/kernel": inputs + outputs, f"{name}/bias": outputs}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}/scale": (width,), f"{name}/bias": (width,)}

    shapes: dict[str, tuple[int, ...]] = {"cls": (1, 1, width)} if is_token else {}
    shapes |= dense("embedding", (f["patch_size"], f["patch_size"], 3), (width,))
    shapes[POSITIONS] = (1, found.num_tokens + is_token, width)
    for block in (f"Transformer/encoderblock_{number}" for number in range(f["num_blocks"])):
        shapes |= norm(f"{block}/LayerNorm_0")
        for name in ("query", "key", "value"):
            shapes |= dense(f"{block}/{ATTENTION}/{name}", (width,), heads)
        shapes |= dense(f"{block}/{ATTENTION}/out", heads, (width,))
        shapes |= norm(f"{block}/LayerNorm_2")
        shapes |= dense(f"{block}/MlpBlock_3/Dense_0", (width,), (f["mlp_dim"],))
        shapes |= dense(f"{block}/MlpBlock_3/Dense_1", (f["mlp_dim"],), (width,))
    shapes |= norm("Transformer/encoder_norm")
    if representation_size:
        shapes |= dense("pre_logits", (width,), (representation_size,))
    if f["num_classes"]:
        shapes |= dense("head", (representation_size or width,), (f["num_classes"],))
    return shapes


def is_square(patches: int) -> bool:
    """True if a square grid has that number of patches."""
    return patches > 0 and math.isqrt(patches) ** 2 == patches


def _numbers(names: Iterable[str]) -> dict[tuple[str, str], list[int]]:
    """Returns (block, kind of module) -> the numbers that its modules have there, ascending."""
    found: dict[tuple[str, str], set[int]] = collections.defaultdict(set)
    for name in names:
        if match := _BLOCK.fullmatch(name):
            found[match[1], match[2]].add(int(match[3]))
    return {key: sorted(numbers) for key, numbers in found.items()}


def _released_name(name: str, numbers: Mapping[tuple[str, str], list[int]]) -> str:
    """Returns the released name of a parameter, or `name` itself if it has none."""
    if name in (_LATE_POSITIONS, "Transformer/pos_embedding"):
        return POSITIONS
    match = _BLOCK.fullmatch(name)
    if match is None:
        return name
    place = numbers[match[1], match[2]].index(int(match[3]))
    part = _PARTS.get((match[2], place))
    return name if part is None else f"{match[1]}/{part}/{match[4]}"


def _has_class_token(shape: tuple[int, ...]) -> bool:
    """True if position embeddings are those of a square grid and of the class token."""
    return is_square(math.prod(shape[:-1]) - 1)


def _with_class_token(shapes: Shapes, read: Read, name: str) -> tuple[Shapes, Read]:
    """Returns shapes and `read` where the position embedding of the class token is 0."""
    *_, patches, width = (1, 1, *shapes[name])

    def padded(asked: str) -> np.ndarray:
        if asked != name:
            return read(asked)
        positions = read(name).reshape(1, patches, width)
        return np.concatenate([np.zeros((1, 1, width), positions.dtype), positions], axis=1)

    return {**shapes, name: (1, patches + 1, width)}, padded
