"""Every config of configs/ in every size: documented, complete, traced; shrunken copies train."""

import importlib.util
import math
import pathlib

import jax
import numpy as np
import pytest
from cases import slow_after
from ml_collections import ConfigDict

from mixer.build import build_data, build_options, build_without_data
from mixer.config import ConfigReader, check_config, to_plain
from mixer.config.check import flatten
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
# `miniature` has no recipe of its own: tests/reproduction.
SIZES = [
    (name, size)
    for name in MODULES
    if name != "miniature"
    for size in getattr(MODULES[name], "SIZES", [None])
]
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
    names = ("loss", "grad_norm", "update_norm", "param_norm")
    assert {name: value.shape for name, value in metrics.items()} == dict.fromkeys(names, ())
    return options, training, cfg


def trace_without_data(config: ConfigDict):
    """Traces a step of a config, by what the table of datasets knows; returns what was built."""
    config.mesh = {"data": -1, "fsdp": 1}
    images = num_examples(config.dataset, config.train_split, config.train_fraction)
    num_classes = DATASETS[config.dataset].num_classes
    return trace_step(config, create_mesh(), num_classes, images)[1]


@pytest.mark.parametrize("name", MODULES)
def test_the_docstring_is_a_lab_notebook_entry(name):
    doc = MODULES[name].__doc__
    for heading in ("Command:", "Hardware:", "Expected:", "Measured:"):
        assert heading in doc
    assert f"--config=configs/{name}.py" in doc


def keys_of(name: str, size: str | None = None) -> set[str]:
    flat = {key for key, _ in flatten(to_plain(get_config(name, size)))}
    return {key for key in flat if "eval_splits" not in key}


# What the config of a family has and a Mixer's does not have, and the other way round.
RANDOM = {"model.gelu_approximate", "model.dropout_rate", "model.stochastic_depth_rate"}
KEYS_OF = {
    "mixer": (set(), set()),
    "vit": ({"model.pool", "model.representation_size"}, set()),
    "bit": ({"model.version"}, RANDOM),
    "gmlp": (set(), set()),
}
ADAM = {f"optimizer.{key}" for key in ("beta1", "beta2", "mu_dtype")}
MOMENTUM = {f"optimizer.{key}" for key in ("momentum", "momentum_dtype")}
SMOOTH, STAIRCASE = {"optimizer.end_learning_rate"}, {"optimizer.decay_at"}


@pytest.mark.parametrize(("name", "size"), [pair for pair in SIZES if pair[1] != "Ti/4"])
def test_every_config_of_a_family_has_the_same_keys(name, size):
    config = get_config(name, size)
    check_config(config)
    more, fewer = KEYS_OF[config.model.name]
    expected = keys_of("pretrain_imagenet") - fewer | more
    if name in ("digits", "cifar", "cifar_fractions"):  # they state what a named size stands for
        return
    if name in ("finetune", "vtab"):  # counts steps and crops in another way
        expected = expected - {"num_epochs", "train_crop.area"} | {"num_steps"}
        expected |= {"train_crop.resize"}
        expected |= {"model.tokens_mlp_dim"} if config.model.name == "mixer" else set()
    if config.optimizer.name == "momentum":
        expected = expected - ADAM | MOMENTUM
    if config.optimizer.decay == "staircase":
        expected = expected - SMOOTH | STAIRCASE
    assert keys_of(name, size) == expected


def test_the_digits_have_these_keys_and_the_sizes_of_their_models():
    sizes = {"patch_size", "num_blocks", "hidden_dim", "tokens_mlp_dim", "channels_mlp_dim"}
    keys = keys_of("digits") - {f"model.{field}" for field in sizes} | {"model.variant"}
    assert keys == keys_of("pretrain_imagenet")
    assert len(SIZES) == 1 + 1 + 4 + 28 + 6 + 8 + 22 + 1


def test_the_parts_of_the_digits_fit_together(data_dir):
    config = get_config("digits")
    config.data_dir = data_dir
    data = build_data(ConfigReader(config), np.arange(config.batch_size))
    options, _, _ = trace_step(config, create_mesh(), data.num_classes, data.num_examples)
    assert options.total_steps == 1343
    assert next(data.train_batches(0))["images"].shape == (64, 16, 16, 3)


