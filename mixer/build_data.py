"""From a config to the input of a run."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mixer.batch import Draw, HostBatch
from mixer.config import ConfigReader
from mixer.evaluation.few_shot import FewShot, check_splits

TrainBatches = Callable[..., Iterator[HostBatch]]  # (first_step, on_damage), endless


@dataclasses.dataclass(frozen=True)
class Data:
    """The input of a run: batches of this process's rows, in host memory."""

    num_classes: int
    class_names: tuple[str, ...]
    labels_per_image: int
    num_examples: int  # per epoch
    fingerprints: dict[str, str]  # split -> hash
    read_dataset: Callable[[], HostBatch]  # what the devices keep: the training images, or {}
    draw: Draw | None  # makes a batch of that and of what `train_batches` yields
    train_batches: TrainBatches
    eval_batches: dict[str, Callable[[], Iterator[HostBatch]]]  # split -> one pass
    few_shot: FewShot | None


def build_data(cfg: ConfigReader, rows: np.ndarray) -> Data:
    """Returns the input that a config describes, `rows` of each batch; reads no image yet.

    Raises:
      ValueError: the dataset or a split is not there, or a key is out of range.
    """
    # They import TensorFlow, which the model, the step and the benchmarks do without.
    from mixer.data import datasets, preprocess
    from mixer.data.datasets import Dataset
    from mixer.data.input_pipeline import EvalInput
    from mixer.data.on_device import index_batches
    from mixer.data.order import ExampleOrder

    open_split = functools.partial(
        datasets.open_dataset, cfg.dataset, data_dir=cfg.data_dir, label_key=cfg.label_key
    )
    train_set = open_split(cfg.train_split, fraction=cfg.train_fraction)
    order = ExampleOrder(len(train_set.records), cfg.batch_size, cfg.seed, cfg.num_stripes)
    train_set = datasets.cached(train_set, cfg.cache, order.examples_of(rows))
    if cfg.input == "device":
        read_dataset, draw = _device_input(cfg, train_set)
        train_batches: TrainBatches = functools.partial(index_batches, order, rows)
    else:
        read_dataset, draw = dict, None
        train_batches = _host_input(cfg, train_set, order, rows)
    eval_preprocess = preprocess.make_eval_preprocess(
        size=cfg.image_size, crop=cfg.eval_crop, resize=cfg.eval_resize
    )

    def one_pass(dataset: Dataset) -> Callable[[], Iterator[HostBatch]]:
        return EvalInput(
            dataset,
            eval_preprocess,
            batch_size=cfg.batch_size,
            rows=rows,
            prefetch=cfg.prefetch,
            cache=cfg.cache_eval,
            on_damage=print if cfg.replace_damaged else None,
        ).one_pass

    return Data(
        num_classes=train_set.num_classes,
        class_names=train_set.class_names,
        labels_per_image=train_set.labels_per_image,
        num_examples=len(train_set.records),
        fingerprints={cfg.train_split: train_set.records.fingerprint()},
        read_dataset=read_dataset,
        draw=draw,
        train_batches=train_batches,
        eval_batches={
            name: one_pass(open_split(split)) for name, split in dict(**cfg.eval_splits).items()
        },
        few_shot=_few_shot(dict(**cfg.few_shot), cfg.data_dir, one_pass),
    )


def _few_shot(keys: dict[str, Any], data_dir: str, one_pass: Callable[..., Any]) -> FewShot | None:
    """Returns the images of the probe; `one_pass` makes batches of a dataset."""
    from mixer.data.datasets import open_dataset

    name, splits = keys["dataset"], (keys["train_split"], keys["test_split"])
    if not name:
        return None
    train, test = (open_dataset(name, split, data_dir) for split in splits)
    given = [f"few_shot.{key}={keys[key]}" for key in ("train_split", "test_split")]
    check_splits(train, test, name, given)
    if train.labels_per_image != 1 or test.labels_per_image != 1:
        raise ValueError(f"Expected one label per image for few_shot.dataset; {name} has several.")
    if keys["shots"] * train.num_classes > len(train.records):
        raise ValueError(
            f"Expected few_shot.shots={keys['shots']} images of each of the {train.num_classes:,} "
            f"classes in {given[0]}; it has {len(train.records):,} images. Use fewer shots."
        )
    return FewShot(train.num_classes, keys["shots"], one_pass(train), one_pass(test))


def _host_input(cfg: ConfigReader, train_set: Any, order: Any, rows: np.ndarray) -> TrainBatches:
    """Returns the batches that tf.data augments."""
    from mixer.data.input_pipeline import TrainInput
    from mixer.data.preprocess import make_train_preprocess

    preprocess = make_train_preprocess(
        size=cfg.image_size,
        crop=_train_crop(cfg.train_crop, cfg.image_size),
        flip=cfg.flip,
        randaugment_layers=cfg.randaugment.layers,
        randaugment_magnitude=cfg.randaugment.magnitude,
    )
    return TrainInput(train_set, order, preprocess, rows=rows, prefetch=cfg.prefetch).from_step


def _device_input(cfg: ConfigReader, train_set: Any) -> tuple[Callable[[], HostBatch], Draw]:
    """Returns what reads the images that every device keeps, and what makes batches of them.

    Raises:
      ValueError: an augmentation or `replace_damaged` needs input=host.
    """
    from mixer.data import augment
    from mixer.data.on_device import read_images

    if cfg.replace_damaged:
        raise ValueError(
            "Expected replace_damaged=False with input=device, which reads all images before the "
            "first step; got True. Use input=host."
        )
    size, crop_cfg = cfg.image_size, cfg.train_crop
    # The magnitude has no meaning without layers, but a key that nobody reads is an error.
    name, layers, _ = crop_cfg.name, cfg.randaugment.layers, cfg.randaugment.magnitude
    if name == "padded_crop" and not layers:
        crop = augment.padded_crop(size, padding=crop_cfg.padding)
    elif name == "inception_crop" and not layers:
        crop = augment.inception_crop(size, area=tuple(crop_cfg.area))
    else:
        raise ValueError(
            "Expected train_crop.name to be inception_crop or padded_crop and "
            f"randaugment.layers=0 with input=device; got {name} and {layers} layers. Use "
            "input=host."
        )
    read = functools.partial(read_images, train_set, size if name == "padded_crop" else None)
    return read, augment.make_draw(cfg.seed, crop=crop, flip=cfg.flip)


def _train_crop(cfg: ConfigReader, size: int) -> Any:
    from mixer.data import preprocess

    if cfg.name == "inception_crop":
        return preprocess.inception_crop(size, area=tuple(cfg.area))
    if cfg.name == "padded_crop":
        return preprocess.padded_crop(size, padding=cfg.padding)
    crop = preprocess.random_crop if cfg.name == "random_crop" else preprocess.squeezed_crop
    return crop(size, resize=cfg.resize)
