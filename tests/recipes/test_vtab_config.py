"""The config of VTAB-1k: the two protocols, the two runs of each task, every family."""

import jax
import numpy as np
import pytest
import tensorflow as tf
from cases import slow_unless

from configs import finetune, vtab
from mixer.build import build_without_data
from mixer.build_data import _train_crop
from mixer.config import ConfigReader, check_config
from mixer.data.preprocess import squeezed_crop
from mixer.data.vtab import TASKS
from mixer.models import build_model
from mixer.paper.reference import FINETUNING
from mixer.sweep.grid import combinations_of


def test_the_protocol_of_section_3():
    config = vtab.get_config("L/16,dtd")
    assert (config.num_steps, config.batch_size) == (500, FINETUNING.batch_size)
    assert config.optimizer.to_dict() == {
        "name": "momentum",
        "momentum": 0.9,
        "momentum_dtype": "float32",
        "weight_decay": FINETUNING.weight_decay,
        "learning_rate": 0.01,
        "warmup_steps": 100,
        "decay": "staircase",
        "decay_at": (0.3, 0.6, 0.9),
        "clip_global_norm": 0.0,
    }
    options, _ = build_without_data(config)
    rates = [float(options.schedule(step)) for step in (0, 50, 100, 149, 150, 300, 450, 499)]
    expected = [0.0, 0.005, 0.01, 0.01, 1e-3, 1e-4, 1e-5, 1e-5]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    assert (config.loss, config.mixup_alpha, config.model.head_bias_init) == ("softmax", 0, 0)
    assert (config.cache, config.num_stripes, config.best_by) == ("raw", 1, "")


def test_the_protocol_of_appendix_c():
    config = vtab.get_config("L/16,dtd,appendix_c")
    assert (config.num_steps, config.batch_size, config.image_size) == (2_500, 512, 448)
    assert (config.optimizer.decay, config.optimizer.end_learning_rate) == ("cosine", 0.0)
    assert config.optimizer.clip_global_norm == FINETUNING.grad_clip_global_norm
    options, _ = build_without_data(config)
    rates = [float(options.schedule(step)) for step in (100, 1300, 2500)]
    np.testing.assert_allclose(rates, [0.01, 0.005, 0.0], atol=1e-9)


def test_the_learning_rates_are_those_of_the_paper():
    grid = [{"optimizer.learning_rate": r} for r in FINETUNING.learning_rate_grid["vtab1k"]]
    assert combinations_of(vtab.SWEEP) == grid
    assert {"optimizer.learning_rate": vtab.get_config().optimizer.learning_rate} in grid


@pytest.mark.parametrize("protocol", ["", ",appendix_c"])
@pytest.mark.parametrize("task", TASKS)
def test_the_learning_rate_is_chosen_without_the_test_images(task, protocol):
    tuned = vtab.get_config(f"B/16,{task}{protocol},tune")
    final = vtab.get_config(f"B/16,{task}{protocol}")
    assert tuned.dataset == final.dataset == f"vtab/{task}"
    assert (tuned.train_split, tuned.eval_splits.to_dict()) == ("train800", {"val200": "val200"})
    assert (final.train_split, final.eval_splits.to_dict()) == ("train800val200", {"test": "test"})
    for config in (tuned, final):
        check_config(config)
        for key in ("train_split", "eval_splits"):
            del config[key]
    assert tuned.to_json() == final.to_json()


@pytest.mark.parametrize(
    ("what", "image_size", "before_crop", "flip"),
    [
        ("B/16,cifar100", 224, 256, True),
        ("B/16,dtd", 448, 512, True),
        ("B/16,patch_camelyon", 448, 512, True),
        ("B/16,dmlab", 448, 448, True),
        ("B/16,kitti-distance", 448, 448, True),
        ("B/16,dsprites-xpos", 224, 224, False),
        ("B/16,dsprites-orientation", 224, 256, False),
        ("B/16,smallnorb-azimuth", 448, 512, False),
        ("ViT-B/16,svhn", 224, 256, True),
        ("ViT-B/16,svhn,appendix_c", 384, 448, True),
        ("ViT-H/14,dtd,appendix_c", 448, 512, True),
        ("BiT-R50x1,eurosat", 128, 160, True),
        ("BiT-R50x1,dtd,v1", 384, 448, True),
        ("BiT-R152x4,sun397", 480, 512, True),
        ("BiT-R152x4,clevr-count", 480, 480, True),
        ("gMLP-S/16,dtd", 224, 256, True),
    ],
)
def test_images_are_squeezed_then_cropped_and_flipped_where_it_may_be(
    what, image_size, before_crop, flip
):
    config = vtab.get_config(what)
    assert config.image_size == config.eval_resize == image_size
    assert config.train_crop.to_dict() == {"name": "squeezed_crop", "resize": before_crop}
    assert (config.flip, config.eval_crop) == (flip, "resize_crop")
    assert config.randaugment.to_dict() == {"layers": 0, "magnitude": 0.0}


@pytest.mark.parametrize(
    "size",
    slow_unless(
        ("S/32", "ViT-S/16", "BiT-R50x1", "gMLP-S/16").__contains__,
        [size for size in finetune.SIZES if size != "Ti/4"],
    ),
)
@pytest.mark.parametrize("task", ["cifar100", "dtd"])
def test_every_model_of_the_fine_tuning_config_builds_at_its_resolutions(size, task):
    config = vtab.get_config(f"{size},{task}")
    check_config(config)
    assert config.init_from == finetune.get_config(size).init_from
    model = build_model(**config.model.to_dict(), num_classes=TASKS[task].row.num_classes)
    images = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), np.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    assert params["head"]["kernel"].shape[-1] == TASKS[task].row.num_classes
    if config.model.name == "mixer":
        factor = 1 if TASKS[task].is_small else 4
        own = finetune.get_config(size).model.tokens_mlp_dim
        assert config.model.tokens_mlp_dim == factor * own


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("B/8,dtd", "Unknown size of vtab.py 'B/8'. Expected one of: B/16, B/32"),
        ("Ti/4,dtd", "Unknown size of vtab.py 'Ti/4'"),
        ("B/16,cifar10", "Unknown VTAB-1k task 'cifar10'.*Did you mean 'cifar100'"),
        ("B/16,dtd,448", "Unknown option of vtab.py for B/16 '448'. Expected one of: appendix_c,"),
        ("B/16,dtd,v1", "Unknown option of vtab.py for B/16 'v1'"),
    ],
)
def test_what_there_is_no_recipe_for_is_refused(what, message):
    with pytest.raises(ValueError, match=message):
        vtab.get_config(what)


@pytest.mark.parametrize(("task", "differs"), [("dtd", True), ("dmlab", False)])
def test_the_crop_of_the_config_is_that_of_the_run(task, differs):
    config = vtab.get_config(f"B/32,{task}")
    crop = _train_crop(ConfigReader(config).train_crop, config.image_size)
    ramp = np.tile(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], (20, 1, 3))
    first, second = (crop(tf.io.encode_png(ramp), (0, number)).numpy() for number in (1, 2))
    assert first.shape == (448, 448, 3)
    assert (first != second).any() == differs
    expected = squeezed_crop(448, resize=512 if differs else 448)(tf.io.encode_png(ramp), (0, 1))
    np.testing.assert_array_equal(first, expected)
