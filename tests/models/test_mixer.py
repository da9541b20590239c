"""The model: sizes, golden outputs, randomness, precision, errors."""

import functools
import pathlib
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import slow_after, slow_unless

from mixer.models import build_model
from mixer.models.mixer import VARIANTS, MixerBlock, MlpBlock, MlpMixer

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"

# Parameters without a head, and with one of 1,000 classes, at 224 x 224. The millions of Table 1
# are the first column, rounded down.
PARAMETER_COUNTS = {
    "S/32": (18_591_624, 19_104_624, 19),
    "S/16": (18_015_264, 18_528_264, 18),
    "B/32": (59_524_428, 60_293_428, 60),
    "B/16": (59_111_472, 59_880_472, 59),
    "L/32": (205_914_264, 206_939_264, 206),
    "L/16": (207_171_168, 208_196_168, 207),
    "H/14": (431_069_952, 432_350_952, 431),
}


@pytest.fixture(scope="module")
def golden():
    params = flax.traverse_util.unflatten_dict(dict(np.load(GOLDEN / "mixer_tiny.npz")), sep="/")
    model = MlpMixer(
        num_classes=7,
        num_blocks=3,
        patch_size=4,
        hidden_dim=24,
        tokens_mlp_dim=20,
        channels_mlp_dim=40,
    )
    return model, params, np.load(GOLDEN / "mixer_tiny.io.npz")


def test_every_variant_has_a_row_of_counts():
    assert VARIANTS.keys() == PARAMETER_COUNTS.keys()


@pytest.mark.parametrize("variant", slow_unless(lambda name: name != "H/14", VARIANTS))
def test_parameter_counts_of_table_1(variant):
    without_head, with_head, table_1_millions = PARAMETER_COUNTS[variant]

    def count(num_classes):
        model = build_model("mixer", variant, num_classes=num_classes)
        images = jnp.zeros((1, 224, 224, 3))
        shapes = jax.eval_shape(model.init, jax.random.key(0), images)
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    assert count(0) == without_head
    assert count(1000) == with_head
    assert round(without_head / 1e6) == table_1_millions


def test_parameter_names_and_shapes_of_the_released_checkpoints():
    model = build_model("mixer", "B/16", num_classes=1000)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))["params"]
    flat = {
        name: leaf.shape
        for name, leaf in flax.traverse_util.flatten_dict(shapes, sep="/").items()
        if "MixerBlock" not in name or "MixerBlock_11/" in name
    }
    assert flat == {
        "stem/kernel": (16, 16, 3, 768),
        "stem/bias": (768,),
        "MixerBlock_11/LayerNorm_0/scale": (768,),
        "MixerBlock_11/LayerNorm_0/bias": (768,),
        "MixerBlock_11/token_mixing/Dense_0/kernel": (196, 384),
        "MixerBlock_11/token_mixing/Dense_0/bias": (384,),
        "MixerBlock_11/token_mixing/Dense_1/kernel": (384, 196),
        "MixerBlock_11/token_mixing/Dense_1/bias": (196,),
        "MixerBlock_11/LayerNorm_1/scale": (768,),
        "MixerBlock_11/LayerNorm_1/bias": (768,),
        "MixerBlock_11/channel_mixing/Dense_0/kernel": (768, 3072),
        "MixerBlock_11/channel_mixing/Dense_0/bias": (3072,),
        "MixerBlock_11/channel_mixing/Dense_1/kernel": (3072, 768),
        "MixerBlock_11/channel_mixing/Dense_1/bias": (768,),
        "pre_head_layer_norm/scale": (768,),
        "pre_head_layer_norm/bias": (768,),
        "head/kernel": (768, 1000),
        "head/bias": (1000,),
    }


