"""Every config of configs/ in every size: documented, complete, traced; shrunken copies train."""

import importlib.util
import math
import pathlib

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from mixer.build import build_data, build_options
from mixer.config import ConfigReader, to_plain
from mixer.data.table import DATASETS, num_examples
from mixer.reporting.metrics import read_metrics
from mixer.sharding import create_mesh
from mixer.train_loop import create_training, train

ROOT = pathlib.Path(__file__).parent.parent.parent


def load(path: pathlib.Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODULES = {path.stem: load(path) for path in sorted((ROOT / "configs").glob("*.py"))}
SIZES = [(name, size) for name in MODULES for size in getattr(MODULES[name], "SIZES", [None])]
PRETRAINING = [name for name in MODULES if name.startswith("pretrain_")]


def get_config(name: str, size: str | None = None) -> ConfigDict:
    return MODULES[name].get_config() if size is None else MODULES[name].get_config(size)


def trace_step(config: ConfigDict, mesh: jax.sharding.Mesh, num_classes: int, num_images: int):
    """Traces a step on abstract data; returns what was built and the reader of the config."""
    cfg = ConfigReader(config)
    options = build_options(cfg, num_classes=num_classes, num_examples=num_images)
    training = create_training(options, mesh)
    batch_size, size = config.batch_size, config.image_size
    batch = {
        "images": jax.ShapeDtypeStruct((batch_size, size, size, 3), np.uint8),
        "labels": jax.ShapeDtypeStruct((batch_size, 1), np.int32),
    }
    state, metrics = jax.eval_shape(training.train_step, training.abstract_state, batch)
    assert jax.tree.structure(state) == jax.tree.structure(training.abstract_state)
    assert {name: value.shape for name, value in metrics.items()} == {"loss": (), "grad_norm": ()}
    return options, training, cfg


@pytest.mark.parametrize("name", MODULES)
def test_the_docstring_is_a_lab_notebook_entry(name):
    doc = MODULES[name].__doc__
    for heading in ("Command:", "Hardware:", "Expected:", "Measured:"):
        assert heading in doc
    assert f"--config=configs/{name}.py" in doc


def test_every_config_has_the_same_keys():
    def keys(section: dict, path: str = "") -> set[str]:
        names = set()
        for key, value in section.items():
            names |= keys(value, f"{path}{key}.") if isinstance(value, dict) else {path + key}
        return names

    def all_keys(name: str, size: str | None = None) -> set[str]:
        return {key for key in keys(to_plain(get_config(name, size))) if "eval_splits" not in key}

    assert len(SIZES) == 26
    expected = all_keys("pretrain_imagenet")
    digits = all_keys("digits")
    # The digits state what a variant of Table 1 stands for.
    sizes = {"patch_size", "num_blocks", "hidden_dim", "tokens_mlp_dim", "channels_mlp_dim"}
    assert digits - {f"model.{field}" for field in sizes} | {"model.variant"} == expected
    for name, size in SIZES:
        if name.startswith("pretrain_"):
            assert all_keys(name, size) == expected, (name, size)
    # Fine-tuning counts steps, crops in another way, and has momentum in the place of Adam.
    finetune = all_keys("finetune")
    adam = {f"optimizer.{key}" for key in ("beta1", "beta2", "mu_dtype", "weight_decay")}
    assert expected - finetune == {"num_epochs", "train_crop.area", *adam}
    momentum = {"optimizer.momentum", "optimizer.momentum_dtype"}
    assert (
        finetune - expected == {"num_steps", "train_crop.resize", "model.tokens_mlp_dim"} | momentum
    )


def test_the_parts_of_the_digits_fit_together(data_dir):
    config = get_config("digits")
    config.data_dir = data_dir
    data = build_data(ConfigReader(config), np.arange(config.batch_size))
    options, _, _ = trace_step(config, create_mesh(), data.num_classes, data.num_examples)
    assert options.total_steps == 1343
    assert next(data.train_batches(0))["images"].shape == (64, 16, 16, 3)


# Dataset, model, size and epochs to the number of steps and of parameters.
@pytest.mark.parametrize(
    ("name", "size", "steps", "millions"),
    [
        ("pretrain_imagenet", "B/32", 92_897, 60.3),
        ("pretrain_imagenet", "B/16", 92_897, 59.9),
        ("pretrain_imagenet", "L/32", 92_897, 206.9),
        ("pretrain_imagenet", "L/16", 92_897, 208.2),
        ("pretrain_imagenet21k", "B/32", 1_036_078, 76.3),
        ("pretrain_imagenet21k", "B/16", 1_036_078, 75.9),
        ("pretrain_imagenet21k", "L/32", 1_036_078, 228.3),
        ("pretrain_imagenet21k", "L/16", 1_036_078, 229.6),
        ("pretrain_jft300m", "S/32", 366_148, 28.0),
        ("pretrain_jft300m", "S/16", 366_148, 27.4),
        ("pretrain_jft300m", "B/32", 512_608, 73.6),
        ("pretrain_jft300m", "B/16", 512_608, 73.2),
        ("pretrain_jft300m", "L/32", 512_608, 224.7),
        ("pretrain_jft300m", "L/32,14", 1_025_216, 224.7),
        ("pretrain_jft300m", "L/16", 512_608, 225.9),
        ("pretrain_jft300m", "L/16,14", 1_025_216, 225.9),
        ("pretrain_jft300m", "H/14", 1_025_216, 454.5),
        ("finetune", "S/32,pets", 500, 18.6),
        ("finetune", "B/16,cifar10", 10_000, 59.1),
        # Token mixing with 4 times the tokens and hidden units: 12 blocks of 4 x 4 times as much.
        ("finetune", "B/16,cifar100,448", 10_000, 86.3),
        ("finetune", "L/16,flowers,448,inception_crop", 500, 279.6),
        ("finetune", "H/14,imagenet", 20_000, 432.4),
        ("finetune", "Ti/4,digits,32", 200, 0.2),
    ],
)
def test_every_size_is_traced_without_data(name, size, steps, millions):
    config = get_config(name, size)
    images = num_examples(config.dataset, config.train_split, config.train_fraction)
    num_classes = DATASETS[config.dataset].num_classes
    config.mesh = {"data": -1, "fsdp": 1}
    options, training, _ = trace_step(config, create_mesh(), num_classes, images)
    assert options.total_steps == steps
    assert f"{steps:,}" in MODULES[name].__doc__
    counts = [math.prod(leaf.shape) for leaf in jax.tree.leaves(training.abstract_state.params)]
    assert round(sum(counts) / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("name", "first_loss"),
    [
        # The head gives its bias b to all C classes: C softplus(b) - b, whatever mixup does.
        ("pretrain_imagenet", 1000 * math.log1p(math.exp(-6.9)) + 6.9),
        ("pretrain_imagenet21k", 21_843 * math.log1p(math.exp(-10)) + 10),
        ("pretrain_jft300m", 18_291 * math.log1p(math.exp(-10)) + 10),
    ],
)
@pytest.mark.usefixtures("quick_compilation", "no_pictures")
def test_a_shrunken_copy_trains(name, first_loss, tmp_path, write_mock_dataset):
    config = get_config(name)
    write_mock_dataset(config.dataset, str(tmp_path), "array_record", 64)
    config.data_dir = str(tmp_path)
    config.train_split = config.train_split.replace("51200", "8")
    config.eval_splits.minival = config.eval_splits.minival.replace("51200", "8")
    config.image_size, config.eval_resize = 32, 36
    config.batch_size, config.num_stripes = 16, 4
    config.num_epochs = 32 / 60  # of 63 or 56 examples
    config.model.update(
        patch_size=8, num_blocks=2, hidden_dim=16, tokens_mlp_dim=8, channels_mlp_dim=32
    )
    config.optimizer.warmup_steps = 1
    config.log_every = 1
    result = train(config, tmp_path / "workdir")
    first, second, *_ = read_metrics(tmp_path / "workdir")
    assert (first["step"], second["step"]) == (1, 2)
    assert first["loss"] == pytest.approx(first_loss, rel=1e-3)
    assert first["learning_rate"] == 0.0
    assert second["learning_rate"] == pytest.approx(config.optimizer.learning_rate)
    assert result["minival/count"] == (1 if "%" in config.eval_splits.minival else 8)


@pytest.mark.parametrize("name", PRETRAINING)
@pytest.mark.parametrize("size", ["B/8", "M/16", "", "L/16,15"])
def test_a_size_without_a_recipe_is_refused(name, size):
    with pytest.raises(ValueError, match=f"Unknown size of {name}.py '{size}'.* one of: .*B/16"):
        get_config(name, size)
