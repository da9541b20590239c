"""What is captured of a model is what its parts compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer.models import build_model
from mixer.models.capture import capture
from tests.models.tiny import random_params, tiny_model

IMAGES = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)


def test_the_trunk_of_a_mixer_is_the_sum_of_what_is_captured():
    fields = dict(num_blocks=2, patch_size=4, hidden_dim=6, tokens_mlp_dim=5, channels_mlp_dim=7)
    model = build_model("mixer", num_classes=3, **fields, remat="block", dropout_rate=0.5)
    params = random_params(model, IMAGES)
    found = capture(model, params, IMAGES)
    parts = [f"MixerBlock_{n}{part}" for n in (0, 1) for part in ("", "/channel_mixing")]
    parts += [f"MixerBlock_{n}/token_mixing" for n in (0, 1)]
    assert set(found) == {"stem", *parts, "pre_head_layer_norm", "head"}

    trunk = found["stem"].reshape(2, 16, 6)
    for block in ("MixerBlock_0", "MixerBlock_1"):
        assert found[f"{block}/token_mixing"].shape == (2, 6, 16)
        trunk = trunk + found[f"{block}/token_mixing"].swapaxes(1, 2)
        trunk = trunk + found[f"{block}/channel_mixing"]
        np.testing.assert_allclose(found[block], trunk, rtol=1e-5, atol=1e-6)
    features = jnp.mean(found["pre_head_layer_norm"], axis=1)
    logits = features @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(found["head"], logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["head"], model.apply({"params": params}, IMAGES))


@pytest.mark.parametrize(
    ("family", "parts"),
    [
        (
            "vit",
            {
                "Transformer/encoderblock_1": (2, 17, 16),
                "Transformer/encoderblock_1/MultiHeadDotProductAttention_1": (2, 17, 16),
                "Transformer/encoderblock_1/MlpBlock_3": (2, 17, 16),
            },
        ),
        ("gmlp", {"GmlpBlock_1": (2, 16, 16), "GmlpBlock_1/spatial_gating_unit": (2, 16, 16)}),
        (
            "bit",
            {"conv_root": (2, 8, 8, 32), "block2": (2, 2, 2, 256), "block2/unit2": (2, 2, 2, 256)},
        ),
    ],
)
def test_the_parts_of_the_other_families(family, parts):
    model = tiny_model(family)
    params = jax.eval_shape(model.init, jax.random.key(0), IMAGES)["params"]
    found = jax.eval_shape(lambda params: capture(model, params, IMAGES), params)
    shapes = {name: found[name].shape for name in found}
    assert shapes.items() >= {**parts, "head": (2, 10)}.items()
