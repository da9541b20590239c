"""The weights of ViTs in timm's .safetensors, in PyTorch's names and layout.

One array holds the kernels of queries, keys and values, so they do not tell how many heads there
are: the metadata of files that are written here do.
"""

import collections
import re
import reprlib
from collections.abc import Iterable

import numpy as np

from mixer.models.vit import VARIANTS
from mixer.weights.naming import Flat, Found, Read, dimension, refusal, refuse, refuse_gated
from mixer.weights.shapes import Shapes, check_shapes
from mixer.weights.vit import (
    ATTENTION,
    FIXED_POSITIONS,
    MODEL,
    POSITIONS,
    expected_shapes,
    is_square,
)

_TIMM_MODULES = {
    "embedding": "patch_embed.proj",
    "LayerNorm_0": "norm1",
    f"{ATTENTION}/query": "attn.qkv",
    f"{ATTENTION}/key": "attn.qkv",
    f"{ATTENTION}/value": "attn.qkv",
    f"{ATTENTION}/out": "attn.proj",
    "LayerNorm_2": "norm2",
    "MlpBlock_3/Dense_0": "mlp.fc1",
    "MlpBlock_3/Dense_1": "mlp.fc2",
    "Transformer/encoder_norm": "norm",
    "pre_logits": "pre_logits.fc",  # older releases of timm have it
    "head": "head",
}
_TIMM_ARRAYS = {"cls": "cls_token", POSITIONS: "pos_embed"}
_RELEASED_NAME = re.compile(r"(?:Transformer/encoderblock_(\d+)/)?(.+)/(kernel|scale|bias)", re.A)
_QKV = re.compile(rf".+/{ATTENTION}/(query|key|value)/(kernel|bias)")
_ORDER = ("query", "key", "value")

_UNSUPPORTED = {  # pattern of a name -> what it is a part of
    r"^patch_embed\.backbone\.": "a hybrid, which works on the maps of a ResNet",
    r"^(dist_token$|head_dist\.)": "a distilled one (DeiT)",
    "^reg_token$": "one with registers",
    r"^fc_norm\.": "one that normalises after pooling (fc_norm)",
    r"^(norm_pre|patch_embed\.norm)\.": "one that normalises the patches",
    r"^attn_pool\.": "one that pools by attention",
    r"^blocks\.\d+\.(ls[12]\.|gamma_?[12]$)": "one with layer scale",
    r"^blocks\.\d+\.attn\.[qk]_norm\.": "one that normalises queries and keys",
    r"^blocks\.\d+\.(attn|mlp)\.norm\.": "one that normalises within attention or MLPs",
    r"^blocks\.\d+\.attns\.": "one with parallel blocks",
    r"^blocks\.\d+\.mlp\.(fc1_[gx]|w12|w3)\.": "one with gated MLPs (SwiGLU)",
    r"^(blocks\.\d+\.attn\.)?(rel|rope)": "one with relative positions",
}
_QKV_WEIGHT = re.compile(r"blocks\.\d+\.(attn|attns\.\d+\.attn)\.qkv\.weight", re.A)


def is_timm(names: Iterable[str]) -> bool:
    """True if a .safetensors with these names holds a ViT, also one that is not supported."""
    return any(_QKV_WEIGHT.fullmatch(name) for name in names)


def from_timm(shapes: Shapes, read: Read, num_heads: object = None) -> Flat:
    """Returns the parameters by released name; see `mixer.weights.naming` for the arguments.

    `num_heads` is what the file records. Without it, it is that of the named sizes with the widths
    of this model.

    Raises:
      ValueError: they are not exactly those of one ViT, it is not a plain one, or the number of
        heads is unknown, or none that is possible.
    """
    refuse(shapes, _UNSUPPORTED, MODEL)
    refuse_gated(shapes, "blocks.0.mlp", MODEL)
    expected = expected_shapes(_find(shapes, num_heads))
    timm_shapes = {_timm_name(name): _timm_shape(name, shape) for name, shape in expected.items()}
    check_shapes(shapes, timm_shapes, MODEL)
    return {
        name: np.ascontiguousarray(_from_timm(name, read(_timm_name(name))).reshape(shape))
        for name, shape in expected.items()
    }


