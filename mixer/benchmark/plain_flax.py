"""Peer: Mixer (Appendix E), ViT and a training step in plain flax, not tuned for speed.

The parameter trees are those of `mixer.models`, so that a test can compare the two.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from mixer.benchmark.timing import Workload
from mixer.benchmark.workloads import NUM_CLASSES, chained, repeated


class MlpBlock(nn.Module):
    """Two dense layers with a GELU between them."""

    mlp_dim: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.gelu(nn.Dense(self.mlp_dim, dtype=self.dtype)(x))
        return nn.Dense(x.shape[-1], dtype=self.dtype)(y)


class MixerBlock(nn.Module):
    """Token mixing followed by channel mixing, on `[batch, tokens, channels]`."""

    tokens_mlp_dim: int
    channels_mlp_dim: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = jnp.swapaxes(nn.LayerNorm(dtype=self.dtype)(x), 1, 2)
        y = MlpBlock(self.tokens_mlp_dim, self.dtype, name="token_mixing")(y)
        x = x + jnp.swapaxes(y, 1, 2)
        y = nn.LayerNorm(dtype=self.dtype)(x)
        return x + MlpBlock(self.channels_mlp_dim, self.dtype, name="channel_mixing")(y)


class PlainMixer(nn.Module):
    """Maps images `[batch, height, width, 3]` to logits `[batch, num_classes]`."""

    num_classes: int
    num_blocks: int
    patch_size: int
    hidden_dim: int
    tokens_mlp_dim: int
    channels_mlp_dim: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        patch = (self.patch_size, self.patch_size)
        x = nn.Conv(self.hidden_dim, patch, strides=patch, dtype=self.dtype, name="stem")(images)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        for block in range(self.num_blocks):
            dims = (self.tokens_mlp_dim, self.channels_mlp_dim)
            x = MixerBlock(*dims, self.dtype, name=f"MixerBlock_{block}")(x)
        x = nn.LayerNorm(dtype=self.dtype, name="pre_head_layer_norm")(x)
        x = jnp.mean(x, axis=1)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="head")(x)


class EncoderBlock(nn.Module):
    """Flax's self-attention followed by an MLP, on `[batch, tokens, channels]`."""

    mlp_dim: int
    num_heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.LayerNorm(dtype=self.dtype, name="LayerNorm_0")(x)
        x = x + nn.MultiHeadDotProductAttention(
            self.num_heads, dtype=self.dtype, name="MultiHeadDotProductAttention_1"
        )(y)
        y = nn.LayerNorm(dtype=self.dtype, name="LayerNorm_2")(x)
        return x + MlpBlock(self.mlp_dim, self.dtype, name="MlpBlock_3")(y)


class Encoder(nn.Module):
    """Position embedding, blocks and a last normalisation."""

    num_blocks: int
    mlp_dim: int
    num_heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = AddPosition(self.dtype, name="posembed_input")(x)
        for block in range(self.num_blocks):
            dims = (self.mlp_dim, self.num_heads)
            x = EncoderBlock(*dims, self.dtype, name=f"encoderblock_{block}")(x)
        return nn.LayerNorm(dtype=self.dtype, name="encoder_norm")(x)


class AddPosition(nn.Module):
    """Adds the position embedding."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.normal(0.02)
        return x + self.param("pos_embedding", init, (1, *x.shape[1:])).astype(self.dtype)


class PlainViT(nn.Module):
    """Maps images `[batch, height, width, 3]` to logits `[batch, num_classes]`; a class token."""

    num_classes: int
    num_blocks: int
    patch_size: int
    hidden_dim: int
    mlp_dim: int
    num_heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        patch = (self.patch_size, self.patch_size)
        stem = nn.Conv(self.hidden_dim, patch, strides=patch, dtype=self.dtype, name="embedding")
        x = stem(images)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        token = self.param("cls", nn.initializers.zeros, (1, 1, self.hidden_dim)).astype(x.dtype)
        x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], axis=1)
        dims = (self.num_blocks, self.mlp_dim, self.num_heads)
        x = Encoder(*dims, self.dtype, name="Transformer")(x)[:, 0]
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="head")(x)


_PLAIN: dict[str, type[nn.Module]] = {"mixer": PlainMixer, "vit": PlainViT}


def plain_model(name: str, *, num_classes: int, dtype: str, size: Mapping[str, Any]) -> nn.Module:
    """Returns the model of a family; `size` has its dimensions, and what else is left out.

    Raises:
      NotImplementedError: the family is neither Mixer nor ViT.
    """
    if name not in _PLAIN:
        raise NotImplementedError(f"{name} is not written in plain flax")
    dims = {key: value for key, value in size.items() if key in _PLAIN[name].__annotations__}
    return _PLAIN[name](**{**dims, "num_classes": num_classes, "dtype": dtype})


def plain_training(model: nn.Module) -> tuple[Callable[[Any], Any], Callable[..., Any]]:
    """Returns (params -> state) and the step, (state, images, targets) -> (next state, loss).

    Images are float32 `[B, H, W, 3]`, targets float32 `[B, num_classes]`.
    """
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))

    def init(params: Any) -> Any:
        return params, optimizer.init(params)

    def train(state: Any, images: jax.Array, targets: jax.Array) -> Any:
        def mean_loss(params: Any) -> jax.Array:
            logits: Any = model.apply({"params": params}, images)
            losses = optax.sigmoid_binary_cross_entropy(logits, targets)
            return jnp.mean(jnp.sum(losses, axis=-1))

        params, opt_state = state
        loss, grads = jax.value_and_grad(mean_loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), loss

    return init, train


def plain_flax(
    name: str, size: dict[str, Any], *, mode: str, batch_size: int, image_size: int, dtype: str
) -> Workload:
    """Returns training or inference on random float images; `size` has the model's dimensions.

    Raises:
      NotImplementedError: as `plain_model`.
    """
    model = plain_model(name, num_classes=NUM_CLASSES, dtype=dtype, size=size)
    images = jax.random.normal(jax.random.key(0), (batch_size, image_size, image_size, 3))
    params = jax.jit(model.init)(jax.random.key(2), images[:1])["params"]
    if mode == "infer":
        infer = jax.jit(lambda params, images: model.apply({"params": params}, images))
        return repeated(infer, params, images)
    labels = jax.random.randint(jax.random.key(1), (batch_size,), 0, NUM_CLASSES)
    init, train = plain_training(model)
    step = jax.jit(train, donate_argnums=0)
    return chained(step, jax.jit(init)(params), images, jax.nn.one_hot(labels, NUM_CLASSES))
