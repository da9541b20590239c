"""Evaluates weights on a dataset: top-1 of their head, or of a few-shot probe of their features."""

import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import rich.console
import rich.progress
from jax.sharding import Mesh

from mixer.evaluation import few_shot
from mixer.evaluation.class_names import canonical, match_classes
from mixer.evaluation.classification import evaluate, jit_eval_step
from mixer.evaluation.confusion import Confusion
from mixer.evaluation.head import check_head
from mixer.losses import softmax_cross_entropy
from mixer.sharding import batch_sharding, check_batch_size, create_mesh, local_rows, replicated
from mixer.weights.eval_recipe import PAPER
from mixer.weights.load import LoadedModel

if TYPE_CHECKING:
    from mixer.data.datasets import Dataset

HostBatches = Iterable[dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Images:
    """The images to evaluate on, and how to preprocess them. See `images_for`."""

    dataset: str
    split: str
    data_dir: str  # see `open_dataset`
    crops: Sequence[str]  # see `make_eval_preprocess`; each gives a separate result
    resize: int  # side before the crop, pixels
    batch_size: int  # over all devices
    label_key: str = ""  # see `open_dataset`


def images_for(
    loaded: LoadedModel,
    *,
    dataset: str | None = None,
    split: str | None = None,
    data_dir: str | None = None,
    label_key: str | None = None,
    crops: Sequence[str] | None = None,
    resize: int | None = None,
    batch_size: int,
) -> Images:
    """Returns the images to evaluate on, with defaults from the weights' own recipe.

    The recipe's split, data folder and label belong to its dataset, so for another dataset the
    paper's defaults apply instead.

    Raises:
      ValueError: neither the weights nor the caller name a dataset, or the split is empty.
    """
    recipe = loaded.recipe
    if not (recipe.dataset if dataset is None else dataset):
        raise ValueError("Expected --dataset=NAME; only the weights of a run imply a dataset.")
    if split == "":
        raise ValueError("Expected a split, such as test; got an empty --split.")
    if dataset is not None and _identity(dataset) != _identity(recipe.dataset or ""):
        keys = ("split", "data_dir", "label_key")
        recipe = dataclasses.replace(recipe, **{key: getattr(PAPER, key) for key in keys})
    return Images(
        dataset=dataset or recipe.dataset or "",
        split=recipe.split if split is None else split,
        data_dir=recipe.data_dir if data_dir is None else data_dir,
        crops=(recipe.crop,) if crops is None else crops,
        resize=recipe.resize_for(loaded.image_size) if resize is None else resize,
        batch_size=batch_size,
        label_key=recipe.label_key if label_key is None else label_key,
    )


def _identity(dataset: str) -> str:
    """Returns what the ways to write the name of one dataset have in common."""
    name, _, path = dataset.partition(":")  # of another than a folder, the version
    return f"folder:{os.path.realpath(os.path.expanduser(path))}" if name == "folder" else name


def evaluate_head(
    loaded: LoadedModel, images: Images, confusion: Confusion | None = None
) -> Iterator[dict[str, Any]]:
    """Yields one result per crop: `top1` in [0, 1], and `correct` and `count` in images.

    With more than five classes also `top5`. Only images with a label count; a prediction is correct
    if it is one of the image's labels. Each result also records `dataset`, `split`, `crop`,
    `resize` and `image_size`. Labels are matched by name (see `match_classes`): of weights for more
    classes, only the dataset's are predicted. `confusion`, if given, counts the predictions, those
    of all crops, and has the names of the dataset's classes.

    Raises:
      ValueError: the weights have no trained head or other classes, a name is unknown, or a size is
        invalid (all raised before any image is read); or no image has a label.
      FloatingPointError: a logit is not finite.
      DamagedExample: an image cannot be decoded; the message names the file.
    """
    mesh = create_mesh()
    sharding = batch_sharding(mesh)
    dataset, batches_of = _open(loaded, images, images.split, mesh)
    names = dataset.class_names
    check_head(loaded, f" for the {len(names):,} classes of {images.dataset}")
    logits_of, matched = match_classes(
        loaded.class_names, loaded.model.num_classes, names, images.dataset
    )
    if matched:
        print(matched, file=sys.stderr, flush=True)
    if confusion is not None:
        confusion.class_names = [canonical(name) for name in names]
    eval_step = jit_eval_step(loaded.model, softmax_cross_entropy, len(names), mesh, logits_of)
    params = jax.device_put(loaded.params, replicated(mesh))
    for crop, batches in batches_of.items():
        result = evaluate(
            eval_step, params, batches, sharding, None if confusion is None else confusion.add
        )
        top1, count = result["top1"], result["count"]
        yield {
            **_view(loaded, images, crop),
            "top1": top1,
            **({"top5": result["top5"]} if "top5" in result else {}),
            "correct": round(top1 * count),
            "count": count,
        }


def evaluate_few_shot(
    loaded: LoadedModel, images: Images, *, train_split: str, shots: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Yields one result per crop and number of shots: `shots`, `seeds`, `top1` and `count`.

    A linear probe is fitted to the features of `shots` images per class from `train_split`; the
    model's head is ignored, if it has one. `top1` in [0, 1] is the mean over `seeds` random choices
    of these images, and `count` the number of test images. The fields of `evaluate_head` that
    describe the images are included.

    Raises:
      ValueError: a name is unknown, a size is invalid, the splits share images, an image has
        several labels, or a class has too few training images.
      FloatingPointError: a feature is not finite.
      DamagedExample: an image cannot be decoded; the message names the file.
    """
    if not shots or min(shots) < 1:
        raise ValueError(f"Expected at least 1 shot per class; got {list(shots)}.")
    mesh = create_mesh()
    sharding = batch_sharding(mesh)
    train_set, train_batches_of = _open(loaded, images, train_split, mesh)
    test_set, test_batches_of = _open(loaded, images, images.split, mesh)
    flags = f"--few_shot_train_split={train_split}", f"--split={images.split}"
    few_shot.check_splits(train_set, test_set, images.dataset, flags)
    num_classes = len(train_set.class_names)
    step = few_shot.jit_features_step(loaded.model, mesh)
    params = jax.device_put(loaded.params, replicated(mesh))
    for crop, train_batches in train_batches_of.items():
        train = few_shot.compute_features(step, params, train_batches, sharding)
        few_shot.check_shots(train[1], num_classes, max(shots))  # fail before reading test images
        test = few_shot.compute_features(step, params, test_batches_of[crop], sharding)
        for number in shots:
            top1 = few_shot.few_shot_accuracy(train, test, num_classes=num_classes, shots=number)
            yield {
                **_view(loaded, images, crop),
                "shots": number,
                "seeds": len(few_shot.SEEDS),
                "top1": top1,
                "count": len(test[1]),
            }


def _open(
    loaded: LoadedModel, images: Images, split: str, mesh: Mesh
) -> tuple["Dataset", dict[str, HostBatches]]:
    """Returns the split, and lazily read batches of it for each crop."""
    # Imports TensorFlow, which the evaluation step itself does not need.
    from mixer.data.datasets import open_dataset
    from mixer.data.input_pipeline import EvalInput
    from mixer.data.preprocess import make_eval_preprocess

    if not images.crops:
        raise ValueError("Expected at least one crop, resmall_crop or resize_crop; got none.")
    if len(set(images.crops)) < len(images.crops):
        raise ValueError(f"Expected each crop once; got --crop={','.join(images.crops)}.")
    check_batch_size(images.batch_size, mesh)
    dataset = open_dataset(images.dataset, split, images.data_dir, label_key=images.label_key)
    batches_of = {}
    for crop in images.crops:
        eval_input = EvalInput(
            dataset,
            make_eval_preprocess(size=loaded.image_size, crop=crop, resize=images.resize),
            batch_size=images.batch_size,
            rows=local_rows(batch_sharding(mesh), images.batch_size),
            prefetch=2,
            cache=False,
        )
        num_batches = -(-len(dataset.records) // images.batch_size)
        batches_of[crop] = _shown(eval_input.one_pass(), num_batches, f"{split}, {crop}")
    return dataset, batches_of


def _view(loaded: LoadedModel, images: Images, crop: str) -> dict[str, Any]:
    where = {"dataset": images.dataset, "split": images.split}
    return {**where, "crop": crop, "resize": images.resize, "image_size": loaded.image_size}


def _shown(batches: HostBatches, total: int, description: str) -> HostBatches:
    """Wraps the batches in a progress bar on stderr, if that is a terminal."""
    console = rich.console.Console(stderr=True)
    return rich.progress.track(
        batches,
        description,
        total,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
