"""ViT, BiT-ResNet and gMLP: what they start from, randomness, gradients, precision, errors."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import slow_unless

from mixer.models import build_model
from tests.models.tiny import TINY, random_params, tiny_model

IMAGES = np.random.default_rng(1).normal(size=(4, 16, 16, 3)).astype(np.float32)


ONE_BLOCK = {"vit": {"num_blocks": 1}, "bit": {"block_sizes": (1,)}, "gmlp": {"num_blocks": 1}}


@pytest.fixture(scope="module")
def params():
    return {family: random_params(tiny_model(family), IMAGES) for family in TINY}


@pytest.mark.parametrize("family", slow_unless(lambda family: family == "gmlp", TINY))
def test_gradients_are_finite_whatever_is_computed_again(family):
    few = ONE_BLOCK[family]
    some = random_params(tiny_model(family, **few), IMAGES)

    def mean_loss(params, remat):
        rngs, model = {"dropout": jax.random.key(3)}, tiny_model(family, remat=remat, **few)
        logits = model.apply({"params": params}, IMAGES, train=True, rngs=rngs)
        return jnp.mean(jnp.square(logits))

    def kept(remat):
        loss = functools.partial(mean_loss, remat=remat)
        vjp = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], some)
        return sum(leaf.size for leaf in jax.tree.leaves(vjp))

    gradients = jax.jit(jax.value_and_grad(mean_loss), static_argnums=1)
    loss, plain = gradients(some, "none")
    size = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain))
    assert np.isfinite(loss)
    # All but the biases of the keys, which shift all logits of the attention alike.
    for path, leaf in jax.tree.leaves_with_path(plain):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 1e-6 * size or path[-2].key == "key"
    assert kept("block") < kept("elementwise") < kept("none")
    if family != "gmlp":  # whose blocks are called as those of ViT are
        again_loss, again = gradients(some, "elementwise")
        np.testing.assert_allclose(again_loss, loss, rtol=1e-5)
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * size)


@pytest.mark.parametrize("family", TINY)
def test_an_example_has_the_masks_of_its_row_in_any_part_of_the_batch(family, params):
    model = tiny_model(family)

    @jax.jit
    def apply(images, rows, key):
        return model.apply(
            {"params": params[family]}, images, train=True, rows=rows, rngs={"dropout": key}
        )

    rows, key = jnp.arange(4), jax.random.key(3)
    whole = apply(IMAGES, rows, key)
    part = apply(jnp.concatenate([IMAGES[1::2]] * 2), jnp.array([1, 3, 1, 3]), key)
    np.testing.assert_allclose(part, jnp.concatenate([whole[1::2]] * 2), rtol=1e-5, atol=1e-6)
    of_other_rows = np.abs(apply(IMAGES, rows + 4, key) - whole).max()
    of_another_key = np.abs(apply(IMAGES, rows, jax.random.key(4)) - whole).max()
    if family == "bit":  # nothing in it is random
        assert of_other_rows == of_another_key == 0
    else:
        assert min(of_other_rows, of_another_key) > 1e-3


@pytest.mark.parametrize("family", slow_unless(lambda family: family == "bit", TINY))
def test_bfloat16_is_of_the_activations_alone(family):
    model = tiny_model(family, dtype="bfloat16", **ONE_BLOCK[family])
    params = random_params(model, IMAGES)

    @jax.jit
    def apply(params):
        return model.apply(
            {"params": params}, IMAGES, capture_intermediates=True, mutable=["intermediates"]
        )

    logits, state = apply(params)
    inner = jax.tree.leaves_with_path(state["intermediates"])
    float32 = {path[0].key for path, leaf in inner if leaf.dtype == jnp.float32}
    assert float32 == {"__call__", "head"} | ({"pre_logits"} if family == "vit" else set())
    assert len(inner) > 8
    assert logits.dtype == jnp.float32
    exact = jax.jit(model.clone(dtype="float32").apply)({"params": params}, IMAGES)
    np.testing.assert_allclose(logits, exact, rtol=0, atol=0.05 * np.abs(exact).max())
    assert np.abs(logits - exact).max() > 1e-6
    with jax.enable_x64(True):
        fresh = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}


BLOCK = "Transformer/encoderblock_1"
# What each family starts from: (mean, standard deviation) of a parameter.
INITIAL = {
    "vit": {
        "head/kernel": (0, 0),
        "head/bias": (-6.9, 0),
        "cls": (0, 0),
        "Transformer/posembed_input/pos_embedding": (0, 0.02),
        f"{BLOCK}/MultiHeadDotProductAttention_1/query/kernel": (0, (2 / (64 + 64)) ** 0.5),
        f"{BLOCK}/MultiHeadDotProductAttention_1/out/kernel": (0, (2 / (64 + 64)) ** 0.5),
        f"{BLOCK}/MultiHeadDotProductAttention_1/out/bias": (0, 0),
        f"{BLOCK}/MlpBlock_3/Dense_0/kernel": (0, (2 / (64 + 32)) ** 0.5),
        f"{BLOCK}/MlpBlock_3/Dense_0/bias": (0, 1e-6),
        f"{BLOCK}/LayerNorm_2/scale": (1, 0),
        "embedding/kernel": (0, (4 * 4 * 3) ** -0.5),
    },
    "bit": {
        "head/kernel": (0, 0),
        "head/bias": (-6.9, 0),
        "block2/unit2/conv2/kernel": (0, (9 * 64) ** -0.5),
        "block2/unit2/gn2/scale": (1, 0),
        "block2/unit2/gn3/scale": (0, 0),
        "block2/unit1/gn_proj/scale": (1, 0),
    },
    "gmlp": {
        "head/kernel": (0, 0),
        "head/bias": (-6.9, 0),
        "GmlpBlock_1/Dense_0/kernel": (0, (2 / (64 + 32)) ** 0.5),
        "GmlpBlock_1/Dense_0/bias": (0, 1e-6),
        "GmlpBlock_1/spatial_gating_unit/Dense_0/kernel": (0, 1e-6),
        "GmlpBlock_1/spatial_gating_unit/Dense_0/bias": (1, 0),
    },
}


@pytest.mark.parametrize("family", TINY)
def test_what_models_start_from(family):
    fields = {"version": "v1"} if family == "bit" else {"hidden_dim": 64}
    model = tiny_model(family, num_classes=7, head_bias_init=-6.9, **fields)

    @jax.jit
    def initial(key):
        params = flax.traverse_util.flatten_dict(model.init(key, IMAGES)["params"], sep="/")
        return {name: params[name] for name in INITIAL[family]}

    for name, values in initial(jax.random.key(0)).items():
        mean, deviation = INITIAL[family][name]
        values = np.asarray(values, np.float64)
        tolerance = 5 * deviation / values.size**0.5 + 1e-6 * abs(mean)
        np.testing.assert_allclose(np.mean(values), mean, rtol=0, atol=tolerance, err_msg=name)
        np.testing.assert_allclose(np.std(values), deviation, rtol=0.3, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("vit", {"pool": "mean"}, "Unknown pool 'mean'. Expected one of: gap, token"),
        ("vit", {"num_heads": 3}, "hidden_dim to be a multiple of num_heads; got 16 and 3"),
        ("vit", {"remat": "blok"}, "Unknown remat 'blok'.*Did you mean 'block'"),
        ("gmlp", {"mlp_dim": 33}, "an even mlp_dim.*got 33. Use 34."),
        ("gmlp", {"remat": "all"}, "Unknown remat 'all'"),
        ("bit", {"version": "v3"}, "Unknown version 'v3'. Expected one of: v1, v2"),
        ("bit", {"width": 0.7}, "width to be a multiple of 0.5.*got 0.7, 44.8 channels"),
        ("bit", {"width": 0.0}, "width to be a multiple of 0.5"),
        ("bit", {"block_sizes": (2, 0)}, r"such as \(3, 4, 6, 3\); got \(2, 0\)"),
        ("bit", {"remat": "blok"}, "Unknown remat 'blok'"),
    ],
)
def test_fields_that_do_not_fit_are_refused(family, fields, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(family, **fields).init(jax.random.key(0), IMAGES)


@pytest.mark.parametrize(
    ("family", "shape", "message"),
    [
        ("vit", (1, 18, 16, 3), "multiples of patch_size=4; got 18 x 16"),
        ("gmlp", (1, 16, 18, 3), "multiples of patch_size=4; got 16 x 18"),
        ("bit", (16, 16, 3), r"rank 4, \[batch, height, width, channels\]; got shape \(16, 16, 3"),
    ],
)
def test_images_that_do_not_fit_are_refused(family, shape, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(family).init(jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize(
    ("name", "variant", "message"),
    [
        ("vit", "S/61", "Unknown variant of vit 'S/61'.*Did you mean 'S/16'"),
        ("bit", "R50x5", "Unknown variant of bit 'R50x5'.*Did you mean 'R50x"),
        ("gmlp", "L/16", "Unknown variant of gmlp 'L/16'. Expected one of: B/16, S/16, Ti/16"),
        ("vit", None, "needs num_classes, num_blocks.*num_heads.*H/14"),
    ],
)
def test_sizes_that_do_not_exist_are_refused(name, variant, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, variant)
