"""Eight virtual CPU devices for every test; must be set before JAX starts its backend."""

import os
import pathlib

# With fewer threads than virtual devices, XLA's CPU collectives wait for each other for ever.
os.environ["NPROC"] = "16"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import jax
import pytest
from ml_collections import ConfigDict

from configs import digits
from mixer.models.mixer import MlpMixer

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the digits, prepared once."""
    from mixer.data.datasets import open_dataset

    folder = str(tmp_path_factory.mktemp("tensorflow_datasets"))
    open_dataset("digits", "train", folder)
    return folder


@pytest.fixture
def digits_config(data_dir: str) -> ConfigDict:
    """The config of the quick start with a small model and a short run of 20 steps."""
    config = digits.get_config()
    config.data_dir = data_dir
    config.num_epochs = 20 * 64 / 1433
    config.model.num_blocks = 2
    config.model.hidden_dim = 16
    config.model.tokens_mlp_dim = 8
    config.model.channels_mlp_dim = 32
    config.optimizer.warmup_steps = 5
    config.log_every = 4
    config.eval_every = 20
    config.checkpoint_every = 10
    return config


@pytest.fixture
def tiny_mixer() -> MlpMixer:
    """Two blocks on 8 x 8 images with 2 x 2 patches, stochastic depth and dropout on."""
    return MlpMixer(
        num_classes=10,
        num_blocks=2,
        patch_size=2,
        hidden_dim=16,
        tokens_mlp_dim=8,
        channels_mlp_dim=32,
        stochastic_depth_rate=0.1,
        dropout_rate=0.1,
    )


@pytest.fixture
def one_device_mesh() -> jax.sharding.Mesh:
    from mixer.sharding import create_mesh

    return create_mesh(jax.devices()[:1])
