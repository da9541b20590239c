"""ViT, BiT-ResNet and gMLP compute what the published code does."""

import functools

import flax
import jax
import numpy as np
import pytest
from cases import slow_after

from mixer.models import build_model
from mixer.weights.position_embeddings import resize_position_embeddings
from tests.weights.family_files import GOLDEN, SETS, params_of


def tree(params):
    return flax.traverse_util.unflatten_dict(params, sep="/")


@functools.cache
def compiled(name, num_classes, **fields):
    family, size = SETS[name]
    model = build_model(family, num_classes=num_classes, **size, **fields)
    pre_logits = model.clone(num_classes=0)

    @jax.jit
    def run(params, images):
        params = {"params": params}
        return model.apply(params, images), pre_logits.apply(params, images)

    return run


def outputs(name, params, images, **fields):
    return compiled(name, params["head"]["bias"].size, **fields)(params, images)


@pytest.mark.parametrize("name", SETS)
def test_logits_and_pre_logits_are_those_of_the_published_code(name):
    io = np.load(GOLDEN / f"{name}.io.npz")
    logits, pre_logits = outputs(name, tree(params_of(name)), io["images"])
    tolerance = 1e-4 if "r50x1" in name else 1e-5
    np.testing.assert_allclose(logits, io["logits"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(pre_logits, io["pre_logits"], rtol=0, atol=tolerance)
    assert np.std(io["logits"]) > 0.1


def test_a_resized_vit_computes_what_the_published_code_does():
    io = np.load(GOLDEN / "vit_tiny_resize_4to8.npz")
    params = resize_position_embeddings(tree(params_of("vit_tiny")), (4, 4), (8, 8))
    logits, pre_logits = outputs("vit_tiny", params, io["images"])
    np.testing.assert_allclose(logits, io["logits"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(pre_logits, io["pre_logits"], rtol=0, atol=1e-5)


def transposed_grid(array, rows, axis):
    """Returns an array whose axis is a grid in row-major order, now in column-major order."""
    grid = array.reshape(*array.shape[:axis], rows, -1, *array.shape[axis + 1 :])
    return np.swapaxes(grid, axis, axis + 1).reshape(array.shape)


@pytest.mark.parametrize("name", ["vit_tiny", "timm_gmlp_tiny"])
def test_transposed_images_and_weights_give_the_same_logits_if_not_square(name):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 16, 32, 3)).astype(np.float32)  # 2 x 4 patches
    params = params_of(name)
    positions = "Transformer/posembed_input/pos_embedding"
    if name == "timm_gmlp_tiny":
        params = {key: a[:8, :8] if a.shape == (16, 16) else a for key, a in params.items()}
        params = {key: a[:8] if a.shape == (16,) else a for key, a in params.items()}
    else:
        params[positions] = params[positions][:, : params[positions].shape[1] - 8]
    logits, _ = outputs(name, tree(params), images)
    changed = dict(params)
    for key, array in params.items():
        if key in ("embedding/kernel", "stem/kernel"):
            changed[key] = array.swapaxes(0, 1)
        elif key == positions:
            first = array.shape[1] - 8
            grid = transposed_grid(array[:, first:], 2, axis=1)
            changed[key] = np.concatenate([array[:, :first], grid], axis=1)
        elif "gating_unit/Dense_0" in key:
            changed[key] = transposed_grid(array, 2, axis=0)
            if key.endswith("kernel"):
                changed[key] = transposed_grid(changed[key], 2, axis=1)
    again, _ = outputs(name, tree(changed), images.swapaxes(1, 2))
    np.testing.assert_allclose(again, logits, rtol=0, atol=1e-5)
    other, _ = outputs(name, tree(params), images.swapaxes(1, 2))
    assert np.abs(other - logits).max() > 1e-3


@pytest.mark.parametrize("name", slow_after(1, ["vit_tiny", "timm_gmlp_tiny"]))
def test_the_other_gelu_differs_by_little(name):
    io, is_tanh = np.load(GOLDEN / f"{name}.io.npz"), name == "vit_tiny"
    logits, _ = outputs(name, tree(params_of(name)), io["images"], gelu_approximate=not is_tanh)
    assert 1e-5 < np.abs(logits - io["logits"]).max() < 1e-2
