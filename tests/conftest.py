"""Eight virtual CPU devices for every test; must be set before JAX starts its backend."""

import os
import pathlib
import tempfile
from collections.abc import Callable

# With fewer threads than virtual devices, XLA's CPU collectives wait for each other for ever.
os.environ["NPROC"] = "16"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# What one test has compiled no other compiles again, nor do the programs that tests start. Set by
# the first process; those that pytest-xdist starts inherit it.
if "MIXER_TESTS_CACHE" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="mixer-tests-")  # deleted at exit
    os.environ["MIXER_TESTS_CACHE"] = os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax
import numpy as np
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


@pytest.fixture(scope="session")
def write_mock_dataset() -> Callable[..., None]:
    """Writes random examples in the format, the place and with the features of a row.

    Arguments: the name of the row, the folder, the format of the files, how many (six). They are
    the split `train`, made by TFDS from its own metadata where it has the dataset.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds

    from mixer.data.table import DATASETS

    def write(name: str, data_dir: str, file_format: str, count: int = 6) -> None:
        row = DATASETS[name]
        if name in ("imagenet21k", "jft300m"):  # TFDS has no builder
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(num_classes=row.num_classes),
                }
            )
            rng = np.random.default_rng(0)
            pixels = rng.integers(0, 256, (count, 40, 50, 3), np.uint8)
            examples = {"image": pixels, "label": rng.integers(0, row.num_classes, count)}
            dataset = tf.data.Dataset.from_tensor_slices(examples)
            version = "1.0.0"
        else:
            builder = tfds.builder(row.tfds_name, data_dir=data_dir)
            version = str(builder.version)
            keys = (row.image_key, row.label_key, "file_name")
            keys = [key for key in keys if key in builder.info.features]
            features = tfds.features.FeaturesDict({key: builder.info.features[key] for key in keys})
            with tfds.testing.mock_data(num_examples=count):
                dataset = builder.as_dataset(split="train").map(lambda e: {k: e[k] for k in keys})
        base, _, config = row.tfds_name.partition("/")
        tfds.dataset_builders.store_as_tfds_dataset(
            name=base,
            config=config or None,
            version=version,
            features=features,
            split_datasets={"train": dataset},
            data_dir=data_dir,
            file_format=file_format,
        )

    return write


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
