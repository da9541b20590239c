"""GELU, with a gradient of its own."""

import functools

import flax.linen as nn
import jax
from jax import lax


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gelu(x: jax.Array, approximate: bool) -> jax.Array:
    """Returns GELU of `x`, with a tanh if `approximate`, else exact.

    The gradient keeps `x` alone. On a CPU it computes the tanh or erf again, which takes less time
    than to write and read it: 4% of the training step of S/16 (docs/performance.md). Elsewhere the
    compiler is free to keep it.
    """
    return nn.gelu(x, approximate=approximate)


def _forward(x: jax.Array, approximate: bool) -> tuple[jax.Array, jax.Array]:
    return gelu(x, approximate), x


def _backward(approximate: bool, x: jax.Array, grad: jax.Array) -> tuple[jax.Array]:
    x = lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)
    _, gradient = jax.vjp(functools.partial(nn.gelu, approximate=approximate), x)
    return gradient(grad)


gelu.defvjp(_forward, _backward)
