"""From a config to the parts of a run: the last place that sees a config."""

import dataclasses
from typing import Any

import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer.build_data import Data, build_data
from mixer.config import ConfigReader, check_config, count_steps
from mixer.data.table import DATASETS, num_examples
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
