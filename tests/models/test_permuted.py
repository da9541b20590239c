"""Figure 4: Mixer does not notice permuted patches, and notices permuted pixels."""

import jax
import numpy as np
import pytest

from mixer.losses import softmax_cross_entropy
from mixer.models import build_model
from mixer.models.mixer import MlpMixer
from mixer.models.permuted import PermutedMixer, patch_order, permute_pixels, pixel_order
from mixer.optimizer import create_adam
from mixer.train_state import create_train_state
from mixer.train_step import make_train_step
from tests.models.tiny import random_params
from tests.test_train_step import host_batch

PATCHES = [8, 2, 6, 7, 1, 0, 4, 3, 5]
PIXELS = [4, 1, 6, 2, 3, 0, 5, 7, 8]
SIZES = dict(num_blocks=2, patch_size=4, hidden_dim=16, tokens_mlp_dim=8, channels_mlp_dim=32)


def numbered(height: int, width: int) -> np.ndarray:
    """Returns images [2, H, W, 3] of which every value is another."""
    return np.arange(2 * height * width * 3, dtype=np.float32).reshape(2, height, width, 3)


def test_patches_and_pixels_in_them_by_hand():
    images = numbered(4, 6)
    permuted = np.asarray(permute_pixels(images, "patches", 2))
    for place, patch in enumerate(patch_order(6)):  # 2 rows of 3 patches
        for target, source in enumerate(pixel_order(2)):
            row, column = place // 3 * 2 + target // 2, place % 3 * 2 + target % 2
            old_row, old_column = patch // 3 * 2 + source // 2, patch % 3 * 2 + source % 2
            np.testing.assert_array_equal(permuted[:, row, column], images[:, old_row, old_column])
    assert sorted(patch_order(6)) == list(range(6)) != list(patch_order(6))


def test_the_orders_are_those_of_every_run_before():
    assert patch_order(9).tolist() == PATCHES
    assert pixel_order(3).tolist() == PIXELS


def test_pixels_are_permuted_alike_in_all_images_and_colours_stay():
    images = numbered(8, 8)
    permuted = np.asarray(permute_pixels(images, "pixels", 4))
    order = permuted[0].reshape(64, 3)[:, 0].astype(int) // 3
    assert sorted(order) == list(range(64))
    np.testing.assert_array_equal(permuted.reshape(2, 64, 3), images.reshape(2, 64, 3)[:, order])
    moved_together = np.mean(np.diff(order) == 1)
    assert moved_together < 0.1


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        (
            dict(permutation="patch"),
            (16, 16),
            "Unknown permutation 'patch'.*Did you mean 'patches'",
        ),
        (dict(permutation="patches"), (16, 18), "multiples of patch_size=4; got 16 x 18"),
        (dict(permutation="patches"), (4, 4), "two or more patches to permute; got one"),
    ],
)
def test_what_cannot_be_permuted_is_refused(fields, shape, message):
    model = build_model("permuted_bit", num_classes=3, block_sizes=(1,), permuted_patch_size=4)
    with pytest.raises(ValueError, match=message):
        model.clone(**fields).init(jax.random.key(0), np.zeros((1, *shape, 3)))


def test_the_models_see_permuted_images():
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    of_bit = dict(block_sizes=(1,), width=0.5)
    for name, plain, fields in (
        ("permuted_mixer", "mixer", SIZES),
        ("permuted_bit", "bit", of_bit),
    ):
        ours = dict(permuted_patch_size=4) if name == "permuted_bit" else {}
        model = build_model(plain, num_classes=3, **fields)
        params = {"params": random_params(model, images)}
        apply = jax.jit(model.apply)
        for permutation in ("patches", "pixels"):
            permuted = build_model(name, num_classes=3, permutation=permutation, **fields, **ours)
            np.testing.assert_array_equal(
                jax.jit(permuted.apply)(params, images),
                apply(params, permute_pixels(images, permutation, 4)),
            )


def losses(model: MlpMixer, change, mesh) -> np.ndarray:
    """Returns those of 5 steps from the initial parameters, after `change` of these."""
    optimizer = create_adam(
        lambda step: 3e-3,
        beta1=0.9,
        beta2=0.999,
        weight_decay=0.1,
        clip_global_norm=1.0,
        mu_dtype="float32",
    )
    _, init = create_train_state(model, optimizer, image_size=16, seed=0, averaged=False, mesh=mesh)
    step = jax.jit(
        make_train_step(
            model,
            optimizer,
            softmax_cross_entropy,
            num_classes=10,
            mixup_alpha=0.5,
            accumulation_steps=1,
            polyak_decay=0.0,
            seed=0,
        )
    )
    state = init({})
    state = state.replace(params=change(state.params))
    found = []
    for number in range(5):
        batch = jax.tree.map(jax.numpy.asarray, host_batch(32, number, 16))
        state, metrics = step(state, batch)
        found.append(float(metrics["loss"]))
    return np.array(found)


def permute_weights(params):
    """Returns the weights with which permuted patches are what the patches were before."""
    patches, pixels = patch_order(16), pixel_order(4)
    params = jax.tree.map(np.array, params)
    stem = params["stem"]["kernel"]
    params["stem"]["kernel"] = stem.reshape(16, 3, -1)[pixels].reshape(stem.shape)
    for block in ("MixerBlock_0", "MixerBlock_1"):
        first, second = (params[block]["token_mixing"][f"Dense_{n}"] for n in (0, 1))
        first["kernel"] = first["kernel"][patches]
        second["kernel"] = second["kernel"][:, patches]
        second["bias"] = second["bias"][patches]
    return params


@pytest.mark.slow
def test_mixer_is_invariant_to_permuted_patches_and_not_to_permuted_pixels(one_device_mesh):
    def run(model, change):
        return losses(model, change, one_device_mesh)

    plain = run(MlpMixer(10, **SIZES, stochastic_depth_rate=0.1), lambda params: params)
    permuted = PermutedMixer(10, **SIZES, stochastic_depth_rate=0.1)
    np.testing.assert_allclose(run(permuted, permute_weights), plain, rtol=0, atol=2e-6)
    of_pixels = run(permuted.clone(permutation="pixels"), permute_weights)
    assert np.abs(of_pixels - plain).max() > 1e-4
    assert len(set(plain)) == 5
