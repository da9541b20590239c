"""The pre-training configs against the paper's numbers, key by key."""

import pytest
from ml_collections import ConfigDict

from configs import pretrain_imagenet, pretrain_imagenet21k, pretrain_jft300m
from mixer.paper import reference
from mixer.sweep.grid import combinations_of

RECIPES = {
    "imagenet": pretrain_imagenet,
    "imagenet21k": pretrain_imagenet21k,
    "jft300m": pretrain_jft300m,
}
SIZES = [(pretrain, size) for pretrain, module in RECIPES.items() for size in module.SIZES]
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
    rows = [
        row
        for row in reference.table3_rows()
        if row.model.startswith("Mixer") and row.image_size == 224
    ]
    assert len(rows) == 12
    for row in rows:
        module = RECIPES[row.pretrain]
        size = row.model.removeprefix("Mixer-")
        if f"{size},{row.pretrain_epochs}" in module.SIZES:
            size += f",{row.pretrain_epochs}"
        assert module.get_config(size).num_epochs == row.pretrain_epochs
        quoted = [
            line.split() for line in module.__doc__.splitlines() if line.split()[:1] == [size]
        ]
        numbers = [row.imagenet_top1, row.real_top1, row.avg5_top1]
        numbers += [row.img_per_sec_per_core, row.tpu_v3_core_days]
        assert quoted, f"{size} is not in the docstring"
        assert [float(number) for number in quoted[0][-5:]] == numbers


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
