"""Counted FLOPs against those computed by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from mixer.flops import matmul_flops, train_flops_per_image
from mixer.models import build_model


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_dense_layers():
    # 7 rows, 5 terms, 3 outputs
    assert matmul_flops(jnp.dot, floats(7, 5), floats(5, 3)) == 2 * 7 * 5 * 3
    # two batch dimensions of 4 and 2; 5 terms
    assert matmul_flops(jnp.matmul, floats(4, 2, 7, 5), floats(4, 2, 5, 3)) == 2 * 8 * 7 * 5 * 3
    # two contracted dimensions
    count = matmul_flops(lambda a, b: jnp.einsum("xij,ijy", a, b), floats(7, 5, 2), floats(5, 2, 3))
    assert count == 2 * 7 * (5 * 2) * 3
    assert matmul_flops(lambda x: jnp.exp(x).sum(), floats(7, 5)) == 0


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions(groups):
    conv = nn.Conv(6, (3, 5), strides=(2, 2), padding="VALID", feature_group_count=groups)
    images = floats(7, 9, 11, 4)
    params = jax.eval_shape(conv.init, jax.random.key(0), images)
    # (9 - 3) / 2 + 1 = 4 rows, (11 - 5) / 2 + 1 = 4 columns, 6 channels of 3 x 5 x 4 terms
    assert matmul_flops(conv.apply, params, images) == 2 * 7 * 4 * 4 * 6 * (3 * 5 * 4 // groups)


def dot(x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ x)


@jax.custom_jvp
def dot_with_jvp(x: jax.Array) -> jax.Array:
    return dot(x)


@jax.custom_vjp
def dot_with_vjp(x: jax.Array) -> jax.Array:
    return dot(x)


dot_with_jvp.defjvp(lambda primals, tangents: (dot(primals[0]), dot(dot(tangents[0]))))
dot_with_vjp.defvjp(lambda x: (dot(dot(x)), x), lambda x, tangent: (dot(dot(tangent)),))


@pytest.mark.parametrize(
    ("function", "products"),
    [
        (jax.jit(dot), 1),
        (jax.checkpoint(dot), 1),
        (dot_with_jvp, 1),
        (dot_with_vjp, 1),
        (jax.jit(lambda x: jax.checkpoint(dot)(x) @ x), 2),
        (lambda x: jax.lax.scan(lambda y, _: (dot(dot(y)), None), x, length=5)[0], 10),
        (lambda x: jax.lax.fori_loop(0, 5, lambda _, y: dot(y), x), 5),
        (lambda x: jax.lax.cond(x[0, 0] > 0, lambda y: dot(dot(dot(y))), dot, x), 3),
        (lambda x: jax.lax.while_loop(lambda y: y[0, 0] < 9, lambda y: y + 1, dot(x)), 1),
    ],
)
def test_what_is_inside_of_other_equations(function, products):
    assert matmul_flops(function, floats(3, 3)) == products * 2 * 3**3


def test_a_loop_without_a_known_length_is_refused():
    loop = lambda x: jax.lax.while_loop(lambda y: y[0, 0] < 9, dot, x)  # noqa: E731
    with pytest.raises(ValueError, match="can be counted; got one in a 'while'"):
        matmul_flops(loop, floats(3, 3))


def test_mixer_b16():
    model = build_model("mixer", "B/16", num_classes=1000)
    images = floats(1, 224, 224, 3)
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    # Table 1: 12 blocks, C = 768, D_S = 384, D_C = 3072; S = (224 / 16)^2 = 196. Multiply-adds:
    stem = 115_605_504  # 196 x 768 x (16 x 16 x 3)
    token_mixing = 115_605_504  # 768 x 196 x 384, twice
    channel_mixing = 924_844_032  # 196 x 768 x 3072, twice
    head = 768_000  # 768 x 1000
    forward = 2 * (stem + 12 * (token_mixing + channel_mixing) + head)
    assert forward == 25_203_535_872
    assert matmul_flops(lambda p, x: model.apply({"params": p}, x), params, images) == forward
    assert train_flops_per_image(model, params, 224) == 75_610_607_616


def test_the_backward_pass_of_the_model_asks_for_nearly_twice_the_forward_pass(tiny_mixer):
    images = floats(1, 8, 8, 3)
    params = jax.eval_shape(tiny_mixer.init, jax.random.key(0), images)["params"]
    loss = lambda p, x: tiny_mixer.apply({"params": p}, x).sum()  # noqa: E731
    stem = 2 * 16 * 16 * (2 * 2 * 3)  # S = C = 16; its images need no gradient
    exact = train_flops_per_image(tiny_mixer, params, 8) - stem
    assert matmul_flops(jax.grad(loss), params, images) == exact
