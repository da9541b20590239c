"""The fine-tuning config against the paper's numbers, and started from a file of weights."""

import pathlib

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from configs import finetune
from mixer.data.table import DATASETS
from mixer.models import build_model, named, sizes, title_of
from mixer.models.mixer import VARIANTS
from mixer.paper.reference import FINETUNING
from mixer.reporting.metrics import read_metrics
from mixer.sweep.grid import combinations_of
from mixer.train_loop import train
from mixer.weights import save_params
from mixer.weights.catalogue import CATALOGUE
from mixer.weights.load import initial_params

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
NAMES = [name for name in finetune.DATASETS if name not in ("digits", "folder:PATH")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", ["B/16", "ViT-B/16", "BiT-R50x1"])
@pytest.mark.parametrize("options", ["", ",448"])
def test_every_key_of_the_paper_has_its_number(name, model, options):
    options += ",v1" if model == "BiT-R50x1" else ""  # of the ViT paper, like Mixer and ViT
    config = finetune.get_config(f"{model},{name}{options}")
    assert config.num_steps == FINETUNING.steps_from_vit_paper[name]
    assert config.batch_size == FINETUNING.batch_size
    assert config.optimizer.clip_global_norm == FINETUNING.grad_clip_global_norm
    assert config.optimizer.weight_decay == FINETUNING.weight_decay == 0
    assert config.image_size in FINETUNING.resolutions
    assert (config.optimizer.name, config.optimizer.decay) == ("momentum", "cosine")
    assert (config.loss, config.model.head_bias_init) == ("softmax", 0.0)
    assert (config.eval_crop, config.eval_resize / config.image_size) == ("resize_crop", 256 / 224)
    grid = [{"optimizer.learning_rate": rate} for rate in FINETUNING.learning_rate_grid[name]]
    assert combinations_of(finetune.SWEEP) == grid
    assert {"optimizer.learning_rate": config.optimizer.learning_rate} in grid
    assert {config.eval_splits.test} <= {*DATASETS[config.dataset].splits}


# Section 3.3 of the BiT paper: steps, mixup.
HYPER_RULE = {
    "cifar10": (10_000, 0.1),
    "cifar100": (10_000, 0.1),
    "pets": (500, 0.0),
    "flowers": (500, 0.0),
    "imagenet": (20_000, 0.1),
}


@pytest.mark.parametrize("name", HYPER_RULE)
def test_the_released_bits_have_the_hyper_rule(name):
    config = finetune.get_config(f"BiT-R101x1,{name}")
    assert (config.num_steps, config.mixup_alpha) == HYPER_RULE[name]
    assert config.batch_size == 512
    assert config.model.version == "v2"
    optimizer = config.optimizer.to_dict()
    assert optimizer.pop("warmup_steps") in (100, 500)
    assert optimizer == {
        "name": "momentum",
        "learning_rate": 0.003,
        "decay": "staircase",
        "decay_at": (0.3, 0.6, 0.9),
        "momentum": 0.9,
        "momentum_dtype": "float32",
        "weight_decay": 0.0,
        "clip_global_norm": 0.0,
    }


@pytest.mark.parametrize(
    ("what", "image_size", "before_crop", "eval_resize"),
    [
        ("B/16,pets", 224, 256, 256),
        ("B/16,pets,448", 448, 512, 512),
        ("ViT-B/16,pets", 224, 256, 256),
        ("ViT-B/16,pets,384", 384, 448, 448),
        ("ViT-L/16,imagenet,512", 512, 585, 585),
        ("ViT-L/32,pets,448", 448, 512, 512),
        ("BiT-R50x1,pets", 224, 256, 224),  # the rule: tested on the whole image
        ("BiT-R50x1,cifar10,128", 128, 160, 128),
        ("BiT-R50x1,pets,384", 384, 448, 384),
        ("BiT-R152x4,pets,480", 480, 512, 480),
        ("BiT-R50x1,pets,448,v1", 448, 512, 512),
        ("gMLP-S/16,pets", 224, 256, 256),
        ("Ti/4,digits,32", 32, 36, 32),
    ],
)
def test_the_sizes_before_and_after_the_crop(what, image_size, before_crop, eval_resize):
    config = finetune.get_config(what)
    assert config.train_crop.to_dict() == {"name": "random_crop", "resize": before_crop}
    assert (config.image_size, config.eval_resize) == (image_size, eval_resize)
    assert config.eval_crop == "resize_crop"


@pytest.mark.parametrize("size", [size for size in finetune.SIZES if size in VARIANTS])
def test_the_token_mixing_of_every_size_grows_with_the_tiles(size):
    pretrained = VARIANTS[size]["tokens_mlp_dim"]
    assert finetune.get_config(size).model.tokens_mlp_dim == pretrained
    assert finetune.get_config(f"Mixer-{size},pets,448").model.tokens_mlp_dim == 4 * pretrained


def test_every_named_model_can_be_fine_tuned():
    named_models = {title_of(*model).removeprefix("Mixer-") for model in sizes()}
    assert {*finetune.SIZES} == named_models | {"Ti/4"}


@pytest.mark.parametrize("size", [size for size in finetune.SIZES if size != "Ti/4"])
def test_the_weights_to_begin_with_are_of_the_model_or_must_be_named(size):
    config = finetune.get_config(size)
    family, variant = named(size)
    assert (config.model.name, config.model.variant) == (family, variant)
    published = {
        (row.family, row.variant)
        for row in CATALOGUE.values()
        if row.recipe.image_size == 224 and "distill" not in row.url
    }
    if (family, variant) not in published:
        assert config.init_from == "none is published: set init_from"
        return
    row = CATALOGUE[config.init_from]
    assert (row.family, row.variant) == (family, variant)
    assert config.model.get("gelu_approximate") == row.gelu_approximate
    assert row.data[0].startswith("ImageNet-21k") or family == "gmlp" or size[:2] in ("S/", "B/")
    with_v1 = f"{size},pets,v1"
    if family == "bit":
        assert finetune.get_config(with_v1).init_from == "none is published: set init_from"


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
        ("ViT-B/8,cifar10", "Unknown size of finetune.py 'ViT-B/8'.*Did you mean 'ViT-B/"),
        ("ViT-R50x1", "Unknown size of finetune.py 'ViT-R50x1'"),
        ("ViT-H/14,pets,384", "for ViT-H/14 '384'. Expected one of: 224, 448, 518, incep"),
        ("ViT-B/16,pets,480", "for ViT-B/16 '480'. Expected one of: 224, 384, 448, 512, incep"),
        ("gMLP-S/16,pets,448", "for gMLP-S/16 '448'. Expected one of: 224, inception_crop"),
        ("BiT-R50x1,pets,256", "one of: 128, 224, 384, 448, 480, 512, inception_crop, v1"),
        ("ViT-B/16,pets,v1", "Unknown option of finetune.py for ViT-B/16 'v1'"),
        ("ViT-B/16,pets,384,448", r"one resolution for ViT-B/16; got \[384, 448\]. Leave one"),
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
def small_config(mock_images, no_pictures, on_one_device) -> ConfigDict:
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


TINY = {
    "vit": {"num_blocks": 1, "hidden_dim": 24, "mlp_dim": 32, "num_heads": 2},
    "bit": {"block_sizes": (1,), "width": 0.5},
    "gmlp": {"num_blocks": 1, "hidden_dim": 8, "mlp_dim": 16},
}


@pytest.mark.parametrize(
    "what", ["ViT-B/16,pets,384", "ViT-L/32,pets", "BiT-R50x1,pets,384", "gMLP-S/16,pets"]
)
def test_a_model_begins_with_its_published_weights(what, tmp_path, monkeypatch):
    config = finetune.get_config(what)
    entry, fields = CATALOGUE[config.init_from], config.model.to_dict()
    fields = {**fields, **TINY[entry.family], "dtype": "float32"}
    has_pre_logits = entry.url.endswith("imagenet21k/ViT-L_32.npz")
    published = fields | ({"representation_size": 24} if has_pre_logits else {})
    abstract = abstract_params(build_model(num_classes=5, **published), image_size=224)
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda array: random.normal(size=array.shape), abstract)
    path = tmp_path / entry.relative_path
    path.parent.mkdir(parents=True)
    save_params(path, params)
    monkeypatch.setenv("MIXER_WEIGHTS", str(tmp_path))

    model = build_model(num_classes=37, **fields)
    found = initial_params(config.init_from, model, config.image_size)
    needed = abstract_params(model, config.image_size)
    del needed["head"]
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, needed)
    # A layer that every resolution has is the published one.
    name = next(name for name in flatten_dict(found) if "kernel" in name)
    expected = flatten_dict(params)[name].astype(np.float32)
    np.testing.assert_array_equal(flatten_dict(found)[name], expected)


def abstract_params(model: nn.Module, image_size: int) -> dict:
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)["params"]
