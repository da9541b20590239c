"""Exact counts for any weights on any dataset; what cannot be is said before an image is read."""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from cases import slow_after

from mixer.data.datasets import open_dataset
from mixer.data.records import DamagedExample
from mixer.evaluation.evaluate_weights import Images, evaluate_few_shot, evaluate_head, images_for
from mixer.models import build_model
from mixer.weights.eval_recipe import PAPER, EvalRecipe, recipe_of
from mixer.weights.load import LoadedModel

BOTH = ("resize_crop", "resmall_crop")


def images_of(folder, **changes) -> Images:
    images = Images(f"folder:{folder}", "test", "", BOTH, resize=9, batch_size=8)
    return dataclasses.replace(images, **changes)


def test_both_crops_of_the_paper_in_one_go(colour_folder, colour_model):
    results = list(evaluate_head(colour_model(3), images_of(colour_folder)))
    # 4 + 3 + 2 of 11: the first image of each class is red.
    counts = {"top1": 9 / 11, "correct": 9, "count": 11}
    view = {"dataset": f"folder:{colour_folder}", "split": "test", "resize": 9, "image_size": 8}
    assert results == [{"crop": crop, **view, **counts} for crop in BOTH]


def test_the_resize_of_the_paper():
    assert [PAPER.resize_for(size) for size in (224, 448, 16)] == [256, 512, 18]


def test_what_is_not_asked_for_is_as_in_the_run(colour_model):
    config = {"dataset": "cifar10:3.0.2", "data_dir": "/data", "image_size": 4, "eval_resize": 6}
    config |= {"eval_crop": "resize_crop", "eval_splits": {"minival": "train[98%:]", "test": "t"}}
    loaded = dataclasses.replace(colour_model(3), recipe=recipe_of(config))
    of_run = Images("cifar10:3.0.2", "t", "/data", ("resize_crop",), resize=12, batch_size=8)
    assert images_for(loaded, batch_size=8) == of_run  # the model is for 8 pixels, twice the run's
    of_theirs = dataclasses.replace(loaded, recipe=recipe_of(config | {"label_key": "fine"}))
    assert images_for(of_theirs, batch_size=8) == dataclasses.replace(of_run, label_key="fine")
    assert images_for(of_theirs, dataset="digits", batch_size=8).label_key == ""
    assert images_for(loaded, label_key="coarse", batch_size=8).label_key == "coarse"
    asked = {"split": "test[:9%]", "data_dir": "", "crops": BOTH, "resize": 9}
    assert images_for(loaded, **asked, batch_size=8) == dataclasses.replace(of_run, **asked)
    of_version = dataclasses.replace(of_run, dataset="cifar10")
    assert images_for(loaded, dataset="cifar10", batch_size=8) == of_version
    of_other = dataclasses.replace(of_run, dataset="digits", split="validation", data_dir="")
    assert images_for(loaded, dataset="digits", batch_size=8) == of_other
    del config["eval_splits"]["test"]
    assert recipe_of(config).split == "validation"


def test_another_way_to_write_the_folder_of_the_run_keeps_its_split(
    colour_model, tmp_path, monkeypatch
):
    (tmp_path / "d").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = EvalRecipe(dataset="folder:d", split="train[90%:]", label_key="")
    loaded = dataclasses.replace(colour_model(3), recipe=recipe)
    for path in ("d", "d/", "./d", "~/d", str(tmp_path / "d"), f"{tmp_path}//d/"):
        images = images_for(loaded, dataset=f"folder:{path}", batch_size=8)
        assert (images.dataset, images.split) == (f"folder:{path}", "train[90%:]")
    assert images_for(loaded, dataset="folder:e", batch_size=8).split == "validation"


def test_weights_of_no_run_need_a_dataset(colour_model):
    with pytest.raises(ValueError, match="Expected --dataset=NAME"):
        images_for(colour_model(3), batch_size=8)
    images = images_for(colour_model(3), dataset="digits", batch_size=8)
    assert images == Images("digits", "validation", "", ("resmall_crop",), resize=9, batch_size=8)


REAL_LABELS = [[5], [], [7, 5], [1, 2, 3], [], [999, 0], [5, 9], [], [2], [4, 5, 6], [3]]


