"""Which config given weights get, of every family, with and without a named size."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from configs import vtab as config_file
from mixer.data.vtab import TASKS
from mixer.models import build_model
from mixer.vtab.recipe import Recipe, recipe_of
from mixer.weights.families import find_architecture
from mixer.weights.load import initial_params, load_weights
from mixer.weights.weights import Weights

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
SMALL, LARGE = TASKS["cifar100"], TASKS["dtd"]


def weights_of(
    family: str, image_size: int = 224, *, model: dict | None = None, **fields
) -> Weights:
    """Returns weights without numbers: `recipe_of` looks at shapes alone."""
    module = build_model(family, num_classes=10, **fields)
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    return Weights(params, "", family, find_architecture(params, family), image_size, model or {})


@pytest.mark.parametrize(
    ("weights", "recipe"),
    [
        (
            weights_of("mixer", variant="L/16", model={"gelu_approximate": True}),
            Recipe("L/16", {"gelu_approximate": True}),
        ),
        (weights_of("vit", variant="B/32"), Recipe("ViT-B/32", {"pool": "token"})),
        (weights_of("bit", variant="R50x1"), Recipe("BiT-R50x1", {"version": "v2"})),
        (weights_of("gmlp", variant="S/16"), Recipe("gMLP-S/16", {"gelu_approximate": False})),
    ],
    ids=["mixer", "vit", "bit", "gmlp"],
)
def test_weights_of_a_named_size_have_its_config(weights, recipe):
    found = recipe_of(weights)
    fields = {name: found.fields[name] for name in recipe.fields}
    assert (found.size, fields, found.own_pixels) == (recipe.size, recipe.fields, 0)
    changed = found.overrides(LARGE)
    assert {key.partition(".")[0] for key in changed} <= {"model"}


@pytest.mark.parametrize(
    ("source", "task", "pixels"),
    [
        ("mixer_tiny.npz", SMALL, 16),
        ("mixer_tiny.npz", LARGE, 32),
        ("vit_tiny_gap.npz", LARGE, None),
        ("bit_tiny.npz", SMALL, None),
        ("timm_gmlp_tiny.safetensors", LARGE, None),
    ],
)
def test_weights_without_a_named_size_fit_the_config_that_they_get(source, task, pixels):
    path = str(GOLDEN / source)
    weights = load_weights(path)
    recipe = recipe_of(weights)
    name = "cifar100" if task is SMALL else "dtd"
    config = config_file.get_config(f"{recipe.size},{name}")
    config.update_from_flattened_dict(recipe.overrides(task))
    assert config.image_size == config.eval_resize
    assert config.train_crop.resize == config.image_size * 8 // 7
    if pixels:
        assert config.image_size == pixels
    model = build_model(**config.model.to_dict(), num_classes=5)
    found = initial_params(path, model, config.image_size)
    images = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), np.float32)
    needed = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    needed.pop("head")
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, needed)


def test_a_task_without_crops_keeps_the_whole_image():
    recipe = recipe_of(load_weights(str(GOLDEN / "mixer_tiny.npz")))
    changed = recipe.overrides(TASKS["kitti-distance"])
    assert (changed["image_size"], changed["train_crop.resize"]) == (32, 32)
    assert changed["model.tokens_mlp_dim"] == 4 * 20


def test_weights_for_many_pixels_stay_at_them():
    fields = {"num_blocks": 1, "patch_size": 32, "hidden_dim": 8}
    fields |= {"tokens_mlp_dim": 4, "channels_mlp_dim": 8}
    recipe = recipe_of(weights_of("mixer", 448, **fields))
    assert recipe.overrides(SMALL)["image_size"] == recipe.overrides(LARGE)["image_size"] == 448
    assert recipe.overrides(LARGE)["model.tokens_mlp_dim"] == 4


@pytest.mark.parametrize("approximate", [True, False])
@pytest.mark.parametrize("assumed", [True, False])
def test_the_gelu_of_the_weights_is_kept(approximate, assumed):
    weights = weights_of("mixer", variant="B/16", model={"gelu_approximate": approximate})
    weights = dataclasses.replace(weights, assumes_gelu=assumed)
    assert recipe_of(weights).overrides(LARGE)["model.gelu_approximate"] is approximate


def test_models_of_experiments_have_no_recipe():
    fields = {"num_blocks": 1, "patch_size": 4, "hidden_dim": 8}
    fields |= {"tokens_mlp_dim": 4, "channels_mlp_dim": 8}
    weights = weights_of("mixer", 8, **fields, model={"name": "permuted_mixer"})
    with pytest.raises(ValueError, match="mixer, vit, bit, gmlp; got those of permuted_mixer"):
        recipe_of(weights)
