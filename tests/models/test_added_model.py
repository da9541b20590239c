"""A model from outside of the package: registered, trained, resumed, loaded and fine-tuned."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from mixer.models import MODELS
from mixer.reporting.metrics import read_metrics
from mixer.train_loop import train
from mixer.weights.load import initial_params, load_model


class Perceptron(nn.Module):
    """One hidden layer over all pixels."""

    num_classes: int
    hidden: int
    head_bias_init: float = 0.0
    dtype: str = "float32"
    remat: str = "none"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, rows=None) -> jax.Array:
        x = nn.relu(nn.Dense(self.hidden, name="hidden")(images.reshape(images.shape[0], -1)))
        return x if self.num_classes == 0 else nn.Dense(self.num_classes, name="head")(x)


def test_a_model_of_others_needs_one_line(
    tmp_path, digits_config, monkeypatch, no_pictures, on_one_device
):
    monkeypatch.setitem(MODELS, "perceptron", (Perceptron, {}))
    sizes = {"name": "perceptron", "hidden": 32, "head_bias_init": 0.0}
    digits_config.model = ConfigDict(sizes | {"dtype": "float32", "remat": "none"})
    whole, workdir = tmp_path / "whole", tmp_path / "parts"
    train(digits_config, whole)
    assert read_metrics(whole)[-1]["test/top1"] > 0.3  # after 20 steps; by chance 0.1
    loaded = load_model(str(whole))
    assert loaded.model == Perceptron(10, 32)
    logits = loaded.model.apply(
        {"params": loaded.params},
        np.zeros((2, loaded.image_size, loaded.image_size, 3), np.float32),
    )
    assert logits.shape == (2, 10)
    started = initial_params(str(whole), Perceptron(3, 32), image_size=loaded.image_size)
    assert started.keys() == {"hidden"}
    digits_config.model.hiden = 3
    with pytest.raises(ValueError, match="field of the model perceptron 'hiden'.*mean 'hidden'"):
        train(digits_config, workdir)
    digits_config.model = ConfigDict({**digits_config.model, "name": "perceptrn"})
    with pytest.raises(ValueError, match="Unknown model 'perceptrn'.*mean 'perceptron'"):
        train(digits_config, workdir)
