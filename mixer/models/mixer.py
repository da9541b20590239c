"""MLP-Mixer after Appendix E of Tolstikhin et al., 2021 (arXiv:2105.01601).

Dimensions: B batch, H x W image, S tokens (one per patch, row-major), C channels (`hidden_dim`).

The names in the parameter tree (`stem`, `MixerBlock_0/token_mixing/Dense_0/kernel`, ...,
`pre_head_layer_norm`, `head`) are those of the released checkpoints: do not rename a module.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from mixer.models.dropout import StochasticDepth, linear_rate
from mixer.models.images import check_images_shape
from mixer.models.layers import LayerNorm, classification_head
from mixer.models.mlp import MlpBlock
from mixer.models.remat import rematerialized


def _size(
    num_blocks: int, patch_size: int, hidden_dim: int, tokens_mlp_dim: int, channels_mlp_dim: int
) -> dict[str, int]:
    return dict(
        num_blocks=num_blocks,
        patch_size=patch_size,
        hidden_dim=hidden_dim,
        tokens_mlp_dim=tokens_mlp_dim,
        channels_mlp_dim=channels_mlp_dim,
    )


# Table 1 of the paper. Columns: blocks, patch size, hidden C, tokens MLP D_S, channels MLP D_C.
VARIANTS: dict[str, dict[str, int]] = {
    "S/32": _size(8, 32, 512, 256, 2048),
    "S/16": _size(8, 16, 512, 256, 2048),
    "B/32": _size(12, 32, 768, 384, 3072),
    "B/16": _size(12, 16, 768, 384, 3072),
    "L/32": _size(24, 32, 1024, 512, 4096),
    "L/16": _size(24, 16, 1024, 512, 4096),
    "H/14": _size(32, 14, 1280, 640, 5120),
}


class MixerBlock(nn.Module):
    """Token mixing, then channel mixing, each normalised before and added to the trunk."""

    tokens_mlp_dim: int
    channels_mlp_dim: int
    gelu_approximate: bool = True
    dropout_rate: float = 0.0
    stochastic_depth_rate: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, rows: jax.Array, train: bool) -> jax.Array:
        mlp = functools.partial(
            MlpBlock,
            gelu_approximate=self.gelu_approximate,
            dropout_rate=self.dropout_rate,
            dtype=self.dtype,
            # Left alone, the TPU compiler puts B next to the channels and copies the trunk back and
            # forth: 3% of the step (docs/performance.md).
            row_major=True,
        )
        # A module for each branch, so that the two draw independent masks.
        drop = functools.partial(StochasticDepth, self.stochastic_depth_rate)
        y = LayerNorm(dtype=self.dtype)(x)
        y = jnp.swapaxes(y, 1, 2)  # [B, C, S]
        y = mlp(self.tokens_mlp_dim, name="token_mixing")(y, rows, train=train)
        y = jnp.swapaxes(y, 1, 2)  # [B, S, C]
        x = checkpoint_name(x + drop()(y, rows, train=train), "trunk")
        y = LayerNorm(dtype=self.dtype)(x)
        y = mlp(self.channels_mlp_dim, name="channel_mixing")(y, rows, train=train)
        return x + drop()(y, rows, train=train)


class MlpMixer(nn.Module):
    """MLP-Mixer: images `[B, H, W, 3]` to logits `[B, num_classes]` in float32.

    With `num_classes=0` there is no head and the pre-logits `[B, hidden_dim]` come back, as a
    linear probe needs them: `model.clone(num_classes=0).apply({"params": params}, images)` works
    with the parameters of the model that has a head.

    The first six fields are the paper's. The others default to what changes nothing:
      gelu_approximate: tanh GELU, with which the released weights were trained; else exact.
      dropout_rate: after the GELU and after the second dense layer of every MLP.
      stochastic_depth_rate: the last block's; the rate grows linearly from 0 at the first block.
      head_bias_init: constant that the head's bias starts from.
      dtype: of the computation; parameters, normalisation statistics and logits are float32.
      remat: what the backward pass computes again to save memory: none, elementwise or block.

    Randomness comes from the stream "dropout", needed only with `train=True` and a rate above 0.

    Source: Figure 1 and Appendix E. Deviation: the paper has no code for stochastic depth; rates,
    masks and the absence of rescaling follow the public training code of its authors.
    """

    num_classes: int
    num_blocks: int
    patch_size: int
    hidden_dim: int
    tokens_mlp_dim: int
    channels_mlp_dim: int
    gelu_approximate: bool = True
    dropout_rate: float = 0.0
    stochastic_depth_rate: float = 0.0
    head_bias_init: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, rows: jax.Array | None = None
    ) -> jax.Array:
        """Returns the logits; `rows`, `[B]`, are the places of the images in the step's batch.

        The masks of an example depend on its row; by default the images are rows 0, 1, ...

        Raises:
          ValueError: the images do not split into patches, or `remat` is unknown.
        """
        check_images_shape(images.shape, self.patch_size)
        mixer_block = rematerialized(MixerBlock, self.remat, static_argnums=(3,))
        rows = jnp.arange(images.shape[0]) if rows is None else rows
        patch = (self.patch_size, self.patch_size)
        x = nn.Conv(self.hidden_dim, patch, strides=patch, dtype=self.dtype, name="stem")(images)
        x = x.reshape(x.shape[0], -1, self.hidden_dim)  # [B, S, C]
        for block in range(self.num_blocks):
            x = mixer_block(
                self.tokens_mlp_dim,
                self.channels_mlp_dim,
                gelu_approximate=self.gelu_approximate,
                dropout_rate=self.dropout_rate,
                stochastic_depth_rate=linear_rate(
                    self.stochastic_depth_rate, block, self.num_blocks
                ),
                dtype=self.dtype,
                name=f"MixerBlock_{block}",
            )(x, rows, train)
        x = LayerNorm(dtype=self.dtype, name="pre_head_layer_norm")(x)
        x = jnp.mean(x, axis=1, dtype=jnp.float32)  # [B, C], the pre-logits
        if self.num_classes == 0:
            return x
        return classification_head(self.num_classes, self.head_bias_init)(x)
