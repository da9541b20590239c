"""The golden weights of all families by name in their files, and the recipe of weights without one.

`tests/golden/` has outputs of published code for random weights: of vision_transformer (ViT),
big_transfer and big_vision (BiT) and timm (gMLP), all in float32 on a CPU.
"""

import math
import pathlib
from collections.abc import Callable
from typing import Any

import flax
import jax
import numpy as np
import safetensors.numpy

from mixer.models import build_model
from mixer.weights import bit, gmlp, vit
from mixer.weights.naming import Flat, shapes_of

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"

_VIT = dict(num_blocks=2, patch_size=8, hidden_dim=32, mlp_dim=64, num_heads=4)
# Name of the golden files -> family and fields of the model.
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit_tiny": ("vit", {**_VIT, "pool": "token", "representation_size": 0}),
    "vit_tiny_gap": ("vit", {**_VIT, "pool": "gap", "representation_size": 0}),
    "vit_tiny_prelogits": ("vit", {**_VIT, "pool": "token", "representation_size": 24}),
    "bit_tiny": ("bit", dict(block_sizes=(2, 1), width=0.5, version="v2")),
    "bit_v1_tiny": ("bit", dict(block_sizes=(2, 1), width=0.5, version="v1")),
    "bit_4stages_recipe": ("bit", dict(block_sizes=(1, 1, 1, 1), width=0.5, version="v2")),
    "bit_r50x1_recipe": ("bit", dict(block_sizes=(3, 4, 6, 3), width=1.0, version="v2")),
    "timm_gmlp_tiny": ("gmlp", dict(num_blocks=3, patch_size=8, hidden_dim=24, mlp_dim=144)),
}
WEIGHTS = {"vit": vit, "bit": bit, "gmlp": gmlp}


def arrays_of(name: str) -> Flat:
    """Returns the weights of a golden set as its file has them."""
    if name.startswith("timm"):
        return safetensors.numpy.load_file(GOLDEN / f"{name}.safetensors")
    if name.endswith("recipe"):
        return drawn(name)
    return dict(np.load(GOLDEN / f"{name}.npz"))


def drawn(name: str) -> Flat:
    """Returns the weights of a set without a file; the order and the stream are its definition."""
    io, (family, fields) = np.load(GOLDEN / f"{name}.io.npz"), SETS[name]
    model = build_model(family, num_classes=io["logits"].shape[1], **fields)
    like = jax.eval_shape(model.init, jax.random.key(0), io["images"])["params"]
    like = flax.traverse_util.flatten_dict(like, sep="/")
    zeros = {key: np.broadcast_to(np.float32(0), leaf.shape) for key, leaf in like.items()}
    shapes = shapes_of(WEIGHTS[family].to_npz(zeros))
    stream, arrays = np.random.RandomState(io["seed"]), {}
    for key in sorted(shapes):
        x = stream.standard_normal(shapes[key]).astype(np.float32)
        leaf = key.rpartition("/")[2]
        if leaf == "kernel":
            x = x / np.float32(np.sqrt(math.prod(shapes[key][:-1])))
        elif leaf in ("scale", "gamma"):
            x = np.float32(1) + np.float32(0.1) * x
        else:
            x = np.float32(0.1) * x
        arrays[key] = x
    return arrays


def params_of(name: str) -> Flat:
    """Returns the weights of a golden set by the names of the parameter tree."""
    arrays = arrays_of(name)
    weights = WEIGHTS[SETS[name][0]]
    return converted(weights.from_timm if name.startswith("timm") else weights.from_npz, arrays)


def converted(convert: Callable[..., Flat], arrays: Flat, **kwargs: Any) -> Flat:
    """Returns what a conversion makes of arrays in memory."""
    return convert(shapes_of(arrays), arrays.__getitem__, **kwargs)


def renamed(arrays: Flat, *replacements: tuple[str, str]) -> Flat:
    """Returns the arrays with parts of their names replaced, each of which there must be."""
    for old, new in replacements:
        assert any(old in name for name in arrays), old
        arrays = {name.replace(old, new): array for name, array in arrays.items()}
    return arrays
