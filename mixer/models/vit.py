"""Vision Transformer after Dosovitskiy et al., 2021 (arXiv:2010.11929).

Dimensions: B batch, H x W image, S tokens (one per patch, row-major, after the class token if there
is one), C channels (`hidden_dim`), N heads, D channels of a head.

The names in the parameter tree (`embedding`, `Transformer/encoderblock_0/LayerNorm_0`,
`MultiHeadDotProductAttention_1`, `LayerNorm_2`, `MlpBlock_3`, ...) are those of the released
checkpoints: do not rename a module.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from mixer.errors import unknown_name
from mixer.models.dropout import Dropout, StochasticDepth, linear_rate
from mixer.models.images import check_images_shape
from mixer.models.layers import LayerNorm, classification_head, product
from mixer.models.mlp import MlpBlock
from mixer.models.platforms import platform_dependent
from mixer.models.remat import rematerialized

POOLS = ("token", "gap")

_KERNEL_INIT = nn.initializers.xavier_uniform()


def _size(
    num_blocks: int, patch_size: int, hidden_dim: int, mlp_dim: int, num_heads: int
) -> dict[str, int]:
    return dict(
        num_blocks=num_blocks,
        patch_size=patch_size,
        hidden_dim=hidden_dim,
        mlp_dim=mlp_dim,
        num_heads=num_heads,
    )


# Table 1 of the ViT paper; Ti and S: Steiner et al., 2021 (arXiv:2106.10270).
# Columns: blocks, patch size, hidden C, MLP, heads.
VARIANTS: dict[str, dict[str, int]] = {
    "Ti/16": _size(12, 16, 192, 768, 3),
    "S/32": _size(12, 32, 384, 1536, 6),
    "S/16": _size(12, 16, 384, 1536, 6),
    "B/32": _size(12, 32, 768, 3072, 12),
    "B/16": _size(12, 16, 768, 3072, 12),
    "L/32": _size(24, 32, 1024, 4096, 16),
    "L/16": _size(24, 16, 1024, 4096, 16),
    "H/14": _size(32, 14, 1280, 5120, 16),
}


class PositionEmbedding(nn.Module):
    """Adds a learned vector to each token."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.normal(0.02)
        added = self.param("pos_embedding", init, (1, *x.shape[1:]), jnp.float32)
        return x + added.astype(self.dtype)


def _project(
    x: jax.Array, kernel: jax.Array, dimension_numbers: Any, *_: Any, **__: Any
) -> jax.Array:
    """`product`, but left to the TPU compiler, which copies the trunk for rows in one dimension."""
    plain = functools.partial(lax.dot_general, dimension_numbers=dimension_numbers)
    rows = functools.partial(product, dimension_numbers=dimension_numbers)
    return platform_dependent(x, kernel, tpu=plain, default=rows)


