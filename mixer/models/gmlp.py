"""gMLP after Liu et al., 2021 (arXiv:2105.08050), for images.

Dimensions: B batch, H x W image, S tokens (one per patch, row-major), C channels (`hidden_dim`), F
channels of the MLP (`mlp_dim`).

There are no released weights. Names and details that the paper leaves open follow timm's gMLP.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from mixer.models.dropout import Dropout, StochasticDepth, linear_rate
from mixer.models.images import check_images_shape
from mixer.models.layers import LayerNorm, classification_head, gelu, product
from mixer.models.remat import rematerialized

_NEAR_ZERO = nn.initializers.normal(1e-6)


def _size(num_blocks: int, patch_size: int, hidden_dim: int, mlp_dim: int) -> dict[str, int]:
    return dict(
        num_blocks=num_blocks, patch_size=patch_size, hidden_dim=hidden_dim, mlp_dim=mlp_dim
    )


# Table 1 of the gMLP paper. Columns: blocks, patch size, hidden C, MLP F.
VARIANTS: dict[str, dict[str, int]] = {
    "Ti/16": _size(30, 16, 128, 768),
    "S/16": _size(30, 16, 256, 1536),
    "B/16": _size(30, 16, 512, 3072),
}


class SpatialGatingUnit(nn.Module):
    """Multiplies one half of the channels by a linear map, over the tokens, of the other half.

    `[B, S, F]` to `[B, S, F / 2]`. At first it is nearly the identity on the first half.

    Source: section 2.1.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kept, gate = jnp.split(x, 2, axis=-1)
        # PyTorch's epsilon, with which timm's weights were trained; the other norms have Flax's.
        gate = LayerNorm(dtype=self.dtype, epsilon=1e-5)(gate)
        gate = jnp.swapaxes(gate, 1, 2)  # [B, F / 2, S]
        gate = nn.Dense(
            gate.shape[-1],
            dtype=self.dtype,
            kernel_init=_NEAR_ZERO,
            bias_init=nn.initializers.ones,
            dot_general=product,
        )(gate)
        gate = checkpoint_name(gate, "hidden")
        return kept * jnp.swapaxes(gate, 1, 2)


class GmlpBlock(nn.Module):
    """An MLP with a gate between its dense layers, normalised before and added to the trunk."""

    mlp_dim: int
    gelu_approximate: bool = False
    dropout_rate: float = 0.0
    stochastic_depth_rate: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, rows: jax.Array, train: bool) -> jax.Array:
        dense = functools.partial(
            nn.Dense,
            dtype=self.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            bias_init=_NEAR_ZERO,
            dot_general=product,
        )
        y = LayerNorm(dtype=self.dtype)(x)
        y = checkpoint_name(dense(self.mlp_dim)(y), "hidden")
        y = gelu(y, self.gelu_approximate)
        y = Dropout(self.dropout_rate)(y, rows, train=train)
        y = SpatialGatingUnit(self.dtype, name="spatial_gating_unit")(y)
        y = dense(x.shape[-1])(y)
        y = Dropout(self.dropout_rate)(y, rows, train=train)
        return x + StochasticDepth(self.stochastic_depth_rate)(y, rows, train=train)


class Gmlp(nn.Module):
    """gMLP: images `[B, H, W, 3]` to logits `[B, num_classes]` in float32.

    With `num_classes=0` there is no head and the pre-logits `[B, hidden_dim]` come back.

    `mlp_dim` is even: the second dense layer takes half of it. The fields from `gelu_approximate`
    on are `MlpMixer`'s, but GELU is exact, as in timm's weights. The number of tokens is part of
    the parameters, so a model has one image size.

    Source: section 2.
    """

    num_classes: int
    num_blocks: int
    patch_size: int
    hidden_dim: int
    mlp_dim: int
    gelu_approximate: bool = False
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
          ValueError: the images do not split into patches, `mlp_dim` is odd, or `remat` is unknown.
        """
        check_images_shape(images.shape, self.patch_size)
        if self.mlp_dim % 2:
            raise ValueError(
                f"Expected an even mlp_dim, as the gate splits it in halves; got {self.mlp_dim}. "
                f"Use {self.mlp_dim + 1}."
            )
        gmlp_block = rematerialized(GmlpBlock, self.remat, static_argnums=(3,))
        rows = jnp.arange(images.shape[0]) if rows is None else rows
        patch = (self.patch_size, self.patch_size)
        x = nn.Conv(self.hidden_dim, patch, strides=patch, dtype=self.dtype, name="stem")(images)
        x = x.reshape(x.shape[0], -1, self.hidden_dim)  # [B, S, C]
        for block in range(self.num_blocks):
            x = gmlp_block(
                self.mlp_dim,
                gelu_approximate=self.gelu_approximate,
                dropout_rate=self.dropout_rate,
                stochastic_depth_rate=linear_rate(
                    self.stochastic_depth_rate, block, self.num_blocks
                ),
                dtype=self.dtype,
                name=f"GmlpBlock_{block}",
            )(x, rows, train)
        x = LayerNorm(dtype=self.dtype, name="pre_head_layer_norm")(x)
        x = jnp.mean(x, axis=1, dtype=jnp.float32)  # [B, C], the pre-logits
        if self.num_classes == 0:
            return x
        return classification_head(self.num_classes, self.head_bias_init)(x)
