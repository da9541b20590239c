"""The pre-training configs against the paper's numbers, key by key."""

import re

import pytest
from ml_collections import ConfigDict

from configs import finetune, pretrain_imagenet, pretrain_imagenet21k, pretrain_jft300m
from mixer.models import named
from mixer.paper import reference
from mixer.sweep.grid import combinations_of

RECIPES = {
    "imagenet": pretrain_imagenet,
    "imagenet21k": pretrain_imagenet21k,
    "jft300m": pretrain_jft300m,
}
ALL = [(pretrain, size) for pretrain, module in RECIPES.items() for size in module.SIZES]
SIZES = [(pretrain, size) for pretrain, size in ALL if "-" not in size]  # of Mixer
SWEPT = ["imagenet", "imagenet21k"]
# The keys of a sweep by the names in the paper's data.
SWEEP_NAMES = {
    "randaugment.magnitude": "randaugment_magnitude",
    "mixup_alpha": "mixup_p",
    "model.dropout_rate": "dropout",
    "model.stochastic_depth_rate": "stochastic_depth",
    "optimizer.learning_rate": "learning_rate",
    "optimizer.weight_decay": "weight_decay",
}


def family(size: str) -> str:
    return f"Mixer-{size[0]}"


def read(config: ConfigDict, key: str):
    for part in key.split("."):
        config = config[part]
    return config


@pytest.mark.parametrize(("pretrain", "size"), SIZES)
def test_every_key_of_the_paper_has_its_number(pretrain, size):
    config = RECIPES[pretrain].get_config(size)
    row, fixed = reference.table4(family(size), pretrain), reference.PRETRAINING
    variant, _, epochs = size.partition(",")
    expected = {
        "model.variant": variant,
        "model.dropout_rate": row.dropout or 0.0,
        "model.stochastic_depth_rate": row.stochastic_depth or 0.0,
        "randaugment.layers": 2 if row.randaugment_magnitude is not None else 0,
        "randaugment.magnitude": row.randaugment_magnitude or 0.0,
        "mixup_alpha": row.mixup_p or 0.0,
        "num_epochs": float(epochs or row.epochs[0]),
        "model.name": "mixer",
        "optimizer.name": fixed.optimizer.lower(),
        "optimizer.decay": fixed.decay,
        "optimizer.learning_rate": row.learning_rate,
        "optimizer.weight_decay": row.weight_decay,
        "optimizer.beta1": fixed.beta1,
        "optimizer.beta2": fixed.beta2,
        "optimizer.clip_global_norm": fixed.grad_clip_global_norm,
        "optimizer.warmup_steps": fixed.warmup_steps,
        "image_size": fixed.resolution,
        "batch_size": fixed.batch_size,
        # Not the paper's, but what the public code of its authors does.
        "optimizer.end_learning_rate": 1e-5,
        "loss": "sigmoid",
        "model.gelu_approximate": True,
        "model.head_bias_init": -6.9 if pretrain == "imagenet" else -10.0,
        "train_crop.name": "inception_crop",
        "train_crop.area": (0.05, 1.0),
        "flip": True,
        "eval_crop": "resmall_crop",
        "eval_resize": 256,
        "dataset": {"imagenet": "imagenet2012"}.get(pretrain, pretrain),
    }
    assert {key: read(config, key) for key in expected} == expected
    assert RECIPES[pretrain].get_config(f"Mixer-{size}") == config


# Table 3 of the ViT paper: epochs, learning rate, weight decay, dropout.
VIT_PAPER = {
    ("jft300m", "ViT-B/32"): (7, 8e-4, 0.1, 0.0),
    ("jft300m", "ViT-B/16"): (7, 8e-4, 0.1, 0.0),
    ("jft300m", "ViT-L/32"): (7, 6e-4, 0.1, 0.0),
    ("jft300m", "ViT-L/16"): (7, 4e-4, 0.1, 0.0),
    ("jft300m", "ViT-L/16,14"): (14, 4e-4, 0.1, 0.0),
    ("jft300m", "ViT-H/14"): (14, 3e-4, 0.1, 0.0),
    ("jft300m", "BiT-R50x1"): (7, 1e-3, 0.1, None),
    ("jft300m", "BiT-R50x2"): (7, 1e-3, 0.1, None),
    ("jft300m", "BiT-R152x1"): (7, 6e-4, 0.1, None),
    ("jft300m", "BiT-R152x2"): (7, 6e-4, 0.1, None),
    ("jft300m", "BiT-R152x2,14"): (14, 6e-4, 0.1, None),
    ("jft300m", "BiT-R200x3"): (14, 6e-4, 0.1, None),  # the learning rate is ours
    ("imagenet21k", "ViT-L/16,90"): (90, 1e-3, 0.03, 0.1),
}
# AugReg: RandAugment's magnitude, mixup p, dropout, stochastic depth; 300 epochs, cosine.
AUGREG = {
    ("imagenet", "ViT-B/16"): (20.0, 0.8, 0.1, 0.1),  # strong2
    ("imagenet", "ViT-L/16"): (15.0, 0.5, 0.0, 0.0),  # medium2
    ("imagenet21k", "ViT-B/16"): (15.0, 0.2, 0.0, 0.0),  # medium1
    ("imagenet21k", "ViT-L/16"): (20.0, 0.5, 0.0, 0.0),  # strong1
}
# The BiT paper: epochs, where the learning rate is divided by 10.
BIT_PAPER = {
    ("imagenet21k", "BiT-R152x4"): (90, (30, 60, 80)),
    ("jft300m", "BiT-R152x4"): (40, (10, 23, 30, 37)),
}
SHARED = {
    "image_size": 224,
    "batch_size": 4096,
    "train_crop.name": "inception_crop",
    "flip": True,
    "loss": "sigmoid",
}


