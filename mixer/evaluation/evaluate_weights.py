"""Any weights on any dataset: the top-1 of their head, or of a few-shot probe of their features."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import rich.console
import rich.progress
from jax.sharding import Mesh

from mixer.evaluation import few_shot
from mixer.evaluation.classification import evaluate, make_eval_step
from mixer.losses import softmax_cross_entropy
from mixer.sharding import batch_sharding, check_batch_size, create_mesh, local_rows, replicated
from mixer.weights.eval_recipe import PAPER
from mixer.weights.load import LoadedModel

HostBatches = Iterable[dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Images:
    """Which images are evaluated, and how they come to the size of the model.

    `data_dir` as in `open_dataset`, `crops` and `resize` as in `make_eval_preprocess`. Each crop
    gives a result of its own.
    """

    dataset: str
    split: str
    data_dir: str
    crops: Sequence[str]
    resize: int
    batch_size: int


def images_for(
    loaded: LoadedModel,
    *,
    dataset: str | None = None,
    split: str | None = None,
    data_dir: str | None = None,
    crops: Sequence[str] = (),
    resize: int | None = None,
    batch_size: int,
) -> Images:
    """Returns the images to evaluate on; what is not given is that of the weights' own recipe.

    Its split and folder are those of its dataset, so they do not count for another one.

    Raises:
      ValueError: the weights come without a dataset, and none is given.
    """
    recipe = loaded.recipe
    if dataset is None and recipe.dataset is None:
        raise ValueError(
            "Expected --dataset=NAME; only the weights of a run say which images they are for."
        )
    if dataset not in (None, recipe.dataset):
        recipe = dataclasses.replace(recipe, split=PAPER.split, data_dir=PAPER.data_dir)
    return Images(
        dataset=dataset or recipe.dataset or "",
        split=split or recipe.split,
        data_dir=recipe.data_dir if data_dir is None else data_dir,
        crops=crops or (recipe.crop,),
        resize=resize or recipe.resize_for(loaded.image_size),
        batch_size=batch_size,
    )


def evaluate_head(loaded: LoadedModel, images: Images) -> Iterator[dict[str, Any]]:
    """Yields a result for each crop: `top1` in [0, 1], `correct` and `count` of images.

    An image counts if it has a label, and is correct if the prediction is one of its labels.
    `dataset`, `split`, `crop`, `resize` and `image_size` tell how it came to the model.

    Raises:
      ValueError: weights without a head or for other classes, unknown names, or a size or batch
        size that cannot be; nothing was read then. No image with a label.
      DamagedExample: an image that cannot be read; names the file.
    """
    mesh = create_mesh()
    sharding = batch_sharding(mesh)
    num_classes, batches_of = _open(loaded, images, images.split, mesh)
    _check_head(loaded.model.num_classes, num_classes, images.dataset)
    eval_step = make_eval_step(loaded.model, softmax_cross_entropy, num_classes)
    eval_step = jax.jit(eval_step, out_shardings=replicated(mesh))
    params = jax.device_put(loaded.params, replicated(mesh))
    for crop, batches in batches_of.items():
        result = evaluate(eval_step, params, batches, sharding)
        top1, count = result["top1"], result["count"]
        yield {
            **_view(loaded, images, crop),
            "top1": top1,
            "correct": round(top1 * count),
            "count": count,
        }


def evaluate_few_shot(
    loaded: LoadedModel, images: Images, *, train_split: str, shots: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Yields a result for each crop and number of shots: `shots`, `seeds`, `top1`, `count`.

    The linear probe sees `shots` images of each class of `train_split`; the model may have another
    head or none. `top1` is the mean over `seeds` choices of those images, `count` the number of
    test images.

    Raises:
      ValueError: as above, or a class has too few training images.
      DamagedExample: an image that cannot be read; names the file.
    """
    if not shots or min(shots) < 1:
        raise ValueError(f"Expected numbers of shots of at least 1; got {list(shots)}.")
    mesh = create_mesh()
    sharding = batch_sharding(mesh)
    num_classes, train_batches_of = _open(loaded, images, train_split, mesh)
    _, test_batches_of = _open(loaded, images, images.split, mesh)
    step = few_shot.make_features_step(loaded.model)
    step = jax.jit(step, out_shardings=replicated(mesh))
    params = jax.device_put(loaded.params, replicated(mesh))
    for crop, train_batches in train_batches_of.items():
        train = few_shot.compute_features(step, params, train_batches, sharding)
        few_shot.check_shots(train[1], num_classes, max(shots))  # before the test images are read
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
) -> tuple[int, dict[str, HostBatches]]:
    """Returns the number of classes of a split, and for each crop its batches; reads no image."""
    # Brings in TensorFlow, which the evaluation step itself does without.
    from mixer.data.datasets import open_dataset
    from mixer.data.input_pipeline import EvalInput
    from mixer.data.preprocess import make_eval_preprocess

    if not images.crops:
        raise ValueError("Expected a crop, resmall_crop or resize_crop; got none.")
    check_batch_size(images.batch_size, mesh)
    dataset = open_dataset(images.dataset, split, images.data_dir)
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
    return dataset.num_classes, batches_of


def _view(loaded: LoadedModel, images: Images, crop: str) -> dict[str, Any]:
    where = {"dataset": images.dataset, "split": images.split}
    return {**where, "crop": crop, "resize": images.resize, "image_size": loaded.image_size}


def _check_head(num_head_classes: int, num_classes: int, dataset: str) -> None:
    probe = "probe the features in its place: --few_shot=1,5,10,25"
    if num_head_classes == 0:
        raise ValueError(
            f"Expected weights with a head of {num_classes:,} classes, as {dataset} has; these "
            f"have no head. Train one, or {probe}."
        )
    if num_head_classes != num_classes:
        raise ValueError(
            f"Expected weights for {num_classes:,} classes, as {dataset} has; got "
            f"{num_head_classes:,} classes. Fine-tune them on {dataset} first, or {probe}."
        )


def _shown(batches: HostBatches, total: int, description: str) -> HostBatches:
    """Returns the same, with a bar on stderr while they are taken, if it is a terminal."""
    console = rich.console.Console(stderr=True)
    return rich.progress.track(
        batches,
        description,
        total,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
