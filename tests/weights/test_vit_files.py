"""The weights of ViTs: timm's naming, and what released files of all ages differ in."""

import numpy as np
import pytest

from mixer.weights import vit, vit_timm
from mixer.weights.naming import Found, shapes_of
from tests.weights.family_files import arrays_of, converted, params_of, renamed

POSITIONS = "Transformer/posembed_input/pos_embedding"
VITS = ("vit_tiny", "vit_tiny_gap", "vit_tiny_prelogits")


@pytest.mark.parametrize("name", VITS)
def test_vit_to_timm_and_back_has_the_same_bits(name, assert_same_bits):
    params = params_of(name)
    shuffled = dict(sorted(params.items()))  # the key before the query
    tensors = vit_timm.to_timm(shuffled)
    assert_same_bits(converted(vit_timm.from_timm, tensors, num_heads=4), params)
    assert_same_bits(vit_timm.to_timm(converted(vit_timm.from_timm, tensors, num_heads=4)), tensors)


def test_vit_in_timm_has_pytorchs_names_and_layout():
    params, tensors = params_of("vit_tiny"), vit_timm.to_timm(params_of("vit_tiny"))
    block = "Transformer/encoderblock_1"
    attention = f"{block}/MultiHeadDotProductAttention_1"
    assert len(tensors) == 4 + 2 * 12 + 4
    # The second head's third channel, of the values.
    row = tensors["blocks.1.attn.qkv.weight"][2 * 32 + 8 + 2]
    np.testing.assert_array_equal(row, params[f"{attention}/value/kernel"][:, 1, 2])
    bias = tensors["blocks.1.attn.qkv.bias"][32:64]
    np.testing.assert_array_equal(bias, params[f"{attention}/key/bias"].reshape(-1))
    column = tensors["blocks.1.attn.proj.weight"][:, 8 + 2]
    np.testing.assert_array_equal(column, params[f"{attention}/out/kernel"][1, 2])
    patch = tensors["patch_embed.proj.weight"][5, 2, 3, 4]  # [out, in, H, W]
    assert patch == params["embedding/kernel"][3, 4, 2, 5]
    for timm, ours in (
        ("cls_token", "cls"),
        ("pos_embed", POSITIONS),
        ("norm.weight", "Transformer/encoder_norm/scale"),
        ("blocks.1.norm2.bias", f"{block}/LayerNorm_2/bias"),
        ("head.bias", "head/bias"),
    ):
        np.testing.assert_array_equal(tensors[timm], params[ours])
    fc1 = tensors["blocks.1.mlp.fc1.weight"]
    np.testing.assert_array_equal(fc1, params[f"{block}/MlpBlock_3/Dense_0/kernel"].T)


LINEN = (
    ("MultiHeadDotProductAttention_1", "MultiHeadDotProductAttention_0"),
    ("LayerNorm_2", "LayerNorm_1"),
    ("MlpBlock_3", "MlpBlock_0"),
)


@pytest.mark.parametrize("name", VITS)
@pytest.mark.parametrize("positions", [POSITIONS, "Transformer/pos_embedding"])
def test_numbers_of_later_vit_files(name, positions, assert_same_bits):
    arrays = renamed(arrays_of(name), *LINEN, (POSITIONS, positions))
    assert_same_bits(converted(vit.from_npz, arrays), params_of(name))


def test_the_order_of_modules_counts_not_their_numbers(assert_same_bits):
    arrays = renamed(
        arrays_of("vit_tiny"), ("LayerNorm_2", "LayerNorm_11"), ("LayerNorm_0", "LayerNorm_9")
    )
    assert_same_bits(converted(vit.from_npz, arrays), params_of("vit_tiny"))


def test_positions_of_the_latest_vit_files_are_without_the_class_token(assert_same_bits):
    arrays = renamed(arrays_of("vit_tiny"), *LINEN, (POSITIONS, "pos_embedding"))
    positions = arrays["pos_embedding"]
    # Some of that name have it, which is known if the grid is square.
    assert_same_bits(converted(vit.from_npz, arrays), params_of("vit_tiny"))
    # The published loader adds it to the class token, which has the same effect.
    arrays["cls"] = arrays["cls"] + positions[:, :1]
    for patches in (16, 12):
        arrays["pos_embedding"] = positions[:, 1 : 1 + patches]
        params = converted(vit.from_npz, arrays)
        assert vit.find(shapes_of(params)).num_tokens == patches
        expected = np.concatenate([0 * positions[:, :1], positions[:, 1 : 1 + patches]], axis=1)
        np.testing.assert_array_equal(params[POSITIONS], expected)
        np.testing.assert_array_equal(params["cls"], arrays["cls"])
    gap = renamed(arrays_of("vit_tiny_gap"), *LINEN, (POSITIONS, "pos_embedding"))
    assert_same_bits(converted(vit.from_npz, gap), params_of("vit_tiny_gap"))


def test_the_heads_of_a_vit_in_timm_are_those_of_its_size():
    tensors = vit_timm.to_timm(params_of("vit_tiny"))
    with pytest.raises(
        ValueError, match="to record num_heads, .* hidden_dim 32 and mlp_dim 64; go"
    ):
        converted(vit_timm.from_timm, tensors)
    found = vit.find(shapes_of(params_of("vit_tiny")))
    for mlp_dim in (768, 64):
        sizes = {**found.fields, "hidden_dim": 192, "mlp_dim": mlp_dim, "num_heads": 3}
        tiny = Found(sizes, found.num_tokens)
        shapes = vit.expected_shapes(tiny)
        params = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
        tensors = vit_timm.to_timm(params)
        if mlp_dim == 64:  # no named size has these widths
            with pytest.raises(ValueError, match="hidden_dim 192 and mlp_dim 64; got no such"):
                converted(vit_timm.from_timm, tensors)
        else:
            again = converted(vit_timm.from_timm, tensors)
            assert shapes_of(again) == shapes
            assert vit.find(shapes_of(again)) == tiny


@pytest.mark.parametrize("value", [5, 0, -4, 4.0, True, "4 heads", [4]])
def test_a_number_of_heads_that_cannot_be_is_refused(value):
    tensors = vit_timm.to_timm(params_of("vit_tiny"))
    with pytest.raises(ValueError, match="metadata to be an integer that divides the width 32; go"):
        converted(vit_timm.from_timm, tensors, num_heads=value)
