"""The namings of ViT, BiT-ResNet and gMLP: every published one in, and the released one out."""

import numpy as np
import pytest

from mixer.weights import bit, gmlp, mixer, vit_timm
from mixer.weights.naming import PREFIXES, shapes_of
from tests.weights.family_files import (
    GOLDEN,
    SETS,
    WEIGHTS,
    arrays_of,
    converted,
    params_of,
    renamed,
)

POSITIONS = "Transformer/posembed_input/pos_embedding"
FILES = [name for name in SETS if "r50x1" not in name]  # which is 100 MB


def reading_nothing(name):
    raise AssertionError(f"{name} was read before all names and shapes were known to be right")


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("timm")])
def test_npz_to_parameters_and_back_has_the_same_bits(name, assert_same_bits):
    arrays = arrays_of(name)
    assert_same_bits(WEIGHTS[SETS[name][0]].to_npz(params_of(name)), arrays)


@pytest.mark.parametrize("name", FILES)
def test_parameters_tell_the_fields_of_the_golden_models(name):
    family, fields = SETS[name]
    params = params_of(name)
    found = WEIGHTS[family].find(shapes_of(params))
    num_classes = np.load(GOLDEN / f"{name}.io.npz")["logits"].shape[1]
    assert found.fields == {**fields, "num_classes": num_classes}
    assert found.num_tokens == (0 if family == "bit" else 16)
    headless = {key: array for key, array in params.items() if not key.startswith("head/")}
    assert WEIGHTS[family].find(shapes_of(headless)).fields == {**found.fields, "num_classes": 0}


def test_gmlp_from_timm_and_back_has_the_same_bits(assert_same_bits):
    tensors = arrays_of("timm_gmlp_tiny")
    params = params_of("timm_gmlp_tiny")
    assert_same_bits(gmlp.to_timm(params), tensors)
    assert_same_bits(converted(gmlp.from_npz, gmlp.to_npz(params)), params)
    gate = tensors["blocks.2.mlp_channels.gate.proj.weight"]
    np.testing.assert_array_equal(params["GmlpBlock_2/spatial_gating_unit/Dense_0/kernel"], gate.T)


