"""Builds the parts of a run from its config: its input and its computation."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import Mesh

from mixer.config import ConfigReader, count_steps
from mixer.errors import unknown_name
from mixer.evaluation.classification import EvalStep, make_eval_step
from mixer.flops import train_flops_per_image
from mixer.losses import LOSSES
from mixer.models import build_model
from mixer.optimizer import create_adam, create_momentum, create_schedule
from mixer.sharding import replicated, state_sharding
from mixer.train_state import Params, TrainState, create_train_state
from mixer.train_step import make_train_step

HostBatches = Iterator[dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Data:
    """The input of a run: batches of this process's rows, in host memory."""

    num_classes: int
    class_names: tuple[str, ...]
    num_examples: int  # of an epoch
    fingerprints: dict[str, str]
    train_batches: Callable[..., HostBatches]  # (first_step, on_damage), without end
    eval_batches: dict[str, Callable[[], HostBatches]]  # of each split


@dataclasses.dataclass(frozen=True)
class Training:
    """The computation of a run. A step number counts the updates done."""

    model: nn.Module
    total_steps: int
    schedule: optax.Schedule
    abstract_state: TrainState
    init_state: Callable[[Params], TrainState]  # of pre-trained parameters; {} from scratch
    train_step: Any  # jitted
    eval_step: EvalStep  # jitted
    flops_per_image: int


def build_data(cfg: ConfigReader, rows: np.ndarray) -> Data:
    """Returns the input that the config describes, `rows` of each batch; reads no image yet."""
    # Brings in TensorFlow, which the model, the step and the benchmarks do without.
    from mixer.data import datasets, input_pipeline, preprocess
    from mixer.data.order import ExampleOrder

    train_set = datasets.open_dataset(
        cfg.dataset, cfg.train_split, cfg.data_dir, fraction=cfg.train_fraction
    )
    order = ExampleOrder(len(train_set.records), cfg.batch_size, cfg.seed, cfg.num_stripes)
    train_set = datasets.cached(train_set, cfg.cache, order.examples_of(rows))
    train_input = input_pipeline.TrainInput(
        train_set,
        order,
        preprocess.make_train_preprocess(
            size=cfg.image_size,
            crop=_train_crop(cfg.train_crop, cfg.image_size),
            flip=cfg.flip,
            randaugment_layers=cfg.randaugment.layers,
            randaugment_magnitude=cfg.randaugment.magnitude,
        ),
        rows=rows,
        prefetch=cfg.prefetch,
    )
    eval_preprocess = preprocess.make_eval_preprocess(
        size=cfg.image_size, crop=cfg.eval_crop, resize=cfg.eval_resize
    )
    eval_inputs = {
        name: input_pipeline.EvalInput(
            datasets.open_dataset(cfg.dataset, split, cfg.data_dir),
            eval_preprocess,
            batch_size=cfg.batch_size,
            rows=rows,
            prefetch=cfg.prefetch,
            cache=cfg.cache_eval,
        )
        for name, split in dict(**cfg.eval_splits).items()
    }
    return Data(
        num_classes=train_set.num_classes,
        class_names=train_set.class_names,
        num_examples=len(train_set.records),
        fingerprints={cfg.train_split: train_set.records.fingerprint()},
        train_batches=train_input.from_step,
        eval_batches={name: eval_input.one_pass for name, eval_input in eval_inputs.items()},
    )


def _train_crop(cfg: ConfigReader, size: int) -> Any:
    from mixer.data import preprocess

    if cfg.name == "inception_crop":
        return preprocess.inception_crop(size, area=tuple(cfg.area))
    if cfg.name == "random_crop":
        return preprocess.random_crop(size, resize=cfg.resize)
    raise unknown_name("train_crop.name", cfg.name, ("inception_crop", "random_crop"))


def build_training(
    cfg: ConfigReader, mesh: Mesh, *, num_classes: int, num_examples: int
) -> Training:
    """Returns the computation that the config describes; compiles nothing."""
    if cfg.loss not in LOSSES:
        raise unknown_name("loss", cfg.loss, LOSSES)
    loss = LOSSES[cfg.loss]
    total_steps = count_steps(cfg, lambda: num_examples)
    model = build_model(**cfg.model, num_classes=num_classes)
    schedule = create_schedule(
        learning_rate=cfg.optimizer.learning_rate,
        warmup_steps=cfg.optimizer.warmup_steps,
        total_steps=total_steps,
        decay=cfg.optimizer.decay,
        end_learning_rate=cfg.optimizer.end_learning_rate,
    )
    optimizer = _optimizer(cfg.optimizer, schedule)
    abstract_state, init_state = create_train_state(
        model,
        optimizer,
        image_size=cfg.image_size,
        seed=cfg.seed,
        averaged=cfg.polyak_decay > 0,
        mesh=mesh,
    )
    train_step = make_train_step(
        model,
        optimizer,
        loss,
        num_classes=num_classes,
        mixup_alpha=cfg.mixup_alpha,
        accumulation_steps=cfg.accumulation_steps,
        polyak_decay=cfg.polyak_decay,
        seed=cfg.seed,
    )
    return Training(
        model=model,
        total_steps=total_steps,
        schedule=schedule,
        abstract_state=abstract_state,
        init_state=init_state,
        train_step=jax.jit(
            train_step,
            donate_argnums=0,
            out_shardings=(state_sharding(mesh, abstract_state), replicated(mesh)),
        ),
        eval_step=jax.jit(make_eval_step(model, loss, num_classes), out_shardings=replicated(mesh)),
        flops_per_image=train_flops_per_image(model, abstract_state.params, cfg.image_size),
    )


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
    if cfg.name == "momentum":
        return create_momentum(
            schedule,
            momentum=cfg.momentum,
            clip_global_norm=cfg.clip_global_norm,
            momentum_dtype=cfg.momentum_dtype,
        )
    raise unknown_name("optimizer.name", cfg.name, ("adam", "momentum"))