@pytest.mark.fully_compiled
def test_golden_logits_and_pre_logits(golden):
    model, params, io = golden
    logits = jax.jit(model.apply)({"params": params}, io["images"])
    pre_logits = jax.jit(model.clone(num_classes=0).apply)({"params": params}, io["images"])
    np.testing.assert_allclose(logits, io["logits"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(pre_logits, io["pre_logits"], rtol=0, atol=1e-5)


def test_exact_gelu_differs_from_the_tanh_approximation_by_little(golden):
    model, params, io = golden
    exact = jax.jit(model.clone(gelu_approximate=False).apply)({"params": params}, io["images"])
    difference = np.abs(exact - io["logits"]).max()
    assert 1e-6 < difference < 1e-2


def test_bfloat16_computes_in_bfloat16_but_keeps_params_and_logits_in_float32(golden):
    model, params, io = golden
    model = model.clone(dtype="bfloat16")
    logits, state = model.apply(
        {"params": params}, io["images"], capture_intermediates=True, mutable="intermediates"
    )
    block_output = state["intermediates"]["MixerBlock_1"]["__call__"][0]
    assert block_output.dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, io["logits"], rtol=0, atol=0.1)
    fresh = jax.eval_shape(model.init, jax.random.key(0), io["images"])
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}


def test_parameters_are_float32_where_jax_computes_in_float64(golden):
    model, _, io = golden
    with jax.enable_x64(True):
        fresh = jax.eval_shape(model.init, jax.random.key(0), io["images"])
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}


def test_initial_head_is_zero_with_the_given_bias():
    model = build_model("mixer", "S/32", num_classes=5, num_blocks=1, head_bias_init=-6.9)
    images = jax.random.normal(jax.random.key(1), (2, 64, 64, 3))
    logits, _ = jax.jit(model.init_with_output)(jax.random.key(0), images)
    np.testing.assert_allclose(logits, np.full((2, 5), -6.9), rtol=1e-6)


def test_dropout_acts_after_the_gelu_and_after_the_second_layer():
    block = MlpBlock(mlp_dim=4, dropout_rate=0.5)
    x = jnp.ones((2000, 3))
    params = {
        "Dense_0": {"kernel": jnp.zeros((3, 4)), "bias": jnp.full(4, 100.0)},  # gelu(100) = 100
        "Dense_1": {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)},
    }
    rows = jnp.arange(2000)
    rngs = {"dropout": jax.random.key(0)}
    apply = jax.jit(block.apply, static_argnames="train")
    y = apply({"params": params}, x, rows, train=True, rngs=rngs)
    # k of 4 hidden units are kept (100 / 0.5 each), then each of the 3 outputs with 1/2 (/ 0.5):
    # values 0, 400, 800, 1200, 1600, and within an example all kept outputs are the same.
    assert set(np.unique(y)) == {0.0, 400.0, 800.0, 1200.0, 1600.0}
    assert all(len(np.unique(row[row > 0])) <= 1 for row in np.asarray(y))
    # P(output is 0) = 1/2 + 1/2 * P(no hidden unit kept) = 1/2 + 1/32.
    assert np.mean(np.asarray(y) == 0) == pytest.approx(0.5 + 1 / 32, abs=0.02)
    # The expectation is the value without dropout.
    assert np.mean(y) == pytest.approx(400.0, rel=0.05)
    evaluated = block.apply({"params": params}, x, rows, train=False)
    np.testing.assert_allclose(evaluated, np.full((2000, 3), 400.0))


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_a_block_takes_the_mesh_of_a_caller(kind):
    block = MlpBlock(mlp_dim=4, row_major=True)  # all branches are traced, a TPU's, too
    x = jax.random.normal(jax.random.key(0), (8, 3))
    params = block.init(jax.random.key(1), x, jnp.arange(8), train=False)
    axis_types = (getattr(jax.sharding.AxisType, kind),) * 2
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types)
    batch = jax.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    apply = jax.jit(lambda x: block.apply(params, x, jnp.arange(8), train=False))
    np.testing.assert_allclose(apply(jax.device_put(x, batch)), apply(x), rtol=1e-6)


def test_the_two_branches_of_a_block_have_independent_masks():
    block = MixerBlock(tokens_mlp_dim=2, channels_mlp_dim=2, stochastic_depth_rate=0.5)
    x = jnp.zeros((4000, 2, 3))
    rows = jnp.arange(4000)
    shapes = jax.eval_shape(lambda x: block.init(jax.random.key(0), x, rows, train=False), x)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes["params"])
    params["token_mixing"]["Dense_1"]["bias"] = jnp.array([1.0, 1.0])
    params["channel_mixing"]["Dense_1"]["bias"] = jnp.array([10.0, 10.0, 10.0])
    apply = jax.jit(block.apply, static_argnames="train")
    y = apply({"params": params}, x, rows, train=True, rngs={"dropout": jax.random.key(1)})
    # A whole example keeps or drops a branch: its value is 0, 1, 10 or 11, a quarter each.
    assert np.ptp(y, axis=(1, 2)).max() == 0
    values, counts = np.unique(y[:, 0, 0], return_counts=True)
    assert values.tolist() == [0.0, 1.0, 10.0, 11.0]
    np.testing.assert_allclose(counts / 4000, 0.25, atol=0.03)


