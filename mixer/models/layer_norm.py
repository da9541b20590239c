"""Layer normalisation over the channels, with a gradient of its own."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

_EPSILON = 1e-6  # flax's, with which the released weights were trained


@jax.custom_vjp
def _normalize(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    mean, inverse = _statistics(x)
    return (x - mean) * (inverse * scale) + bias


def _statistics(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = x.astype(jnp.float32)
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(lax.square(x), axis=-1, keepdims=True) - lax.square(mean)
    return mean, lax.rsqrt(jnp.maximum(variance, 0.0) + _EPSILON)


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, Any]:
    mean, inverse = _statistics(x)
    return (x - mean) * (inverse * scale) + bias, (x, mean, inverse, scale)


def _backward(saved: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, mean, inverse, scale = saved
    normalized = (x - mean) * inverse
    rows = tuple(range(x.ndim - 1))
    grad_scale, grad_bias = jnp.sum(grad * normalized, rows), jnp.sum(grad, rows)
    grad = grad * scale
    along = jnp.mean(grad * normalized, axis=-1, keepdims=True)
    grad_x = inverse * (grad - jnp.mean(grad, axis=-1, keepdims=True) - normalized * along)
    return grad_x.astype(x.dtype), grad_scale, grad_bias


_normalize.defvjp(_forward, _backward)


class LayerNorm(nn.Module):
    """Normalises `[..., C]` over C, then scales and shifts; statistics in float32, out in `dtype`.

    What `flax.linen.LayerNorm` computes, bit for bit.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return _normalize(x, scale, bias).astype(self.dtype)
