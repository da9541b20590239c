"""A look inside: what each part of a model computes for given images."""

from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax

from mixer.models.bit import Unit
from mixer.models.gmlp import SpatialGatingUnit
from mixer.models.mlp import MlpBlock
from mixer.models.token_mixing_variants import TokenMixing
from mixer.models.vit import EncoderBlock, SelfAttention

# Beside the direct parts of a model: stem, blocks, last normalisation and head.
_PARTS = (EncoderBlock, MlpBlock, SelfAttention, SpatialGatingUnit, TokenMixing, Unit)


def capture(model: nn.Module, params: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Returns the outputs of the parts of a model, by their names in the parameter tree.

    Of Mixer, with B images, S tokens (row-major over the patches) and C channels:
      stem                        `[B, H / P, W / P, C]`
      MixerBlock_0/token_mixing   `[B, C, S]`, a branch before it is added to the trunk
      MixerBlock_0/channel_mixing `[B, S, C]`, likewise
      MixerBlock_0                `[B, S, C]`, the trunk after the block
      ...
      pre_head_layer_norm         `[B, S, C]`; its mean over the tokens are the features
      head                        `[B, num_classes]`, the logits in float32
    The other families alike: attention and MLP of ViT (`Transformer/encoderblock_0/...`), the
    gates of gMLP (`GmlpBlock_0/spatial_gating_unit`), the units of BiT (`block1/unit1`).

    Nothing is compiled here: `jax.jit(functools.partial(capture, model))` is, for many images.
    """

    def is_part(module: nn.Module, method: str) -> bool:
        return method == "__call__" and (len(module.path) == 1 or isinstance(module, _PARTS))

    _, captured = model.clone(remat="none").apply(
        {"params": params}, images, capture_intermediates=is_part, mutable=["intermediates"]
    )
    flat = flax.traverse_util.flatten_dict(captured["intermediates"])
    return {"/".join(path[:-1]): outputs[0] for path, outputs in flat.items()}