def assert_keys(pretrain: str, size: str, expected: dict[str, object]) -> ConfigDict:
    config = RECIPES[pretrain].get_config(size)
    expected = SHARED | expected
    assert {key: read(config, key) for key in expected} == expected
    return config


def test_every_model_has_one_source():
    assert {pair for pair in ALL if "-" in pair[1]} == {*VIT_PAPER, *AUGREG, *BIT_PAPER}


@pytest.mark.parametrize(("pretrain", "size"), VIT_PAPER)
def test_the_recipes_of_the_vit_paper(pretrain, size):
    epochs, learning_rate, weight_decay, dropout = VIT_PAPER[pretrain, size]
    expected = {
        "num_epochs": float(epochs),
        "randaugment.layers": 0,
        "mixup_alpha": 0.0,
        "model.head_bias_init": -10.0,
        "optimizer.name": "adam",
        "optimizer.learning_rate": learning_rate,
        "optimizer.warmup_steps": 10_000,
        "optimizer.decay": "linear",
        "optimizer.weight_decay": weight_decay,
        "optimizer.beta1": 0.9,
        "optimizer.beta2": 0.999,
        "optimizer.clip_global_norm": 0.0,  # only on ImageNet
    }
    config = assert_keys(pretrain, size, expected)
    if dropout is None:
        assert (config.model.name, config.model.version) == ("bit", "v1")
        return
    assert (config.model.name, config.model.pool) == ("vit", "token")
    assert (config.model.dropout_rate, config.model.stochastic_depth_rate) == (dropout, 0.0)
    width = {"B": 768, "L": 1024, "H": 1280}[config.model.variant[0]]
    assert config.model.representation_size == width


@pytest.mark.parametrize(("pretrain", "size"), AUGREG)
def test_the_recipes_of_augreg(pretrain, size):
    magnitude, mixup_alpha, dropout, depth = AUGREG[pretrain, size]
    expected = {
        "num_epochs": 300.0,
        "randaugment.layers": 2,
        "randaugment.magnitude": magnitude,
        "mixup_alpha": mixup_alpha,
        "model.name": "vit",
        "model.pool": "token",
        "model.representation_size": 0,
        "model.dropout_rate": dropout,
        "model.stochastic_depth_rate": depth,
        "model.head_bias_init": -6.9 if pretrain == "imagenet" else -10.0,
        "optimizer.name": "adam",
        "optimizer.learning_rate": 1e-3,
        "optimizer.warmup_steps": 10_000,
        "optimizer.decay": "cosine",
        "optimizer.end_learning_rate": 0.0,
        "optimizer.weight_decay": 0.1,
        "optimizer.clip_global_norm": 1.0,
    }
    assert_keys(pretrain, size, expected)


@pytest.mark.parametrize(("pretrain", "size"), BIT_PAPER)
def test_the_recipes_of_the_bit_paper(pretrain, size):
    epochs, stairs = BIT_PAPER[pretrain, size]
    expected = {
        "num_epochs": float(epochs),
        "randaugment.layers": 0,
        "mixup_alpha": 0.0,
        "model.name": "bit",
        "model.version": "v2",
        "model.head_bias_init": -10.0,
        "optimizer.name": "momentum",
        "optimizer.learning_rate": 0.48,
        "optimizer.warmup_steps": 5_000,
        "optimizer.decay": "staircase",
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 1e-4,
        "optimizer.clip_global_norm": 0.0,
    }
    config = assert_keys(pretrain, size, expected)
    assert [at * epochs for at in config.optimizer.decay_at] == pytest.approx(stairs)


