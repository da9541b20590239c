"""The product, GELU and layer normalisation of a block: Flax's values, with faster derivatives.

They can be differentiated in any mode and to any order. docs/performance.md has what each saves.
Below them, the head of all models.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from mixer.models.platforms import platform_dependent


def product(
    x: jax.Array, kernel: jax.Array, dimension_numbers: Any, *_: Any, **__: Any
) -> jax.Array:
    """Returns `[..., *K]` times `[*K, *N]`, for `lax.dot_general` in Flax's Dense and DenseGeneral.

    The rows are one dimension. With several, XLA would copy the gradient of a hidden activation,
    transposed, for the gradient of the kernel: 8% of the training step of S/16 on a CPU.
    """
    contracted = len(dimension_numbers[0][1])  # dimensions K
    terms = math.prod(kernel.shape[:contracted])
    rows = lax.dot(x.reshape(-1, terms), kernel.reshape(terms, -1))
    return rows.reshape(*x.shape[: x.ndim - contracted], *kernel.shape[contracted:])


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def gelu(x: jax.Array, approximate: bool) -> jax.Array:
    """Returns GELU of `x`, with a tanh if `approximate`, else exact.

    The backward pass keeps `x` alone. On a CPU it computes the tanh or erf again, which takes less
    time than writing and reading it: 4% of the training step of S/16. Elsewhere the compiler is
    free to keep it.
    """
    return nn.gelu(x, approximate=approximate)


@gelu.defjvp
def _gelu_jvp(approximate: bool, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def tangent(x: jax.Array, dx: jax.Array) -> jax.Array:
        x = platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)
        return jax.jvp(functools.partial(nn.gelu, approximate=approximate), (x,), (dx,))[1]

    return gelu(*primals, approximate), tangent(*primals, *tangents)


class LayerNorm(nn.Module):
    """Normalises `[..., C]` over C, then scales and shifts; statistics in float32, out in `dtype`.

    What `flax.linen.LayerNorm` computes, bit for bit. The backward pass keeps the input and its
    statistics alone.
    """

    dtype: DTypeLike = jnp.float32
    epsilon: float = 1e-6  # flax's, with which the released weights were trained

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        return _normalize(x, scale, bias, self.epsilon).astype(self.dtype)


def classification_head(num_classes: int, bias_init: float) -> nn.Dense:
    """Returns the layer `head` in float32: its kernel starts from zeros, its bias as given."""
    return nn.Dense(
        num_classes,
        kernel_init=nn.initializers.zeros,
        bias_init=nn.initializers.constant(bias_init),
        name="head",
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    mean, inverse = _statistics(x, epsilon)
    return (x - mean) * (inverse * scale) + bias


def _statistics(x: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
    x = x.astype(jnp.float32)
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(lax.square(x), axis=-1, keepdims=True) - lax.square(mean)
    return mean, lax.rsqrt(jnp.maximum(variance, 0.0) + epsilon)


@_normalize.defjvp
def _normalize_jvp(epsilon: float, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    x, scale, _ = primals
    statistics = _statistics(x, epsilon)
    return _normalize(*primals, epsilon), _normalize_tangent(x, *statistics, scale, *tangents)


@functools.partial(jax.checkpoint, prevent_cse=False)
def _normalize_tangent(
    x: jax.Array,
    mean: jax.Array,
    inverse: jax.Array,
    scale: jax.Array,
    dx: jax.Array,
    dscale: jax.Array,
    dbias: jax.Array,
) -> jax.Array:
    # Its transpose is the backward pass. Tangents are first factors: under vmap, XLA's sums of
    # `broadcast * dx` can be wrong on a CPU (docs/performance.md). Only means are negated: a
    # negated activation would have to be computed before the sums of the transpose.
    normalized = (x - mean) * inverse
    dx = dx * inverse
    minus_mean = -jnp.mean(dx, axis=-1, keepdims=True)
    minus_along = -jnp.mean(dx * normalized, axis=-1, keepdims=True)
    dx = dx + minus_mean + minus_along * normalized
    return dx * scale + dscale * normalized + dbias
