"""From a config to the parts of a run: the last place that sees a config."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer import augment
from mixer.batch import Draw, HostBatch
from mixer.config import ConfigReader, check_config, count_steps
from mixer.data.table import DATASETS, num_examples
from mixer.evaluation.few_shot import FewShot, check_splits
from mixer.losses import LOSSES, Loss
from mixer.optimizer import create_adam, create_momentum, create_schedule, create_staircase
from mixer.sharding import batch_sharding, check_batch_size, create_mesh, local_rows


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What a config says of a run, apart from its data.

    A step number counts the updates done. Keys that are not explained here are in docs/configs.md.
    """

    config: dict[str, Any]  # all of it, as JSON holds it
    seed: int
    mesh: dict[str, int]  # sizes of the axes, as `create_mesh` takes them
    batch_size: int
    image_size: int
    num_classes: int
    total_steps: int
    model: dict[str, Any]  # the arguments of `build_model`, apart from `num_classes`
    loss: Loss
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    mixup_alpha: float
    accumulation_steps: int
    steps_per_call: int
    polyak_decay: float
    init_from: str
    replace_damaged: bool
    log_every: int
    eval_every: int
    checkpoint_every: int
    keep_checkpoints: int
    keep_every: int
    best_by: str
    watchdog_seconds: float


@dataclasses.dataclass(frozen=True)
class Data:
    """The input of a run: batches of this process's rows, in host memory."""

    num_classes: int
    class_names: tuple[str, ...]
    labels_per_image: int
    num_examples: int  # per epoch
    fingerprints: dict[str, str]  # split -> hash
    dataset: HostBatch  # what the devices keep: the training images, or nothing ({})
    draw: Draw | None  # makes a batch of `dataset` and of what `train_batches` yields
    train_batches: Callable[..., Iterator[HostBatch]]  # (first_step, on_damage), endless
    eval_batches: dict[str, Callable[[], Iterator[HostBatch]]]  # split -> one pass
    few_shot: FewShot | None


def build_run(config: ConfigDict) -> tuple[RunOptions, Mesh, Data]:
    """Returns the parts of the run that a config describes; reads no image and compiles nothing.

    `config` has passed `check_config`.

    Raises:
      ValueError: the keys do not fit each other or the devices, or the data cannot be opened.
    """
    cfg = ConfigReader(config)
    mesh = create_mesh(**cfg.mesh)
    check_batch_size(cfg.batch_size, mesh, cfg.accumulation_steps)
    data = build_data(cfg, local_rows(batch_sharding(mesh), cfg.batch_size))
    options = build_options(cfg, num_classes=data.num_classes, num_examples=data.num_examples)
    cfg.check_all_read()
    return options, mesh, data


def build_without_data(config: ConfigDict) -> tuple[RunOptions, int]:
    """Returns the options of a run and its labels per image, from the table of datasets alone.

    Raises:
      ValueError: a key is missing or out of range, or the dataset is not in the table.
    """
    check_config(config)
    cfg = ConfigReader(config)
    images = num_examples(cfg.dataset, cfg.train_split, cfg.train_fraction)
    row = DATASETS[cfg.dataset.partition(":")[0]]
    options = build_options(cfg, num_classes=row.num_classes, num_examples=images)
    return options, row.max_labels


def build_options(cfg: ConfigReader, *, num_classes: int, num_examples: int) -> RunOptions:
    """Returns the options of a run over a training split of that size.

    Raises:
      ValueError: as `build_run`.
    """
    total_steps = count_steps(cfg, lambda: num_examples)
    schedule = _schedule(cfg.optimizer, total_steps)
    return RunOptions(
        config=cfg.as_json(),
        seed=cfg.seed,
        mesh=dict(**cfg.mesh),
        batch_size=cfg.batch_size,
        image_size=cfg.image_size,
        num_classes=num_classes,
        total_steps=total_steps,
        model=dict(**cfg.model),
        loss=LOSSES[cfg.loss],
        schedule=schedule,
        optimizer=_optimizer(cfg.optimizer, schedule),
        mixup_alpha=cfg.mixup_alpha,
        accumulation_steps=cfg.accumulation_steps,
        steps_per_call=cfg.steps_per_call,
        polyak_decay=cfg.polyak_decay,
        init_from=cfg.init_from,
        replace_damaged=cfg.replace_damaged,
        log_every=cfg.log_every,
        eval_every=cfg.eval_every,
        checkpoint_every=cfg.checkpoint_every,
        keep_checkpoints=cfg.keep_checkpoints,
        keep_every=cfg.keep_every,
        best_by=cfg.best_by,
        watchdog_seconds=cfg.watchdog_seconds,
    )


