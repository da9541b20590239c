"""A tiny model of each family, with all that is random in training, and configs of them."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from configs import digits
from mixer.models import build_model

_RANDOM = dict(dropout_rate=0.1, stochastic_depth_rate=0.2)
TINY: dict[str, dict[str, Any]] = {
    "vit": dict(
        num_blocks=2,
        patch_size=4,
        hidden_dim=16,
        mlp_dim=32,
        num_heads=2,
        pool="token",
        representation_size=8,
        gelu_approximate=True,
        **_RANDOM,
    ),
    "bit": dict(block_sizes=(1, 2), width=0.5, version="v2"),
    "gmlp": dict(
        num_blocks=2, patch_size=4, hidden_dim=16, mlp_dim=32, gelu_approximate=False, **_RANDOM
    ),
}

_TINY_MIXER = dict(
    num_blocks=2,
    patch_size=4,
    hidden_dim=16,
    tokens_mlp_dim=8,
    channels_mlp_dim=32,
    gelu_approximate=True,
    **_RANDOM,
)
# The same of the models of experiments.
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "permuted_mixer": dict(permutation="patches", **_TINY_MIXER),
    "permuted_bit": dict(permutation="patches", permuted_patch_size=4, **TINY["bit"]),
    "mixer_variant": dict(token_mixing="pyramid", groups=2, halved_after=(1,), **_TINY_MIXER),
}


def tiny_model(family: str, **fields: Any) -> nn.Module:
    """Returns the tiny model, of 10 classes, with some fields replaced."""
    return build_model(family, **{"num_classes": 10, **(TINY | EXPERIMENTS)[family], **fields})


def random_params(model: nn.Module, images: np.ndarray) -> Any:
    """Returns parameters of which none is 0 or 1, as some are that a model starts from."""
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        values = rng.normal(size=leaf.shape) / max(np.prod(leaf.shape[:-1]), 4) ** 0.5
        return (values + (path[-1].key == "scale")).astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    return jax.tree_util.tree_map_with_path(draw, shapes)


def digits_config(family: str) -> ConfigDict:
    """Returns the config of the digits with the tiny model of a family instead of its own."""
    config = digits.get_config()
    common = ("head_bias_init", "dtype", "remat")
    kept = {name: config.model[name] for name in common}
    config.model = ConfigDict({"name": family, **(TINY | EXPERIMENTS)[family], **kept})
    return config