def test_stochastic_depth_spares_the_first_block_and_evaluation(tiny_mixer):
    model = tiny_mixer.clone(dropout_rate=0.0, stochastic_depth_rate=1.0)
    images = jax.random.normal(jax.random.key(0), (3, 8, 8, 3))
    params = jax.jit(model.init)(jax.random.key(1), images)["params"]
    params["head"]["kernel"] = jax.random.normal(jax.random.key(2), params["head"]["kernel"].shape)
    apply = jax.jit(model.apply, static_argnames="train")
    trained = apply({"params": params}, images, train=True, rngs={"dropout": jax.random.key(3)})
    # With rate 1 at the last of two blocks, only the first block is left.
    one_block = jax.jit(model.clone(num_blocks=1).apply)({"params": params}, images)
    np.testing.assert_allclose(trained, one_block, rtol=1e-6)
    evaluated = apply({"params": params}, images)
    assert np.abs(evaluated - one_block).max() > 1e-3


@functools.cache
def gradient_and_kept(model: MlpMixer) -> tuple[Any, int]:
    """Returns the gradient of a loss, and how many values are kept for it."""
    images = jax.random.normal(jax.random.key(0), (3, 8, 8, 3))
    params = jax.jit(model.init)(jax.random.key(1), images)["params"]
    params["head"]["kernel"] = jax.random.normal(jax.random.key(2), params["head"]["kernel"].shape)

    def loss(params):
        rngs = {"dropout": jax.random.key(3)}
        return jnp.sum(model.apply({"params": params}, images, train=True, rngs=rngs) ** 2)

    apply = lambda params: model.apply({"params": params}, images)  # noqa: E731
    vjp = jax.eval_shape(lambda params: jax.vjp(apply, params)[1], params)
    kept = sum(leaf.size for leaf in jax.tree.leaves(vjp))
    return jax.jit(jax.grad(loss))(params), kept


@pytest.mark.parametrize("remat", slow_after(1, ["block", "elementwise"]))
def test_what_is_computed_again_changes_no_gradient(tiny_mixer, remat):
    plain, kept = gradient_and_kept(tiny_mixer)
    again, kept_again = gradient_and_kept(tiny_mixer.clone(remat=remat))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert kept_again < kept


def test_an_unknown_remat_is_refused(tiny_mixer):
    with pytest.raises(ValueError, match="Unknown remat 'blok'.*Did you mean 'block'"):
        tiny_mixer.clone(remat="blok").apply({}, np.zeros((1, 8, 8, 3)))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((16, 16, 3), r"rank 4, \[batch, height, width, channels\]; got shape \(16, 16, 3\)"),
        ((1, 17, 16, 3), r"multiples of patch_size=4; got 17 x 16.*height 16 or 20, width 16\."),
        ((1, 3, 20, 3), r"got 3 x 20. Nearest that fit: height 4, width 20\."),
    ],
)
def test_images_that_do_not_fit_are_refused(golden, shape, message):
    model, params, _ = golden
    with pytest.raises(ValueError, match=message):
        model.apply({"params": params}, np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mixr", "B/16"), "Unknown model 'mixr'.*Did you mean 'mixer'"),
        (("mixer", "B/61"), "Unknown variant of mixer 'B/61'.*Did you mean 'B/16'"),
        (("mixer", "B/16", ("num_class", 3)), "'num_class'.*Did you mean 'num_classes'"),
        (("mixer", None), "needs num_classes, num_blocks.*S/16"),
    ],
)
def test_models_that_do_not_exist_are_refused(arguments, message):
    name, variant, *fields = arguments
    with pytest.raises(ValueError, match=message):
        build_model(name, variant, **dict(fields))