@pytest.mark.parametrize("name", ["vit_tiny", "bit_tiny", "bit_v1_tiny"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_parameters_among_other_things(name, prefix, assert_same_bits):
    arrays = {prefix + key: array for key, array in arrays_of(name).items()}
    arrays["opt/state/step"] = np.int64(7)
    if prefix == "params/img/":
        arrays["params/txt/head/bias"] = np.zeros(3, np.float32)
    weights = WEIGHTS[SETS[name][0]]
    assert weights.is_npz(arrays)
    assert_same_bits(converted(weights.from_npz, arrays), params_of(name))


def test_bit_files_with_numbered_names_or_more_dimensions(assert_same_bits):
    arrays = renamed(arrays_of("bit_tiny"), ("standardized_conv2d", "standardized_conv2d_7"))
    assert_same_bits(converted(bit.from_npz, arrays), params_of("bit_tiny"))
    arrays = {
        name: array[None, None, None] if "/gn" in f"/{name}" else array
        for name, array in arrays_of("bit_v1_tiny").items()
    }
    assert_same_bits(converted(bit.from_npz, arrays), params_of("bit_v1_tiny"))


def test_the_units_of_deep_bit_files_have_two_digits(assert_same_bits):
    arrays = arrays_of("bit_tiny")
    deep = dict(arrays)
    for name, array in arrays.items():
        if "block1/unit02" in name:
            for unit in range(3, 13):
                deep[name.replace("unit02", f"unit{unit:02d}")] = array + unit
    params = converted(bit.from_npz, deep)
    assert bit.find(shapes_of(params)).fields["block_sizes"] == (12, 1)
    kernel = arrays["resnet/block1/unit02/b/standardized_conv2d/kernel"]
    np.testing.assert_array_equal(params["block1/unit11/conv2/kernel"], kernel + 11)
    assert_same_bits(bit.to_npz(params), deep)


def test_each_file_is_of_one_family():
    def families(names):
        return [name for name, weights in WEIGHTS.items() if weights.is_npz(names)]

    for name in FILES:
        if not name.startswith("timm"):
            assert families(arrays_of(name)) == [SETS[name][0]]
    assert families(gmlp.to_npz(params_of("timm_gmlp_tiny"))) == ["gmlp"]
    assert families(np.load(GOLDEN / "mixer_tiny.npz")) == []
    assert families(np.load(GOLDEN / "mixer_tiny_legacy.npz")) == []
    mixer = ["blocks.0.mlp_tokens.fc1.weight", "stem.proj.weight"]
    for is_timm, names in (
        (vit_timm.is_timm, vit_timm.to_timm(params_of("vit_tiny"))),
        (gmlp.is_timm, arrays_of("timm_gmlp_tiny")),
    ):
        found = [other for other in (vit_timm.is_timm, gmlp.is_timm) if other(names)]
        assert found == [is_timm]
        assert not is_timm(mixer)


BLOCK = "Transformer/encoderblock_0"
FC1 = "blocks.0.mlp.fc1.weight"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("vit_tiny", {"head/kernel": None}, "of one ViT; got 1 missing.*\n  missing: head/kernel"),
        ("vit_tiny", {"head_2/kernel": (32, 9)}, "1 extra.*\n  extra: head_2/kernel"),
        (
            "vit_tiny",
            {f"{BLOCK}/LayerNorm_5/bias": (32,)},
            "1 extra.*\n  extra: Tr.*LayerNorm_5/bias",
        ),
        ("vit_tiny", {f"{BLOCK}/MlpBlock_3/Dense_1/bias": (31,)}, r"\(31,\), expected \(32,\)"),
        # Not three dimensions: how many heads there are is not known.
        (
            "vit_tiny",
            {f"{BLOCK}/MultiHeadDotProductAttention_1/query/kernel": (32, 32)},
            r"query/kernel' of a ViT; got shape \(32, 32\)",
        ),
        ("vit_tiny", {"Transformer/pos_embedding": (1, 17, 32)}, "Expected one array for 'Transf"),
        (
            "bit_tiny",
            {"resnet/head/conv2d/bias": None},
            "of one BiT-ResNet; got 0 missing, 1 extra",
        ),
        ("bit_tiny", {"resnet/block1/unit01/a/proj/standardized_conv2d/kernel": None}, "conv_proj"),
        (
            "bit_tiny",
            {"resnet/block1/unit03/c/group_norm/beta": (32,)},
            "missing: block1/unit3/conv1",
        ),
        ("bit_v1_tiny", {"gn_root/scale": None}, "of one BiT-ResNet"),
        ("bit_v1_tiny", {"conv_root/kernel": None}, "the parameter 'conv_root/kernel' of a BiT"),
        (
            "bit_tiny",
            {"resnet/root_block/standardized_conv2d_9/kernel": (7, 7, 3, 32)},
            "one array for 'conv_root/kernel'",
        ),
        ("gmlp", {"GmlpBlock_0/Dense_1/kernel": (144, 24)}, r"\(144, 24\), expected \(72, 24\)"),
        ("gmlp", {"GmlpBlock_1/LayerNorm_0/bias": None}, "of one gMLP; got 1 missing"),
        ("gmlp", {"GmlpBlock_0/spatial_gating_unit/Dense_0/bias": None}, "of a gMLP; got none"),
        ("timm_vit", {FC1: (63, 32)}, r"of one ViT.*\n.*blocks.0.mlp.fc"),
        ("timm_vit", {"blocks.0.norm1.bias": None}, "\n  missing: blocks.0.norm1.bias"),
        ("timm_gmlp", {"blocks.2.norm.bias": None}, "\n  missing: blocks.2.norm.bias"),
        ("timm_gmlp", {"norm_3.bias": (3,)}, r"\n  extra: norm_3.bias \(3,\)"),
    ],
)
def test_what_is_not_exactly_one_model_is_refused_before_it_is_read(name, change, message):
    arrays, convert = {
        "gmlp": lambda: (params_of("timm_gmlp_tiny"), gmlp.from_npz),
        "timm_gmlp": lambda: (arrays_of("timm_gmlp_tiny"), gmlp.from_timm),
        "timm_vit": lambda: (vit_timm.to_timm(params_of("vit_tiny")), vit_timm.from_timm),
    }.get(name, lambda: (arrays_of(name), WEIGHTS[SETS[name][0]].from_npz))()
    shapes = {
        key: shape for key, shape in (shapes_of(arrays) | change).items() if shape is not None
    }
    kwargs = {"num_heads": 4} if name == "timm_vit" else {}
    with pytest.raises(ValueError, match=message):
        convert(shapes, reading_nothing, **kwargs)


def test_a_mixer_is_none_of_them():
    arrays = dict(np.load(GOLDEN / "mixer_tiny.npz"))
    shapes = shapes_of(arrays)
    assert mixer.expected_shapes(mixer.find(shapes)) == shapes
    for weights in WEIGHTS.values():
        with pytest.raises(ValueError, match=f"of a (plain )?{weights.MODEL}; got "):
            weights.from_npz(shapes, reading_nothing)