@pytest.fixture
def real_dir(tmp_path) -> str:
    """A folder with a validation split of ImageNet's reassessed labels, some images without any."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    signature = {
        "image": tf.TensorSpec((None, None, 3), tf.uint8),
        "real_label": tf.TensorSpec((None,), tf.int64),
    }
    examples = [{"image": pixels, "real_label": labels} for labels in REAL_LABELS]
    dataset = tf.data.Dataset.from_generator(lambda: examples, output_signature=signature)
    label = tfds.features.ClassLabel(num_classes=1000)
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "real_label": tfds.features.Sequence(label),
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name="imagenet2012_real",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"validation": dataset},
        data_dir=str(tmp_path),
        file_format="array_record",
    )
    return str(tmp_path)


def test_sets_of_labels_count_exactly_the_images_that_have_one(real_dir):
    model = build_model("mixer", "S/32", num_blocks=1, hidden_dim=8, num_classes=1000)
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 32, 32, 3)))["params"]
    params["head"]["bias"] = params["head"]["bias"].at[5].set(1.0)  # always predicts 5
    loaded = LoadedModel(model, params, 32, None)
    images = Images("imagenet2012_real", "validation", real_dir, BOTH[:1], 37, batch_size=8)
    (result,) = evaluate_head(loaded, images)
    # 5 is among the labels of images 0, 2, 6 and 9; three have none.
    assert (result["correct"], result["count"]) == (4, 8)
    assert result["top1"] == 4 / 8


def test_a_probe_of_weights_that_know_other_classes_or_none(colour_folder, colour_model):
    for num_classes in (21_843, 0):
        loaded, images = colour_model(num_classes), images_of(colour_folder, crops=BOTH[:1])
        results = list(evaluate_few_shot(loaded, images, train_split="train", shots=[2, 1]))
        counts = {"seeds": 3, "top1": 9 / 11, "count": 11}
        view = {"dataset": images.dataset, "split": "test", "crop": BOTH[0]}
        view |= {"resize": 9, "image_size": 8}
        assert results == [{**view, "shots": shots, **counts} for shots in (2, 1)]


@pytest.mark.parametrize(
    ("num_classes", "changes", "message"),
    [
        (21_843, {}, "a head for the 3 classes of .*; got 21,843 classes. Fine-tune .*few_shot"),
        (0, {}, "a head for the 3 classes of .*; got no head. Fine-tune .*few_shot"),
        (3, {"crops": ("centre",)}, "Unknown evaluation crop 'centre'"),
        (3, {"crops": ()}, "Expected at least one crop"),
        (3, {"crops": BOTH[:1] * 2}, "each crop once; got --crop=.*_crop,.*_crop"),
        (3, {"resize": 4}, "eval_resize to be at least image_size=8; got 4"),
        (3, {"batch_size": 12}, "divisible by the 8 devices; got 12"),
        (3, {"split": "minival"}, "Unknown split .* of .* Expected one of: test, train"),
    ],
)
def test_what_cannot_be_is_said_before_an_image_is_read(
    colour_folder, colour_model, num_classes, changes, message
):
    for path in colour_folder.glob("*/*/*.png"):
        path.write_bytes(b"not an image")
    with pytest.raises(ValueError, match=message):
        next(evaluate_head(colour_model(num_classes), images_of(colour_folder, **changes)))


def test_a_probe_with_too_many_shots_or_none_says_so_before_the_test_images_are_read(
    colour_folder, colour_model
):
    (colour_folder / "test" / "class1" / "0.png").write_bytes(b"not an image")
    images = images_of(colour_folder)
    for shots, message in (
        ([1, 5], "2 of class 0, 2 of class 1"),
        ([0], "at least 1 shot"),
        ([], "at least 1 shot"),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            next(evaluate_few_shot(colour_model(3), images, train_split="train", shots=shots))
        assert not isinstance(raised.value, DamagedExample)


@pytest.mark.parametrize(
    ("train_split", "split", "shared"),
    slow_after(
        2,
        [
            ("test", "val", 11),  # read as test
            ("train+test[:4]", "test[2:6]", 2),
            ("test", "test", 11),
            ("train", "train[50%:]", 3),
        ],
    ),
)
def test_a_probe_is_not_tested_on_what_it_is_trained_on(
    colour_folder, colour_model, train_split, split, shared
):
    images = images_of(colour_folder, split=split)
    message = f"not among the test images; --few_shot_train_split={train_split} and --split={split}"
    with pytest.raises(ValueError, match=f"{re.escape(message)} of .* share {shared}. Name splits"):
        next(evaluate_few_shot(colour_model(3), images, train_split=train_split, shots=[1]))
    images = images_of(colour_folder, split="train[50%:]")
    next(evaluate_few_shot(colour_model(3), images, train_split="test", shots=[1]))


@pytest.mark.parametrize("name", ["folder:{}", "digits"])
def test_a_split_with_an_image_twice_is_refused(name, colour_folder, data_dir):
    name = name.format(colour_folder)
    whole = len(open_dataset(name, "test", data_dir).records)
    parts = open_dataset(name, "test[5:]+test[:5]", data_dir)
    assert len(parts.records) == whole
    for split, shared in (("test[:6]+test[4:8]", 2), ("test+train+test", whole)):
        with pytest.raises(ValueError, match=f"each example once in '.*; its parts share {shared}"):
            open_dataset(name, split, data_dir)


def test_a_damaged_image_ends_the_evaluation_with_its_name(colour_folder, colour_model):
    path = colour_folder / "test" / "class1" / "0.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DamagedExample, match=str(path)):
        next(evaluate_head(colour_model(3), images_of(colour_folder)))


# Weights of colour_model by the name of the class: folders class0, class1, class2 are red, ...
@pytest.mark.parametrize(
    ("own", "num_classes", "correct", "said"),
    [
        (("class0", "class1", "class2"), 3, 9, ""),
        (None, 3, 9, "The weights have no class names: labels are compared by position.\n"),
        # Right are three green images, and the red one of class2, which is called class2 here.
        (("class2", "class1", "class0"), 3, 4, "matched by name: 3 of the weights' 3 classes.\n"),
        (("class0", "class1", "class2", "x"), 4, 9, "by name: 3 of the weights' 4 classes.\n"),
        (("class1", "class2", "class0", "x"), 4, 1, "by name: 3 of the weights' 4 classes.\n"),
    ],
)
def test_labels_are_matched_by_name(
    colour_folder, colour_model, capsys, own, num_classes, correct, said
):
    loaded = dataclasses.replace(colour_model(num_classes), class_names=own)
    (result,) = evaluate_head(loaded, images_of(colour_folder, crops=BOTH[:1]))
    assert (result["correct"], result["count"]) == (correct, 11)
    assert capsys.readouterr().err.endswith(said)


def test_other_classes_are_an_error_that_lists_both(colour_folder, colour_model):
    loaded = dataclasses.replace(colour_model(3), class_names=("dog", "elk", "fox"))
    with pytest.raises(
        ValueError, match=r"dataset: class0; class1; class2\n  weights: dog; elk; fox"
    ):
        next(evaluate_head(loaded, images_of(colour_folder)))


class Overflows(nn.Module):
    """Gives infinity for the red images, and features that are not numbers."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        red = jnp.mean(images[..., 0], axis=(1, 2)) - 0.9
        return jnp.zeros((len(images), 3)) + jnp.exp(1e4 * red)[:, None]


def test_logits_that_are_not_finite_are_no_accuracy(colour_folder):
    loaded = LoadedModel(Overflows(), {}, 8, None)
    images = images_of(colour_folder)
    with pytest.raises(FloatingPointError, match="Expected finite logits; got NaN or infinity"):
        next(evaluate_head(loaded, images))
    with pytest.raises(FloatingPointError, match="Expected finite features; got NaN or infinity"):
        next(evaluate_few_shot(loaded, images, train_split="train", shots=[1]))


@pytest.mark.parametrize("bias", [0.0, -10.0])
def test_a_head_that_was_never_trained_is_refused(colour_folder, bias):
    head = {"kernel": np.zeros((4, 3), np.float32), "bias": np.full(3, bias, np.float32)}
    loaded = LoadedModel(Overflows(), {"head": head}, 8, None)
    with pytest.raises(ValueError, match="trained head; got one of zeros for 3 classes.*few_shot"):
        next(evaluate_head(loaded, images_of(colour_folder)))