def test_all_rows_of_table_4_and_all_epochs_are_covered():
    covered = {
        (family(size), pretrain, round(RECIPES[pretrain].get_config(size).num_epochs))
        for pretrain, size in SIZES
    }
    rows = reference.table4_rows()
    assert len(rows) == 8
    assert covered == {(row.model, row.pretrain, n) for row in rows for n in row.epochs}
    assert len(covered) == 9


def test_all_rows_of_table_3_are_covered_and_quoted():
    rows = reference.table3_rows()
    assert len(rows) == 26
    for row in rows:
        module = RECIPES[row.pretrain]
        path = reference.pretraining_config(row.pretrain, row.model, row.pretrain_epochs)
        file, _, size = path.partition(":")
        assert file == f"configs/{module.__name__.rpartition('.')[2]}.py"
        config = module.get_config(size)
        assert config.num_epochs == row.pretrain_epochs
        assert named(row.model) == (config.model.name, config.model.variant)
        quoted = [
            line.split() for line in module.__doc__.splitlines() if line.split()[:1] == [size]
        ]
        numbers = [row.imagenet_top1, row.real_top1, row.avg5_top1]
        numbers += [row.img_per_sec_per_core, row.tpu_v3_core_days]
        assert quoted, f"{size} is not in the docstring"
        if row.image_size == 224:
            found = [None if cell == "-" else float(cell) for cell in quoted[0][-5:]]
            assert found == numbers


# Rows of Table 2 that are not quoted from others: their epochs, and top-1 on ImageNet.
TABLE2 = [
    ("imagenet21k", "Mixer-L/16", 300, 84.15),
    ("imagenet21k", "ViT-L/16", 90, 85.3),
    ("imagenet21k", "BiT-R152x4", 90, 85.39),
    ("jft300m", "Mixer-H/14", 14, 87.94),
    ("jft300m", "BiT-R152x4", 40, 87.54),
    ("jft300m", "ViT-H/14", 14, 88.55),
]


@pytest.mark.parametrize(("pretrain", "model", "epochs", "top1"), TABLE2)
def test_all_rows_of_table_2_are_covered(pretrain, model, epochs, top1):
    size = reference.pretraining_config(pretrain, model, epochs).partition(":")[2]
    config = RECIPES[pretrain].get_config(size)
    assert config.num_epochs == epochs
    assert named(model) == (config.model.name, config.model.variant)
    if (model, epochs) in [("ViT-L/16", 90), ("BiT-R152x4", 90), ("BiT-R152x4", 40)]:
        assert re.search(rf"^ +{size} +.*\b{top1}\b", RECIPES[pretrain].__doc__, re.M)


@pytest.mark.parametrize("row", reference.table3_rows(), ids=str)
def test_every_row_of_table_3_has_its_fine_tuning(row):
    for dataset in ("imagenet", "cifar10", "cifar100", "pets", "flowers"):
        path = reference.finetuning_config(row.pretrain, row.model, row.image_size, dataset)
        file, _, what = path.partition(":")
        config = finetune.get_config(what)
        assert file == "configs/finetune.py"
        assert config.image_size == row.image_size
        assert named(row.model) == (config.model.name, config.model.variant)
        # The weights of the row fit: those of the same network.
        size = reference.pretraining_config(row.pretrain, row.model, row.pretrain_epochs)
        pretrained = RECIPES[row.pretrain].get_config(size.partition(":")[2])
        for key in ("version", "pool", "gelu_approximate"):
            assert config.model.get(key) == pretrained.model.get(key)


def test_the_models_of_figures_2_and_4_have_recipes_of_7_epochs():
    figure2 = ("B/32", "L/32", "L/16", "ViT-B/32", "ViT-L/32", "ViT-L/16", "BiT-R152x2")
    for size in (*figure2, "B/16", "BiT-R50x1"):
        assert pretrain_jft300m.get_config(size).num_epochs == 7.0


@pytest.mark.parametrize("pretrain", SWEPT)
def test_the_sweep_is_that_of_appendix_b(pretrain):
    module = RECIPES[pretrain]
    assert {SWEEP_NAMES[key]: values for key, values in module.SWEEP.items()} == reference.SWEEPS
    grid = combinations_of(module.SWEEP)
    assert len({tuple(point.items()) for point in grid}) == len(grid) == 256


@pytest.mark.parametrize(("pretrain", "size"), [pair for pair in SIZES if pair[0] in SWEPT])
def test_the_recipe_is_one_point_of_the_sweep(pretrain, size):
    config = RECIPES[pretrain].get_config(size)
    chosen = {key: read(config, key) for key in SWEEP_NAMES}
    grid = combinations_of(RECIPES[pretrain].SWEEP)
    assert grid.count(chosen) == 1
    for point in grid:  # every one is accepted, with the types of the config
        config.update_from_flattened_dict(point)
        assert {key: read(config, key) for key in point} == point
