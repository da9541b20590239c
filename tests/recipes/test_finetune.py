"""The fine-tuning config against the paper's numbers, and started from a file of weights."""

import pathlib

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import finetune
from mixer.data.table import DATASETS
from mixer.models.mixer import VARIANTS
from mixer.paper.reference import FINETUNING
from mixer.reporting.metrics import read_metrics
from mixer.sweep.grid import combinations_of
from mixer.train_loop import train
from mixer.weights.catalogue import CATALOGUE

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
NAMES = [name for name in finetune.DATASETS if name not in ("digits", "folder:PATH")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", ["", ",448"])
def test_every_key_of_the_paper_has_its_number(name, options):
    config = finetune.get_config(f"B/16,{name}{options}")
    assert config.num_steps == FINETUNING.steps_from_vit_paper[name]
    assert config.batch_size == FINETUNING.batch_size
    assert config.optimizer.clip_global_norm == FINETUNING.grad_clip_global_norm
    assert "weight_decay" not in config.optimizer
    assert FINETUNING.weight_decay == 0
    assert config.image_size in FINETUNING.resolutions
    assert (config.optimizer.name, config.optimizer.decay) == ("momentum", "cosine")
    assert (config.loss, config.model.head_bias_init) == ("softmax", 0.0)
    assert (config.eval_crop, config.eval_resize / config.image_size) == ("resize_crop", 256 / 224)
    grid = [{"optimizer.learning_rate": rate} for rate in FINETUNING.learning_rate_grid[name]]
    assert combinations_of(finetune.SWEEP) == grid
    assert {"optimizer.learning_rate": config.optimizer.learning_rate} in grid
    assert {config.eval_splits.test} <= {*DATASETS[config.dataset].splits}


@pytest.mark.parametrize("size", [size for size in finetune.SIZES if size != "Ti/4"])
def test_the_token_mixing_of_every_size_grows_with_the_tiles(size):
    pretrained = VARIANTS[size]["tokens_mlp_dim"]
    assert finetune.get_config(size).model.tokens_mlp_dim == pretrained
    assert finetune.get_config(f"{size},pets,448").model.tokens_mlp_dim == 4 * pretrained


@pytest.mark.parametrize("size", finetune.SIZES)
def test_the_weights_to_begin_with_are_of_the_size_or_must_be_named(size):
    source = finetune.get_config(size).init_from
    if source in CATALOGUE:
        assert CATALOGUE[source].variant == size
    else:
        assert source == "runs/digits" or "set init_from" in source


def test_the_inception_crop_and_a_folder():
    config = finetune.get_config("L/16,folder:/a/b,448,inception_crop")
    assert config.dataset == "folder:/a/b"
    assert config.train_crop.to_dict() == {"name": "inception_crop", "area": (0.05, 1.0)}
    assert config.image_size == 448


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("B/8,cifar10", "Unknown size of finetune.py 'B/8'"),
        ("B/16,cifar", "Unknown dataset of finetune.py 'cifar'.*Did you mean 'cifar10'"),
        ("B/16,cifar10,384", "Unknown option of finetune.py for B/16 '384'.*448"),
        ("Ti/4,digits,448", "Unknown option of finetune.py for Ti/4 '448'"),
    ],
)
def test_what_there_is_no_recipe_for_is_refused(what, message):
    with pytest.raises(ValueError, match=message):
        finetune.get_config(what)


@pytest.fixture(scope="module")
def mock_images(tmp_path_factory, write_mock_dataset) -> str:
    """A folder with 40 images of 32 pixels in the place of CIFAR-10."""
    folder = str(tmp_path_factory.mktemp("tensorflow_datasets"))
    write_mock_dataset("cifar10", folder, "array_record", 40)
    return folder


@pytest.fixture
def small_config(mock_images, quick_compilation, no_pictures) -> ConfigDict:
    """The recipe for CIFAR-10 on 40 mock images of 32 pixels, with weights for 16 pixels."""
    config = finetune.get_config("B/16,cifar10")
    config.data_dir = mock_images
    config.eval_splits = ConfigDict({"minival": "train[98%:]"})
    config.init_from = str(GOLDEN / "mixer_tiny.npz")
    config.model.update(patch_size=4, num_blocks=3, hidden_dim=24, channels_mlp_dim=40)
    config.model.tokens_mlp_dim = 4 * 20
    config.model.dtype = "float32"
    config.image_size, config.eval_resize, config.train_crop.resize = 32, 36, 36
    config.batch_size = 16
    config.num_steps, config.optimizer.warmup_steps, config.log_every = 3, 1, 1
    return config


def test_a_run_begins_with_the_resized_weights_and_a_head_of_zeros(small_config, tmp_path, capsys):
    small_config.optimizer.momentum_dtype = "bfloat16"
    result = train(small_config, tmp_path / "workdir")
    shown = capsys.readouterr().out
    assert f"from the weights {GOLDEN}/mixer_tiny.npz, with a fresh head." in shown
    first, *_ = read_metrics(tmp_path / "workdir")
    assert first["loss"] == pytest.approx(np.log(10), rel=1e-6)  # whatever the features are
    assert result["minival/count"] == 1
    # Now the checkpoint of the workdir goes first, whatever init_from says.
    small_config.init_from = "nowhere.npz"
    assert train(small_config, tmp_path / "workdir") == result
    assert "Resuming" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("init_from", "nowhere.npz", "nowhere.npz"),
        ("init_from", "imagenet21k/Mixer-B16", "Did you mean 'imagenet21k/Mixer-B_16'"),
        ("model.tokens_mlp_dim", 20, r"tokens_mlp_dim 80 \(the config: 20\)"),
        ("model.hidden_dim", 32, r"hidden_dim 24 \(the config: 32\)"),
        ("image_size", 24, "integer multiples of 16. Expected 16, 32, 48, ...; got 24"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_nothing_is_written(
    small_config, tmp_path, key, value, message
):
    small_config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=message):
        train(small_config, tmp_path / "workdir")
    assert not (tmp_path / "workdir").exists()
