"""ViT, BiT-ResNet and gMLP: sizes, randomness, gradients, precision, errors."""

import functools
import math

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer.models import MODELS, build_model
from mixer.weights import bit, gmlp, vit
from mixer.weights.architecture import flat_shapes
from mixer.weights.naming import Found
from tests.models.tiny import TINY, random_params, tiny_model

WEIGHTS = {"vit": vit, "bit": bit, "gmlp": gmlp}

# Counted with eval_shape on the authors' public code, and on timm for gMLP; at 224 pixels.
# Classes: 1,000; none; 1,000 and "gap"; 1,000 and `representation_size` = width; 21,843; 21,843
# and `representation_size`.
VIT = {
    "Ti/16": (5_717_416, 5_524_416, 5_717_032, 5_754_472, 9_740_115, 9_777_171),
    "S/32": (22_878_952, 22_493_952, 22_878_184, 23_026_792, 30_903_507, 31_051_347),
    "S/16": (22_050_664, 21_665_664, 22_049_896, 22_198_504, 30_075_219, 30_223_059),
    "B/32": (88_224_232, 87_455_232, 88_222_696, 88_814_824, 104_252_499, 104_843_091),
    "B/16": (86_567_656, 85_798_656, 86_566_120, 87_158_248, 102_595_923, 103_186_515),
    "L/32": (306_535_400, 305_510_400, 306_533_352, 307_585_000, 327_899_475, 328_949_075),
    "L/16": (304_326_632, 303_301_632, 304_324_584, 305_376_232, 325_690_707, 326_740_307),
    "H/14": (632_045_800, 630_764_800, 632_043_240, 633_685_480, 658_745_683, 660_385_363),
}
# v2 with 1,000 classes, none, 21,843; v1 with 1,000, none.
BIT = {
    "R50x1": (25_549_352, 23_500_352, 68_256_659, 25_557_032, 23_508_032),
    "R50x2": (97_988_712, 93_891_712, 183_382_483, 98_004_072, 93_907_072),
    "R50x3": (217_319_080, 211_174_080, 345_399_315, 217_342_120, 211_197_120),
    "R101x1": (44_541_480, 42_492_480, 87_248_787, 44_549_160, 42_500_160),
    "R101x3": (387_934_888, 381_789_888, 516_015_123, 387_957_928, 381_812_928),
    "R152x1": (60_185_128, 58_136_128, 102_892_435, 60_192_808, 58_143_808),
    "R152x2": (236_335_208, 232_238_208, 321_728_979, 236_350_568, 232_253_568),
    "R152x4": (936_533_224, 928_340_224, 1_107_299_923, 936_563_944, 928_370_944),
    "R200x3": (568_633_000, 562_488_000, 696_713_235, 568_656_040, 562_511_040),
}
# 1,000 classes, none.
GMLP = {
    "Ti/16": (5_867_328, 5_738_328),
    "S/16": (19_422_656, 19_165_656),
    "B/16": (73_075_392, 72_562_392),
}


def shapes_of(model, *image_size):
    images = jnp.zeros((1, *image_size, 3))
    return flat_shapes(jax.eval_shape(model.init, jax.random.key(0), images)["params"])