def build_data(cfg: ConfigReader, rows: np.ndarray) -> Data:
    """Returns the input that a config describes, `rows` of each batch; reads no image yet.

    Raises:
      ValueError: the dataset or a split is not there, or a key is out of range.
    """
    # They import TensorFlow, which the model, the step and the benchmarks do without.
    from mixer.data import datasets, preprocess
    from mixer.data.datasets import Dataset
    from mixer.data.input_pipeline import EvalInput, TrainInput
    from mixer.data.on_device import IndexInput
    from mixer.data.order import ExampleOrder

    open_split = functools.partial(
        datasets.open_dataset, cfg.dataset, data_dir=cfg.data_dir, label_key=cfg.label_key
    )
    train_set = open_split(cfg.train_split, fraction=cfg.train_fraction)
    order = ExampleOrder(len(train_set.records), cfg.batch_size, cfg.seed, cfg.num_stripes)
    train_set = datasets.cached(train_set, cfg.cache, order.examples_of(rows))
    train_preprocess = preprocess.make_train_preprocess(
        size=cfg.image_size,
        crop=_train_crop(cfg.train_crop, cfg.image_size),
        flip=cfg.flip,
        randaugment_layers=cfg.randaugment.layers,
        randaugment_magnitude=cfg.randaugment.magnitude,
    )
    train_input: TrainInput | IndexInput
    if cfg.input == "device":
        dataset, draw = _on_device(cfg, train_set)
        train_input = IndexInput(order, rows)
    else:
        dataset, draw = {}, None
        train_input = TrainInput(
            train_set, order, train_preprocess, rows=rows, prefetch=cfg.prefetch
        )
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
        dataset=dataset,
        draw=draw,
        train_batches=train_input.from_step,
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


def _on_device(cfg: ConfigReader, train_set: Any) -> tuple[HostBatch, Draw]:
    """Returns the images that every device keeps, and the function that makes a batch of them.

    Raises:
      ValueError: an augmentation exists on the host alone, or the images do not suit.
    """
    from mixer.data.on_device import read_images

    name = cfg.train_crop.name
    if name not in ("inception_crop", "padded_crop") or cfg.randaugment.layers:
        raise ValueError(
            "Expected train_crop.name to be inception_crop or padded_crop and "
            f"randaugment.layers=0 with input=device; got {name} and {cfg.randaugment.layers} "
            "layers. Use input=host."
        )
    if name == "padded_crop":
        crop = augment.padded_crop(cfg.image_size, padding=cfg.train_crop.padding)
    else:
        crop = augment.inception_crop(cfg.image_size, area=tuple(cfg.train_crop.area))
    images = read_images(train_set, cfg.image_size if name == "padded_crop" else None)
    return images, augment.make_draw(cfg.seed, crop=crop, flip=cfg.flip)


def _train_crop(cfg: ConfigReader, size: int) -> Any:
    from mixer.data import preprocess

    if cfg.name == "inception_crop":
        return preprocess.inception_crop(size, area=tuple(cfg.area))
    if cfg.name == "padded_crop":
        return preprocess.padded_crop(size, padding=cfg.padding)
    crop = preprocess.random_crop if cfg.name == "random_crop" else preprocess.squeezed_crop
    return crop(size, resize=cfg.resize)


def _schedule(cfg: ConfigReader, total_steps: int) -> optax.Schedule:
    common = dict(
        learning_rate=cfg.learning_rate, warmup_steps=cfg.warmup_steps, total_steps=total_steps
    )
    if cfg.decay == "staircase":
        return create_staircase(**common, decay_at=tuple(cfg.decay_at))
    return create_schedule(**common, decay=cfg.decay, end_learning_rate=cfg.end_learning_rate)


def _optimizer(cfg: ConfigReader, schedule: optax.Schedule) -> optax.GradientTransformation:
    if cfg.name == "adam":
        return create_adam(
            schedule,
            beta1=cfg.beta1,
            beta2=cfg.beta2,
            weight_decay=cfg.weight_decay,
            clip_global_norm=cfg.clip_global_norm,
            mu_dtype=cfg.mu_dtype,
        )
    return create_momentum(
        schedule,
        momentum=cfg.momentum,
        weight_decay=cfg.weight_decay,
        clip_global_norm=cfg.clip_global_norm,
        momentum_dtype=cfg.momentum_dtype,
    )