def _attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Returns softmax(query @ key^T) @ value for `[B, N, S, D]`; the softmax is in float32."""
    # Written to memory in their dtype, read into the softmax as float32 (docs/performance.md).
    logits = jnp.einsum("bnqd,bnkd->bnqk", query, key).astype(jnp.float32)
    return jnp.einsum("bnqk,bnkd->bnqd", jax.nn.softmax(logits).astype(value.dtype), value)


def _attend_on_cpu(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """The same, but the sum divides the product: 10% of the inference of S/16. Not for a TPU."""
    logits = jnp.einsum("bnqd,bnkd->bnqk", query, key).astype(jnp.float32)
    terms = jnp.exp(logits - lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
    summed = jnp.einsum("bnqk,bnkd->bnqd", terms.astype(value.dtype), value)
    return (summed / jnp.sum(terms, axis=-1, keepdims=True)).astype(value.dtype)


class SelfAttention(nn.Module):
    """Multi-head self-attention on `[B, S, C]`; the softmax is computed in float32."""

    num_heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        head_dim = x.shape[-1] // self.num_heads
        dense = functools.partial(
            nn.DenseGeneral, dtype=self.dtype, kernel_init=_KERNEL_INIT, dot_general=_project
        )

        # Heads before tokens, and the scale at the queries. With the same values from
        # `jax.nn.dot_product_attention`, the training step of S/16 takes 16% longer on a CPU.
        def heads(name: str) -> jax.Array:
            y = checkpoint_name(dense((self.num_heads, head_dim), name=name)(x), "hidden")
            return jnp.swapaxes(y, 1, 2)  # [B, N, S, D]

        query, key, value = heads("query") * head_dim**-0.5, heads("key"), heads("value")
        y = platform_dependent(query, key, value, cpu=_attend_on_cpu, default=_attend)
        y = checkpoint_name(jnp.swapaxes(y, 1, 2), "hidden")  # [B, S, N, D]
        return dense(x.shape[-1], axis=(-2, -1), name="out")(y)


class EncoderBlock(nn.Module):
    """Self-attention, then an MLP, each normalised before and added to the trunk."""

    mlp_dim: int
    num_heads: int
    gelu_approximate: bool = True
    dropout_rate: float = 0.0
    stochastic_depth_rate: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, rows: jax.Array, train: bool) -> jax.Array:
        # A module for each branch, so that the two draw independent masks.
        drop = functools.partial(StochasticDepth, self.stochastic_depth_rate)
        y = LayerNorm(dtype=self.dtype, name="LayerNorm_0")(x)
        y = SelfAttention(self.num_heads, self.dtype, name="MultiHeadDotProductAttention_1")(y)
        y = Dropout(self.dropout_rate)(y, rows, train=train)
        x = checkpoint_name(x + drop()(y, rows, train=train), "trunk")
        y = LayerNorm(dtype=self.dtype, name="LayerNorm_2")(x)
        y = MlpBlock(
            self.mlp_dim,
            gelu_approximate=self.gelu_approximate,
            dropout_rate=self.dropout_rate,
            dtype=self.dtype,
            kernel_init=_KERNEL_INIT,
            bias_init=nn.initializers.normal(1e-6),
            name="MlpBlock_3",
        )(y, rows, train=train)
        return x + drop()(y, rows, train=train)


class Encoder(nn.Module):
    """Position embedding, blocks and a last normalisation, on `[B, S, C]`."""

    num_blocks: int
    mlp_dim: int
    num_heads: int
    gelu_approximate: bool
    dropout_rate: float
    stochastic_depth_rate: float
    dtype: DTypeLike
    remat: str

    @nn.compact
    def __call__(self, x: jax.Array, rows: jax.Array, *, train: bool) -> jax.Array:
        encoder_block = rematerialized(EncoderBlock, self.remat, static_argnums=(3,))
        x = PositionEmbedding(self.dtype, name="posembed_input")(x)
        x = Dropout(self.dropout_rate)(x, rows, train=train)
        for block in range(self.num_blocks):
            x = encoder_block(
                self.mlp_dim,
                self.num_heads,
                gelu_approximate=self.gelu_approximate,
                dropout_rate=self.dropout_rate,
                stochastic_depth_rate=linear_rate(
                    self.stochastic_depth_rate, block, self.num_blocks
                ),
                dtype=self.dtype,
                name=f"encoderblock_{block}",
            )(x, rows, train)
        return LayerNorm(dtype=self.dtype, name="encoder_norm")(x)


class VisionTransformer(nn.Module):
    """ViT: images `[B, H, W, 3]` to logits `[B, num_classes]` in float32.

    With `num_classes=0` there is no head and the pre-logits come back: `[B, hidden_dim]`, or
    `[B, representation_size]` if that is not 0.

    The first six fields are the paper's. The others, apart from those explained here, are
    `MlpMixer`'s:
      pool: the pre-logits are the class token, "token", or the mean over all tokens, "gap" (there
        is no class token then), after the last normalisation.
      representation_size: width of a layer with tanh before the head, as in the ViT paper's
        pre-training; 0: none.
      dropout_rate: after the position embedding, the attention, and each dense layer of the MLPs.
      remat: "elementwise" keeps queries, keys and values, and computes the attention again.

    Source: section 3.1 and Appendix B.1. Deviation: stochastic depth, of the later AugReg recipes,
    has `MlpMixer`'s rates, and masks without rescaling.
    """

    num_classes: int
    num_blocks: int
    patch_size: int
    hidden_dim: int
    mlp_dim: int
    num_heads: int
    pool: str = "token"
    representation_size: int = 0
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
          ValueError: the images do not split into patches, the heads do not divide `hidden_dim`,
            or `pool` or `remat` is unknown.
        """
        self._check_fields()
        check_images_shape(images.shape, self.patch_size)
        rows = jnp.arange(images.shape[0]) if rows is None else rows
        patch = (self.patch_size, self.patch_size)
        embedding = nn.Conv(
            self.hidden_dim, patch, patch, "VALID", dtype=self.dtype, name="embedding"
        )
        x = embedding(images)
        x = x.reshape(x.shape[0], -1, self.hidden_dim)  # [B, S, C]
        if self.pool == "token":
            shape = (1, 1, self.hidden_dim)
            token = self.param("cls", nn.initializers.zeros, shape, jnp.float32).astype(x.dtype)
            x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], *shape[1:])), x], axis=1)
        x = Encoder(
            self.num_blocks,
            self.mlp_dim,
            self.num_heads,
            gelu_approximate=self.gelu_approximate,
            dropout_rate=self.dropout_rate,
            stochastic_depth_rate=self.stochastic_depth_rate,
            dtype=self.dtype,
            remat=self.remat,
            name="Transformer",
        )(x, rows, train=train)
        x = x[:, 0] if self.pool == "token" else jnp.mean(x, axis=1, dtype=jnp.float32)
        x = x.astype(jnp.float32)  # [B, C]
        if self.representation_size:
            x = jnp.tanh(nn.Dense(self.representation_size, name="pre_logits")(x))
        if self.num_classes == 0:
            return x
        return classification_head(self.num_classes, self.head_bias_init)(x)

    def _check_fields(self) -> None:
        if self.pool not in POOLS:
            raise unknown_name("pool", self.pool, POOLS)
        if self.hidden_dim % self.num_heads:
            raise ValueError(
                f"Expected hidden_dim to be a multiple of num_heads; got {self.hidden_dim} and "
                f"{self.num_heads}. Change one of them."
            )
