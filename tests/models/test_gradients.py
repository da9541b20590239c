"""The layers and the model have Flax's values and derivatives, in every mode and of any order."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import slow_after
from jax.flatten_util import ravel_pytree

from mixer.benchmark.plain_flax import PlainMixer
from mixer.models.layers import LayerNorm, gelu, product
from mixer.models.mixer import MlpMixer
from mixer.sharding import batch_sharding, create_mesh

# XLA fuses, and has fused wrongly, only where it optimizes.
pytestmark = pytest.mark.fully_compiled

SHAPE = (3, 5, 8)
SIZE = {
    "num_classes": 3,
    "num_blocks": 1,
    "patch_size": 4,
    "hidden_dim": 6,
    "tokens_mlp_dim": 4,
    "channels_mlp_dim": 8,
}


def random(seed: int, shape: tuple[int, ...], dtype: str = "float32") -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def value_and_gradients(function, *args):
    """Returns the value and the gradients of its product with random numbers."""

    @jax.jit
    def run(*args):
        value, gradient = jax.vjp(function, *args)
        return value, gradient(random(99, value.shape, value.dtype))

    return run(*args)


def kept(function, *args) -> list[tuple[int, ...]]:
    """Returns the shapes of what the backward pass keeps."""
    return sorted(leaf.shape for leaf in jax.tree.leaves(jax.vjp(function, *args)[1]))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), slow_after(1, [("float32", 2e-6), ("bfloat16", 0.0)])
)
def test_product(dtype, tolerance):
    x, params = random(0, SHAPE, dtype), {"params": {"kernel": random(1, (8, 6), dtype)}}
    dense = functools.partial(nn.Dense, 6, dtype=dtype, use_bias=False)
    ours = value_and_gradients(dense(dot_general=product).apply, params, x)
    flax = value_and_gradients(dense().apply, params, x)
    assert ours[0].dtype == dtype
    np.testing.assert_array_equal(ours[0], flax[0])
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=tolerance), ours[1], flax[1])


@pytest.mark.parametrize(
    ("dtype", "tolerance"), slow_after(1, [("float32", 2e-6), ("bfloat16", 0.06)])
)
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
    statistic = (*SHAPE[:-1], 1)
    assert kept(LayerNorm(dtype=dtype).apply, params, x) == [statistic, statistic, SHAPE, (8,)]


@pytest.mark.parametrize("epsilon", slow_after(1, [1e-5, 1e-6, 0.5]))
def test_the_epsilon_of_a_layer_norm(epsilon):
    x = 0.01 * random(0, SHAPE)  # with a variance of 1e-4
    params = {"params": {"scale": random(1, (8,)), "bias": random(2, (8,))}}
    ours = value_and_gradients(LayerNorm(epsilon=epsilon).apply, params, x)
    flax = value_and_gradients(nn.LayerNorm(epsilon=epsilon).apply, params, x)
    np.testing.assert_array_equal(ours[0], flax[0])
    for a, b in zip(jax.tree.leaves(ours[1]), jax.tree.leaves(flax[1]), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * np.abs(b).max())


@pytest.mark.parametrize("approximate", [True, False])
def test_gelu(approximate):
    x = 3.0 * random(0, SHAPE)
    ours = value_and_gradients(lambda x: gelu(x, approximate), x)
    flax = value_and_gradients(functools.partial(nn.gelu, approximate=approximate), x)
    np.testing.assert_array_equal(ours[0], flax[0])
    np.testing.assert_allclose(ours[1][0], flax[1][0], atol=1e-6)
    assert float(jnp.std(ours[1][0])) > 0.1
    assert kept(lambda x: gelu(x, approximate), x) == [SHAPE]


@pytest.mark.parametrize("mode", slow_after(1, ["vjp", "jvp"]))
def test_layer_norm_of_many_tangents(mode):
    # At these shapes XLA's sums of `broadcast * x` are wrong (jaxlib 0.10.2, CPU).
    x, many = random(0, (4, 16, 16)), random(1, (64, 4, 16, 16))
    params = {"params": {"scale": random(2, (16,)), "bias": random(3, (16,))}}

    def derivative(layer, x, tangent):
        function = functools.partial(layer.apply, params)
        if mode == "jvp":
            return jax.jvp(function, (x,), (tangent,))[1]
        return jax.vjp(function, x)[1](tangent)[0]

    at_once = jax.jit(jax.vmap(functools.partial(derivative, LayerNorm(), x)))(many)
    one = jax.jit(functools.partial(derivative, nn.LayerNorm(), x))
    np.testing.assert_allclose(at_once, [one(tangent) for tangent in many], atol=1e-5)
    assert float(jnp.std(at_once)) > 0.1


def derivatives(model: nn.Module, images: jax.Array, for_each=jax.vmap) -> dict[str, jax.Array]:
    """Returns derivatives of the logits and of a loss, all parameters being one vector."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    w, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes))
    w, v = random(1, w.shape), random(2, w.shape)

    def logits(w, x=images):
        return model.apply({"params": unravel(w)}, x)

    def loss(w, x=images):
        return jnp.sum(jnp.sin(logits(w, x)))

    def along_v(function):
        return lambda w, *x: jax.jvp(lambda w: function(w, *x), (w,), (v,))[1]

    gradient = jax.grad(loss)
    return {
        "grad": gradient(w),
        "jvp": along_v(logits)(w),
        "linearize": jax.linearize(logits, w)[1](v),
        "jacfwd": jax.jacfwd(logits)(w),
        "jacrev": jax.jacrev(logits)(w),
        "jacfwd of the images": jax.jacfwd(logits, 1)(w, images),
        "jacrev of the images": jax.jacrev(logits, 1)(w, images),
        "hessian": jax.hessian(loss)(w),
        "forward over reverse": along_v(gradient)(w),
        "reverse over forward": jax.grad(along_v(loss))(w),
        "reverse over reverse": jax.grad(lambda w: jnp.vdot(gradient(w), v))(w),
        "of a checkpoint": along_v(jax.grad(jax.checkpoint(loss)))(w),
        "per example": for_each(lambda x: gradient(w, x[None]))(images),
        "second per example": for_each(lambda x: along_v(gradient)(w, x[None]))(images),
    }


