"""The architecture that a Mixer's shapes imply, the shapes that it implies, what does not fit."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from mixer.models import variant_of
from mixer.models.mixer import VARIANTS, MlpMixer
from mixer.weights.mixer import expected_shapes, find
from mixer.weights.naming import Found
from mixer.weights.shapes import check_shapes, flat_shapes


def architecture(num_tokens: int, **fields: int) -> Found:
    return Found(fields, num_tokens)


def changed(found: Found, **fields: int) -> Found:
    return dataclasses.replace(found, fields={**found.fields, **fields})


TINY = architecture(
    num_classes=7,
    num_blocks=3,
    patch_size=4,
    hidden_dim=24,
    tokens_mlp_dim=20,
    channels_mlp_dim=40,
    num_tokens=16,
)
B_16 = architecture(num_classes=1000, num_tokens=196, **VARIANTS["B/16"])
ONES = architecture(1, **dict.fromkeys(TINY.fields, 1) | {"num_blocks": 12})


@pytest.mark.parametrize("found", [TINY, B_16, ONES, changed(TINY, num_classes=0)])
def test_shapes_are_those_of_the_model_and_tell_the_architecture(found):
    fields = found.fields
    side = int(found.num_tokens**0.5) * fields["patch_size"]
    images = jnp.zeros((1, side, side, 3))
    params = jax.eval_shape(MlpMixer(**fields).init, jax.random.key(0), images)["params"]
    assert flat_shapes(params) == expected_shapes(found)
    assert find(flat_shapes(params)) == found


def test_the_sizes_of_table_1_have_names():
    for name, fields in VARIANTS.items():
        assert variant_of("mixer", {"num_classes": 3, **fields}) == name
    assert variant_of("mixer", TINY.fields) is None
    assert variant_of("mixer", {**VARIANTS["B/16"], "patch_size": 8}) is None
    assert sum(map(math.prod, expected_shapes(B_16).values())) == 59_880_472
    headless = expected_shapes(changed(B_16, num_classes=0))
    assert sum(map(math.prod, headless.values())) == 59_111_472


@pytest.mark.parametrize("name", ["stem/bias", "MixerBlock_0/token_mixing/Dense_0/bias"])
def test_the_majority_decides(name):
    shapes = expected_shapes(TINY)
    misshapen = shapes | {name: (99,)}
    assert find(misshapen) == TINY
    with pytest.raises(ValueError, match=rf"0 missing, 0 extra, 1 with .*\n.*{name} \(99,\)"):
        check_shapes(misshapen, shapes, "MLP-Mixer")
    incomplete = {n: shape for n, shape in shapes.items() if n != name}
    assert find(incomplete) == TINY
    with pytest.raises(ValueError, match=rf"1 missing, 0 extra, 0 with .*\n  missing: {name}\n"):
        check_shapes(incomplete, shapes, "MLP-Mixer")


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ("stem/kernel", "Expected a 'stem/kernel' .*; got none in 41 parameters: stem/bias; "),
        ("token_mixing", "Expected parameters of token_mixing/Dense_0; got none in 30 param"),
    ],
)
def test_without_parameters_to_read_a_dimension_off_it_is_said_which(left_out, message):
    shapes = {n: shape for n, shape in expected_shapes(TINY).items() if left_out not in n}
    with pytest.raises(ValueError, match=message):
        find(shapes)


@pytest.mark.parametrize("shape", [(), (4, 4, 3), (0,)])
def test_degenerate_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=f"stem/kernel.* got {'none' if not shape else 'shape'}"):
        find(expected_shapes(TINY) | {"stem/kernel": shape})
    with pytest.raises(ValueError, match="Dense_0; got empty arrays"):
        find(
            {"stem/kernel": (4, 4, 3, 8), "stem/bias": (8,)}
            | {"MixerBlock_0/token_mixing/Dense_0/bias": (0,)}
        )


def test_every_name_that_does_not_fit_is_counted_and_the_message_fits_a_screen():
    expected = expected_shapes(changed(TINY, num_blocks=10))
    found = {name: (1, 2) for name in expected if "MixerBlock" not in name}
    found |= {f"\x1b[31m{number}" + "x" * 10_000: (3,) for number in range(103)}
    with pytest.raises(ValueError, match="120 missing, 103 extra, 6 with the wrong shape") as error:
        check_shapes(found, expected, "MLP-Mixer")
    message = str(error.value)
    assert message.startswith("Expected exactly the 126 parameters of one MLP-Mixer; got 120 miss")
    assert "missing: MixerBlock_0/LayerNorm_0/scale; MixerBlock_0/LayerNorm_0/bias; " in message
    assert " ... and 112 more" in message
    assert " ... and 95 more" in message
    assert "head/kernel (1, 2), expected (24, 7)" in message
    assert len(message) < 3000
    assert message.replace("\n", "").isprintable()
