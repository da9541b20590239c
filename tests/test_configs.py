"""Every config in configs/ builds, is documented and reads every key."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from mixer.config import ConfigReader
from mixer.sharding import create_mesh
from mixer.train_loop import build_data, build_training

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs").glob("*.py"))


def load(path: pathlib.Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_docstring_is_a_lab_notebook_entry(path):
    doc = load(path).__doc__
    for heading in ("Command:", "Hardware:", "Expected:", "Measured:"):
        assert heading in doc
    assert f"--config=configs/{path.name}" in doc


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_parts_fit_together(path, data_dir):
    config = load(path).get_config()
    config.data_dir = data_dir
    size, batch_size = config.image_size, config.batch_size
    cfg = ConfigReader(config)
    data = build_data(cfg, np.arange(batch_size))
    training = build_training(
        cfg, create_mesh(), num_classes=data.num_classes, num_examples=data.num_examples
    )
    _ = [
        cfg[key]
        for key in (
            "log_every",
            "eval_every",
            "checkpoint_every",
            "keep_checkpoints",
            "replace_damaged",
        )
    ]
    cfg.check_all_read()
    batch = {
        "images": jax.ShapeDtypeStruct((batch_size, size, size, 3), np.uint8),
        "labels": jax.ShapeDtypeStruct((batch_size, 1), np.int32),
    }
    state, metrics = jax.eval_shape(training.train_step, training.abstract_state, batch)
    assert jax.tree.structure(state) == jax.tree.structure(training.abstract_state)
    assert {name: value.shape for name, value in metrics.items()} == {"loss": (), "grad_norm": ()}
    first = next(data.train_batches(0))
    assert first["images"].shape == batch["images"].shape
