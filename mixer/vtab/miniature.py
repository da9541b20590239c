"""VTAB-1k in miniature: the same runs and the same report, of a tiny Mixer on mock data."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from mixer.data.vtab_mock import mock_split, write_mock_data
from mixer.models import build_model
from mixer.vtab.plan import Vtab
from mixer.vtab.recipe import recipe_of
from mixer.weights import save_params
from mixer.weights.load import load_weights

_PIXELS = 16  # of small images; large ones have twice as many
_MODEL: dict[str, Any] = {
    "patch_size": 4,
    "num_blocks": 1,
    "hidden_dim": 16,
    "tokens_mlp_dim": 8,
    "channels_mlp_dim": 32,
}
_CHANGES = {
    "num_steps": 10,
    "optimizer.warmup_steps": 1,
    "batch_size": 16,
    "log_every": 10,
    "eval_every": 10,
    "checkpoint_every": 10,
    "model.dtype": "float32",
}
FEW = ("eurosat", "clevr-count")  # a task of small images and one of large ones
_SPLITS = ("train800", "val200", "train800val200", "test")


def with_random_weights(vtab: Vtab) -> Vtab:
    """Returns the same with the random weights of a tiny Mixer, written to WORKDIR/mock."""
    vtab.check_workdir()
    path = vtab.workdir / "mock" / "tiny.npz"
    if not path.exists():
        _write_weights(path)
    return dataclasses.replace(vtab, weights=str(path), recipe=recipe_of(load_weights(str(path))))


def shrink(vtab: Vtab, data_dir: pathlib.Path) -> Vtab:
    """Returns the miniature, with its data written to a folder. The weights are tiny already."""
    vtab.check_workdir()
    for task in vtab.tasks:
        write_mock_data(task, str(data_dir))
    return dataclasses.replace(
        vtab,
        seeds=vtab.seeds[:2],
        learning_rates=(0.01, 0.03),
        changes={**vtab.changes, **_CHANGES, "data_dir": str(data_dir)},
        splits={split: mock_split(split) for split in _SPLITS},
    )


def _write_weights(path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    model = build_model("mixer", num_classes=10, **_MODEL)
    images = jnp.zeros((1, _PIXELS, _PIXELS, 3))
    save_params(path, model.init(jax.random.key(0), images)["params"])