# Dataset and epochs, or steps, to the number of steps.
STEPS = {
    ("imagenet2012", 300.0): 92_897,
    ("imagenet21k", 300.0): 1_036_078,
    ("imagenet21k", 90.0): 310_823,
    ("jft300m", 5.0): 366_148,
    ("jft300m", 7.0): 512_608,
    ("jft300m", 14.0): 1_025_216,
    ("jft300m", 40.0): 2_929_188,
    ("cifar10", 10_000): 10_000,
    ("cifar10", 1500): 1500,
    ("cifar10", 300.0): 112_500,
    ("vtab/cifar100", 500): 500,
}


@pytest.mark.parametrize(("name", "size"), [pair for pair in SIZES if pair[0] != "digits"])
def test_every_size_has_its_steps(name, size):
    config = get_config(name, size)
    options, _ = build_without_data(config)
    steps = STEPS[config.dataset, config.get("num_epochs") or config.num_steps]
    assert options.total_steps == steps
    assert f"{steps:,}" in MODULES[name].__doc__


# To the millions of parameters.
@pytest.mark.parametrize(
    ("name", "size", "millions"),
    [
        ("pretrain_imagenet", "B/16", 59.9),
        pytest.param("pretrain_imagenet21k", "L/16", 229.6, marks=pytest.mark.slow),
        pytest.param("pretrain_jft300m", "S/32", 28.0, marks=pytest.mark.slow),
        pytest.param("pretrain_jft300m", "H/14", 454.5, marks=pytest.mark.slow),
        ("finetune", "S/32,pets", 18.6),
        # Token mixing with 4 times the tokens and hidden units: 12 blocks of 4 x 4 times as much.
        pytest.param("finetune", "B/16,cifar100,448", 86.3, marks=pytest.mark.slow),
        pytest.param(
            *("finetune", "L/16,flowers,448,inception_crop", 279.6), marks=pytest.mark.slow
        ),
        ("finetune", "Ti/4,digits,32", 0.2),
    ],
)
def test_mixers_are_traced_without_data(name, size, millions):
    training = trace_without_data(get_config(name, size))
    counts = [math.prod(leaf.shape) for leaf in jax.tree.leaves(training.abstract_state.params)]
    assert round(sum(counts) / 1e6, 1) == millions


# The other families have few blocks here, as their counts are tested with the models.
@pytest.mark.parametrize(
    ("name", "size", "head_inputs"),
    [
        ("pretrain_imagenet", "ViT-B/16", 768),
        ("pretrain_imagenet21k", "ViT-L/16,90", 1024),
        ("pretrain_jft300m", "BiT-R50x1", 512),
        ("finetune", "gMLP-S/16,imagenet", 256),
        *slow_after(
            0,
            [
                ("pretrain_jft300m", "BiT-R152x4", 2048),
                ("finetune", "ViT-H/14,pets,448", 1280),
                ("finetune", "BiT-R50x1,cifar10,128", 512),
            ],
        ),
    ],
)
def test_other_families_are_traced_without_data(name, size, head_inputs):
    config = get_config(name, size)
    config.model.update(
        {"block_sizes": (1, 1)} if config.model.name == "bit" else {"num_blocks": 1}
    )
    training = trace_without_data(config)
    params = training.abstract_state.params
    num_classes = DATASETS[config.dataset].num_classes
    assert params["head"]["kernel"].shape == (head_inputs, num_classes)
    assert ("pre_logits" in params) == (size == "ViT-L/16,90")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first_loss"),
    [
        # The head gives its bias b to all C classes: C softplus(b) - b, whatever mixup does.
        ("pretrain_imagenet", 1000 * math.log1p(math.exp(-6.9)) + 6.9),
        *(
            pytest.param(name, classes * math.log1p(math.exp(-10)) + 10, marks=pytest.mark.slow)
            for name, classes in (("pretrain_imagenet21k", 21_843), ("pretrain_jft300m", 18_291))
        ),
    ],
)
@pytest.mark.usefixtures("no_pictures", "on_one_device")
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
@pytest.mark.parametrize("size", ["B/8", "M/16", "", "L/16,15", "ViT-B/8", "BiT-B/16"])
def test_a_size_without_a_recipe_is_refused(name, size):
    with pytest.raises(ValueError, match=f"Unknown size of {name}.py '{size}'.* one of: .*B/16"):
        get_config(name, size)