def counts(family, variant, expected, columns):
    """Compares the model, made less deep, with the shapes that weights must have; counts these."""
    sizes, weights = MODELS[family][1][variant], WEIGHTS[family]
    few = {"block_sizes": (2, 1, 1, 1)} if family == "bit" else {"num_blocks": 2}
    shapes = shapes_of(build_model(family, variant, num_classes=1000, **few), 224, 224)
    found = weights.find(shapes)
    assert weights.expected_shapes(found) == shapes
    fields = {**sizes, "num_classes": 1000, **few}
    assert {name: found.fields[name] for name in fields} == fields
    assert found.num_tokens == (0 if family == "bit" else (224 // sizes["patch_size"]) ** 2)
    for column, count in zip(columns, expected, strict=True):
        full = Found({**found.fields, **sizes, **column}, found.num_tokens)
        assert sum(map(math.prod, weights.expected_shapes(full).values())) == count, column


@pytest.mark.parametrize(
    ("family", "variant", "fields", "count"),
    [
        ("vit", "H/14", {"representation_size": 1280, "num_classes": 21843}, 660_385_363),
        ("bit", "R152x4", {"num_classes": 0}, 928_340_224),  # "928 million" in the BiT paper
        ("bit", "R200x3", {"version": "v1"}, 568_656_040),
        ("gmlp", "B/16", {}, 73_075_392),
    ],
)
def test_parameter_counts_of_models_in_full_depth(family, variant, fields, count):
    model = build_model(family, variant, **{"num_classes": 1000, **fields})
    shapes = shapes_of(model, 224, 224)
    assert sum(map(math.prod, shapes.values())) == count
    assert WEIGHTS[family].expected_shapes(WEIGHTS[family].find(shapes)) == shapes


def test_every_size_has_a_row_of_counts():
    assert [VIT.keys(), BIT.keys(), GMLP.keys()] == [
        MODELS[family][1].keys() for family in ("vit", "bit", "gmlp")
    ]


@pytest.mark.parametrize("variant", VIT)
def test_parameter_counts_of_vit(variant):
    width = MODELS["vit"][1][variant]["hidden_dim"]
    columns = [
        *({}, {"num_classes": 0}, {"pool": "gap"}, {"representation_size": width}),
        *({"num_classes": 21843}, {"num_classes": 21843, "representation_size": width}),
    ]
    counts("vit", variant, VIT[variant], columns)


@pytest.mark.parametrize("variant", BIT)
def test_parameter_counts_of_bit(variant):
    columns = [
        *({}, {"num_classes": 0}, {"num_classes": 21843}),
        *({"version": "v1"}, {"version": "v1", "num_classes": 0}),
    ]
    counts("bit", variant, BIT[variant], columns)


@pytest.mark.parametrize("variant", GMLP)
def test_parameter_counts_of_gmlp(variant):
    counts("gmlp", variant, GMLP[variant], [{}, {"num_classes": 0}])


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("vit", {"pool": "gap", "representation_size": 0, "num_classes": 0}),
        ("vit", {}),
        ("bit", {"version": "v1"}),
        ("bit", {"version": "v1", "block_sizes": (1, 1, 3), "width": 1.5, "num_classes": 0}),
        ("gmlp", {"num_classes": 0}),
    ],
)
def test_shapes_tell_the_fields_of_the_model_also_on_images_that_are_not_square(family, fields):
    model = tiny_model(family, **fields)
    shapes = shapes_of(model, 8, 20)
    found = WEIGHTS[family].find(shapes)
    assert {name: getattr(model, name) for name in found.fields} == found.fields
    assert found.num_tokens == (0 if family == "bit" else 10)
    assert WEIGHTS[family].expected_shapes(found) == shapes


pytestmark = pytest.mark.usefixtures("quick_compilation_of_file")
IMAGES = np.random.default_rng(1).normal(size=(4, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    return {family: random_params(tiny_model(family), IMAGES) for family in TINY}


@pytest.mark.parametrize("family", TINY)
def test_gradients_are_finite_whatever_is_computed_again(family):
    few = {"block_sizes": (2,)} if family == "bit" else {"num_blocks": 1}
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
    again_loss, again = gradients(some, "elementwise")
    size = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain))
    assert np.isfinite(loss)
    # All but the biases of the keys, which shift all logits of the attention alike.
    for path, leaf in jax.tree.leaves_with_path(plain):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 1e-6 * size or path[-2].key == "key"
    np.testing.assert_allclose(again_loss, loss, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * size)
    assert kept("block") < kept("elementwise") < kept("none")


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


@pytest.mark.parametrize("family", TINY)
def test_bfloat16_is_of_the_activations_alone(family, params):
    model = tiny_model(family, dtype="bfloat16")

    @jax.jit
    def apply(params):
        return model.apply(
            {"params": params}, IMAGES, capture_intermediates=True, mutable=["intermediates"]
        )

    logits, state = apply(params[family])
    inner = jax.tree.leaves_with_path(state["intermediates"])
    float32 = {path[0].key for path, leaf in inner if leaf.dtype == jnp.float32}
    assert float32 == {"__call__", "head"} | ({"pre_logits"} if family == "vit" else set())
    assert len(inner) > 8
    assert logits.dtype == jnp.float32
    exact = jax.jit(tiny_model(family).apply)({"params": params[family]}, IMAGES)
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
