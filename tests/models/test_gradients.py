"""The layers with gradients of their own compute what Flax's do."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer.models.gelu import gelu
from mixer.models.layer_norm import LayerNorm
from mixer.models.product import product

SHAPE = (3, 5, 8)


def random(seed: int, shape: tuple[int, ...], dtype: str = "float32") -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def value_and_gradients(function, *args):
    """Returns the value and the gradients of its product with random numbers."""

    @jax.jit
    def run(*args):
        value, gradient = jax.vjp(function, *args)
        return value, gradient(random(99, value.shape, value.dtype))

    return run(*args)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 0.0)])
def test_product(dtype, tolerance):
    args = random(0, SHAPE, dtype), random(1, (8, 6), dtype)
    ours, flax = (
        value_and_gradients(nn.Dense(6, dtype=dtype, use_bias=False, dot_general=dot).apply, *pair)
        for dot, pair in (
            (product, ({"params": {"kernel": args[1]}}, args[0])),
            (jax.lax.dot_general, ({"params": {"kernel": args[1]}}, args[0])),
        )
    )
    assert ours[0].dtype == dtype
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=tolerance), ours, flax)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 0.06)])
def test_layer_norm(dtype, tolerance):
    x = (3.0 * random(0, SHAPE) + 2.0).astype(dtype)
    params = {"params": {"scale": random(1, (8,)), "bias": random(2, (8,))}}
    ours = value_and_gradients(LayerNorm(dtype=dtype).apply, params, x)
    flax = value_and_gradients(nn.LayerNorm(dtype=dtype).apply, params, x)
    np.testing.assert_array_equal(ours[0], flax[0])
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=tolerance), ours[1], flax[1])
    gradients = jax.tree.leaves(ours[1])
    assert [leaf.dtype for leaf in gradients] == ["float32", "float32", dtype]
    assert min(float(jnp.std(leaf.astype("float32"))) for leaf in gradients) > 0.1


@pytest.mark.parametrize("approximate", [True, False])
def test_gelu(approximate):
    x = 3.0 * random(0, SHAPE)
    ours = value_and_gradients(lambda x: gelu(x, approximate), x)
    flax = value_and_gradients(functools.partial(nn.gelu, approximate=approximate), x)
    np.testing.assert_array_equal(ours[0], flax[0])
    np.testing.assert_allclose(ours[1][0], flax[1][0], atol=1e-6)
    assert float(jnp.std(ours[1][0])) > 0.1
