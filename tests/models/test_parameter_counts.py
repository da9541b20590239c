"""Parameters of every size of ViT, BiT-ResNet and gMLP, and the shapes that weights must have."""

import math

import jax
import jax.numpy as jnp
import pytest

from mixer.models import MODELS, build_model
from mixer.weights.naming import Found
from mixer.weights.shapes import flat_shapes
from tests.models.tiny import tiny_model
from tests.weights.family_files import WEIGHTS

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


@pytest.mark.slow
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