@pytest.mark.slow  # 40 s of compilation; the layers' derivatives are tested above
def test_a_mixer_has_every_derivative_of_a_plain_one_also_on_eight_devices():
    ours, plain = MlpMixer(**SIZE), PlainMixer(**SIZE, dtype="float32")
    images, mesh = random(0, (8, 8, 8, 3)), create_mesh()
    divided = jax.device_put(images, batch_sharding(mesh))

    # Without shard_map XLA's partitioner gets the stem's per-example gradient wrong, also Flax's.
    def on_each_device(function):
        spec = divided.sharding.spec
        function = jax.vmap(function)
        return jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)

    @jax.jit
    def some(images):
        every = derivatives(ours, images, on_each_device)
        names = ("jvp", "forward over reverse", "reverse over reverse", "second per example")
        return {name: every[name] for name in names}

    run = jax.jit(derivatives, static_argnums=0)
    expected = jax.device_get(run(plain, images))
    for results in (run(ours, images), some(divided)):
        for name, result in results.items():
            size = np.abs(expected[name]).max()
            assert size > 0.1
            np.testing.assert_allclose(result, expected[name], atol=1e-5 * size, err_msg=name)

    # The plain model's are what they are called.
    np.testing.assert_allclose(expected["jacfwd"], expected["jacrev"], atol=1e-5)
    along_v = expected["hessian"] @ random(2, expected["grad"].shape)
    np.testing.assert_allclose(along_v, expected["forward over reverse"], atol=1e-3)