def to_timm(params: Flat) -> Flat:
    """Returns the parameters, by released name, in timm's naming and layout."""
    parts: dict[str, dict[int, np.ndarray]] = collections.defaultdict(dict)
    for name, array in params.items():
        parts[_timm_name(name)][_place(name)] = _to_timm(name, array)
    return {
        name: np.concatenate([found[place] for place in sorted(found)])
        for name, found in parts.items()
    }


def _find(shapes: Shapes, num_heads: object) -> Found:
    def size(name: str, axis: int) -> int:
        return dimension(shapes, name, axis, MODEL)

    width, mlp_dim = size("patch_embed.proj.weight", 0), size("blocks.0.mlp.fc1.weight", 0)
    blocks = {name.split(".")[1] for name in shapes if name.startswith("blocks.")}
    representation = "pre_logits.fc.bias"
    is_token = "cls_token" in shapes
    fields = dict(
        num_classes=size("head.bias", 0) if "head.bias" in shapes else 0,
        num_blocks=len(blocks),
        patch_size=size("patch_embed.proj.weight", -1),
        hidden_dim=width,
        mlp_dim=mlp_dim,
        num_heads=_num_heads(num_heads, width, mlp_dim),
        pool="token" if is_token else "gap",
        representation_size=size(representation, 0) if representation in shapes else 0,
    )
    return Found(fields, _num_patches(shapes, is_token))


def _num_patches(shapes: Shapes, is_token: bool) -> int:
    if "pos_embed" not in shapes:
        raise refusal(FIXED_POSITIONS, "no 'pos_embed'", MODEL)
    positions = dimension(shapes, "pos_embed", 1, MODEL)
    if is_token and is_square(positions) and not is_square(positions - 1):
        kind = "one whose class token has no position (no_embed_class)"
        raise refusal(kind, f"pos_embed {shapes['pos_embed']}", MODEL)
    return positions - is_token


def _num_heads(recorded: object, width: int, mlp_dim: int) -> int:
    if recorded is None:
        sizes = VARIANTS.values()
        known = {(size["hidden_dim"], size["mlp_dim"]): size["num_heads"] for size in sizes}
        if (width, mlp_dim) in known:
            return known[width, mlp_dim]
        raise ValueError(
            f"Expected the file to record num_heads, as its arrays do not tell it and no named "
            f"size has hidden_dim {width} and mlp_dim {mlp_dim}; got no such entry in its "
            'metadata. Add it: safetensors.numpy.save_file(tensors, path, {"num_heads": "12"}).'
        )
    if type(recorded) is not int or recorded < 1 or width % recorded:
        raise ValueError(
            f"Expected num_heads in the file's metadata to be an integer that divides the width "
            f"{width}; got {reprlib.repr(recorded)}. Correct it."
        )
    return recorded


def _timm_name(name: str) -> str:
    """Returns timm's name for a parameter in the released naming."""
    if name in _TIMM_ARRAYS:
        return _TIMM_ARRAYS[name]
    match = _RELEASED_NAME.fullmatch(name)
    assert match is not None, name
    block = "" if match[1] is None else f"blocks.{match[1]}."
    leaf = "bias" if match[3] == "bias" else "weight"
    return f"{block}{_TIMM_MODULES[match[2]]}.{leaf}"


def _place(name: str) -> int:
    """Returns the place of a parameter among those that share an array in timm."""
    match = _QKV.fullmatch(name)
    return 0 if match is None else _ORDER.index(match[1])


def _timm_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    one = _to_timm(name, np.broadcast_to(np.float32(0), shape)).shape
    return one if _QKV.fullmatch(name) is None else (3 * one[0], *one[1:])


def _to_timm(name: str, array: np.ndarray) -> np.ndarray:
    """Returns a parameter in PyTorch's layout: `[out, in]`, `[out, in, H, W]` for the patches."""
    if name.startswith("embedding/kernel"):
        return array.transpose(3, 2, 0, 1)
    if not name.endswith("/kernel"):
        return array.reshape(-1) if name.endswith("/bias") else array
    inputs = array.shape[:-1] if f"{ATTENTION}/out/" in name else array.shape[:1]
    return array.reshape(np.prod(inputs), -1).T


def _from_timm(name: str, tensor: np.ndarray) -> np.ndarray:
    """Returns a parameter, its heads not split, from timm's array, which may hold three."""
    if name.startswith("embedding/kernel"):
        return tensor.transpose(2, 3, 1, 0)
    if _QKV.fullmatch(name):
        tensor = np.split(tensor, 3)[_place(name)]
    return tensor.T if name.endswith("/kernel") else tensor
