"""Appendix A.1: each variant is Mixer where it should be, and else what the paper describes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import slow_after

from mixer.models import build_model
from mixer.models.layers import gelu
from mixer.models.token_mixing_variants import TokenMixing
from tests.models.tiny import random_params

IMAGES = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)  # 9 patches
SIZES = dict(num_blocks=2, patch_size=4, hidden_dim=8, tokens_mlp_dim=6, channels_mlp_dim=16)


def variant(**fields):
    return build_model("mixer_variant", num_classes=3, **SIZES, **fields)


def mixed(token_mixing, params, y):
    """Returns what the token mixing makes of `y`, `[B, S, C]`."""
    module = TokenMixing(token_mixing, 2, 6, True, 0.0, jnp.float32)
    rows = jnp.arange(y.shape[0])
    return jax.jit(lambda params: module.apply({"params": params}, y, rows, train=False))(params)


def mlp(params, x):
    """Returns the MLP over the last dimension."""
    hidden = gelu(x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"], True)
    return hidden @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]


@pytest.fixture
def params():
    return random_params(variant(), IMAGES)["MixerBlock_0"]["token_mixing"]


Y = np.random.default_rng(1).normal(size=(2, 9, 8)).astype(np.float32)


def test_one_group_is_mixer():
    plain = build_model("mixer", num_classes=3, **SIZES)
    params = {"params": random_params(plain, IMAGES)}
    expected = jax.jit(plain.apply)(params, IMAGES)
    np.testing.assert_array_equal(jax.jit(variant(groups=1).apply)(params, IMAGES), expected)


def test_untied_mlps_that_are_equal_are_mixers_and_others_act_on_their_channel_alone():
    plain = build_model("mixer", num_classes=3, **SIZES)
    params = random_params(plain, IMAGES)
    tied = params["MixerBlock_0"]["token_mixing"]
    each = jax.tree.map(lambda leaf: np.stack([leaf] * 8), tied)
    expected = jnp.swapaxes(mlp(tied, jnp.swapaxes(Y, 1, 2)), 1, 2)
    found = mixed("untied", each, Y)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    each["Dense_0"]["kernel"][3] = 0
    changed = np.abs(mixed("untied", each, Y) - found).max(axis=(0, 1))
    assert np.flatnonzero(changed > 1e-6).tolist() == [3]
    untied = random_params(variant(token_mixing="untied"), IMAGES)
    ratio = sum(leaf.size for leaf in jax.tree.leaves(untied["MixerBlock_0"]["token_mixing"]))
    assert ratio == 8 * sum(leaf.size for leaf in jax.tree.leaves(tied))


def test_grouped_by_hand(params):
    expected = np.zeros_like(Y)
    for column in range(4):  # channels 2i and 2i + 1, one under the other by token
        rows = Y[:, :, 2 * column : 2 * column + 2].reshape(2, 18)
        out = np.asarray(mlp(params, rows)).reshape(2, 9, 2)
        expected[:, :, 2 * column : 2 * column + 2] = out
    np.testing.assert_allclose(mixed("grouped", params, Y), expected, rtol=1e-5, atol=1e-5)


def test_views_by_hand(params):
    views = np.random.default_rng(2).normal(size=(8, 8)).astype(np.float32)
    first, second = Y @ views[:, :4], Y @ views[:, 4:]  # two linear functions to 4 channels
    rows = np.stack([first, second], axis=2).reshape(2, 18, 4)
    out = np.asarray(mlp(params, rows.swapaxes(1, 2))).swapaxes(1, 2)
    expected = out.reshape(2, 9, 8)
    found = mixed("views", params | {"views": {"kernel": views}}, Y)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_pyramid_has_half_the_tokens_after_the_block():
    model = variant(token_mixing="pyramid", halved_after=(0, 1))
    params = random_params(model, IMAGES)
    shapes = [params[f"MixerBlock_{n}"]["token_mixing"]["Dense_1"]["kernel"].shape for n in (0, 1)]
    assert shapes == [(6, 5), (6, 3)]
    logits = jax.jit(model.apply)({"params": params}, IMAGES)
    assert logits.shape == (2, 3)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"token_mixing": "group"}, "Unknown token_mixing 'group'.*Did you mean 'grouped'"),
        ({"groups": 3}, "groups to divide the 8 channels; got 3"),
        ({"token_mixing": "pyramid"}, r"halved_after to name blocks from 0 to 1.*got \(\)"),
        ({"token_mixing": "pyramid", "halved_after": (2,)}, r"got \(2,\)"),
        ({"token_mixing": "pyramid", "halved_after": (1, 1)}, r"got \(1, 1\)"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        variant(**fields).init(jax.random.key(0), IMAGES)


@pytest.mark.parametrize("token_mixing", slow_after(2, ["grouped", "views", "untied", "pyramid"]))
def test_gradients_reach_every_parameter(token_mixing):
    model = variant(token_mixing=token_mixing, halved_after=(1,), remat="elementwise")
    params = random_params(model, IMAGES)

    @jax.jit
    @jax.grad
    def gradient(params):
        return jnp.sum(jnp.square(model.apply({"params": params}, IMAGES, train=True)))

    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient(params)))
