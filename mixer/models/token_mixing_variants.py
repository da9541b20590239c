"""Mixers with other token-mixing MLPs: Appendix A.1, what was tried and did not stay.

Dimensions as in `mixer/models/mixer.py`, and G groups. Channel mixing, stem and head are Mixer's.

The paper does not say how the G * S rows come back to the trunk, nor what becomes of the skip
connection of a block that ends with fewer tokens. Here the rows go back to where they came from,
and such a block's token mixing has none.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from mixer.errors import unknown_name
from mixer.models.dropout import Dropout, StochasticDepth, linear_rate
from mixer.models.images import check_images_shape
from mixer.models.layers import LayerNorm, classification_head, gelu, product
from mixer.models.mixer import MlpMixer
from mixer.models.mlp import MlpBlock
from mixer.models.remat import rematerialized

VARIANTS = ("untied", "grouped", "views", "pyramid")


class UntiedDense(nn.Module):
    """Maps `[B, C, S]` to `[B, C, features]`, with weights of its own for each channel."""

    features: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels, terms = x.shape[1:]
        init = nn.initializers.lecun_normal(in_axis=1, out_axis=2, batch_axis=0)
        kernel = self.param("kernel", init, (channels, terms, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels, self.features), jnp.float32)
        return jnp.einsum("bcs,csd->bcd", x, kernel.astype(self.dtype)) + bias.astype(self.dtype)


class TokenMixing(nn.Module):
    """One of the `VARIANTS`; "" is Mixer's."""

    variant: str
    groups: int
    mlp_dim: int
    gelu_approximate: bool
    dropout_rate: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, y: jax.Array, rows: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[B, S, C]` to the same, or with "pyramid" to half as many tokens, rounded up."""
        batch, tokens, channels = y.shape
        groups = self.groups if self.variant in ("grouped", "views") else 1
        if self.variant == "views":  # G linear functions to C / G channels, in one product
            y = nn.Dense(channels, use_bias=False, dtype=self.dtype, name="views")(y)
            y = y.reshape(batch, tokens, groups, channels // groups)
        else:  # G neighbouring columns become G rows
            y = y.reshape(batch, tokens, channels // groups, groups).swapaxes(2, 3)
        y = y.reshape(batch, tokens * groups, channels // groups).swapaxes(1, 2)
        is_untied = self.variant == "untied"
        dense = UntiedDense if is_untied else functools.partial(nn.Dense, dot_general=product)
        tokens_after = (tokens + 1) // 2 if self.variant == "pyramid" else tokens * groups
        y = checkpoint_name(dense(self.mlp_dim, dtype=self.dtype, name="Dense_0")(y), "hidden")
        y = gelu(y, self.gelu_approximate)
        y = Dropout(self.dropout_rate)(y, rows, train=train)
        y = dense(tokens_after, dtype=self.dtype, name="Dense_1")(y)
        y = Dropout(self.dropout_rate)(y, rows, train=train)
        y = y.swapaxes(1, 2).reshape(batch, -1, groups, channels // groups)
        if self.variant != "views":
            y = y.swapaxes(2, 3)
        return y.reshape(batch, -1, channels)


class VariantBlock(nn.Module):
    """A mixer block with one of the `VARIANTS` of token mixing."""

    token_mixing: str
    groups: int
    tokens_mlp_dim: int
    channels_mlp_dim: int
    gelu_approximate: bool
    dropout_rate: float
    stochastic_depth_rate: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, rows: jax.Array, train: bool) -> jax.Array:
        mlp_fields = (self.gelu_approximate, self.dropout_rate, self.dtype)
        drop = functools.partial(StochasticDepth, self.stochastic_depth_rate)
        y = LayerNorm(dtype=self.dtype)(x)
        y = TokenMixing(
            self.token_mixing, self.groups, self.tokens_mlp_dim, *mlp_fields, name="token_mixing"
        )(y, rows, train=train)
        x = x + drop()(y, rows, train=train) if y.shape == x.shape else y
        x = checkpoint_name(x, "trunk")
        y = LayerNorm(dtype=self.dtype)(x)
        y = MlpBlock(self.channels_mlp_dim, *mlp_fields, name="channel_mixing")(
            y, rows, train=train
        )
        return x + drop()(y, rows, train=train)


class MixerVariant(MlpMixer):
    """MLP-Mixer with another token mixing.

    Fields, besides those of `MlpMixer`:
      token_mixing: "untied", an MLP per channel; "grouped", over G neighbouring channels at once;
        "views", over G linear views of the channels; "pyramid", to fewer tokens.
      groups: G of "grouped" and "views"; divides the channels.
      halved_after: of "pyramid", the blocks, from 0, whose token mixing halves the tokens; the
        others have Mixer's.

    Source: Appendix A.1.
    """

    token_mixing: str = "grouped"
    groups: int = 2
    halved_after: tuple[int, ...] = ()

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, rows: jax.Array | None = None
    ) -> jax.Array:
        """Returns the logits, as `MlpMixer` does.

        Raises:
          ValueError: also for an unknown `token_mixing`, and `groups` that do not divide the
            channels.
        """
        self._check_fields()
        check_images_shape(images.shape, self.patch_size)
        block_class = rematerialized(VariantBlock, self.remat, static_argnums=(3,))
        rows = jnp.arange(images.shape[0]) if rows is None else rows
        patch = (self.patch_size, self.patch_size)
        x = nn.Conv(self.hidden_dim, patch, strides=patch, dtype=self.dtype, name="stem")(images)
        x = x.reshape(x.shape[0], -1, self.hidden_dim)  # [B, S, C]
        for block in range(self.num_blocks):
            is_mixers = self.token_mixing == "pyramid" and block not in self.halved_after
            x = block_class(
                "" if is_mixers else self.token_mixing,
                self.groups,
                self.tokens_mlp_dim,
                self.channels_mlp_dim,
                self.gelu_approximate,
                self.dropout_rate,
                linear_rate(self.stochastic_depth_rate, block, self.num_blocks),
                self.dtype,
                name=f"MixerBlock_{block}",
            )(x, rows, train)
        x = LayerNorm(dtype=self.dtype, name="pre_head_layer_norm")(x)
        x = jnp.mean(x, axis=1, dtype=jnp.float32)  # [B, C], the pre-logits
        if self.num_classes == 0:
            return x
        return classification_head(self.num_classes, self.head_bias_init)(x)

    def _check_fields(self) -> None:
        if self.token_mixing not in VARIANTS:
            raise unknown_name("token_mixing", self.token_mixing, VARIANTS)
        has_groups = self.token_mixing in ("grouped", "views")
        if has_groups and (self.groups < 1 or self.hidden_dim % self.groups):
            raise ValueError(
                f"Expected groups to divide the {self.hidden_dim} channels; got {self.groups}."
            )
        halved = set(self.halved_after)
        if self.token_mixing == "pyramid" and not (
            halved and len(halved) == len(self.halved_after) and max(halved) < self.num_blocks
        ):
            raise ValueError(
                f"Expected halved_after to name blocks from 0 to {self.num_blocks - 1}, each "
                f"once, such as (0, 2); got {tuple(self.halved_after)}."
            )
