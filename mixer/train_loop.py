"""The training loop: builds every part once, then loops. The only file that knows all parts."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
from clu import parameter_overview
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer.checkpoint import Checkpoints
from mixer.config import ConfigReader, differences, to_plain
from mixer.evaluation.classification import EvalStep, evaluate, make_eval_step
from mixer.flops import train_flops_per_image
from mixer.losses import LOSSES
from mixer.models import build_model
from mixer.optimizer import create_adam, create_schedule
from mixer.sharding import (
    batch_sharding,
    check_batch_size,
    create_mesh,
    local_rows,
    replicated,
    state_sharding,
    to_global,
)
from mixer.suggestion import unknown_name
from mixer.train_log import TrainLog
from mixer.train_state import TrainState, create_train_state
from mixer.train_step import make_train_step

HostBatches = Iterator[dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Data:
    """The input of a run: batches of this process's rows, in host memory."""

    num_classes: int
    num_examples: int  # of an epoch
    fingerprints: dict[str, str]
    train_batches: Callable[..., HostBatches]  # (first_step, on_damage), without end
    eval_batches: Callable[[], HostBatches]


@dataclasses.dataclass(frozen=True)
class Training:
    """The computation of a run. A step number counts the updates done."""

    total_steps: int
    schedule: optax.Schedule
    abstract_state: TrainState
    init_state: Callable[[], TrainState]
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
    eval_set = datasets.open_dataset(cfg.dataset, cfg.eval_split, cfg.data_dir)
    order = ExampleOrder(len(train_set.records), cfg.batch_size, cfg.seed, cfg.num_stripes)
    train_set = datasets.cached(train_set, cfg.cache, order.examples_of(rows))
    train_input = input_pipeline.TrainInput(
        train_set,
        order,
        preprocess.make_train_preprocess(
            size=cfg.image_size,
            crop_area=tuple(cfg.crop_area),
            flip=cfg.flip,
            randaugment_layers=cfg.randaugment.layers,
            randaugment_magnitude=cfg.randaugment.magnitude,
        ),
        rows=rows,
        prefetch=cfg.prefetch,
    )
    eval_input = input_pipeline.EvalInput(
        eval_set,
        preprocess.make_eval_preprocess(
            size=cfg.image_size, crop=cfg.eval_crop, resize=cfg.eval_resize
        ),
        batch_size=cfg.batch_size,
        rows=rows,
        prefetch=cfg.prefetch,
        cache=cfg.cache_eval,
    )
    return Data(
        num_classes=train_set.num_classes,
        num_examples=len(train_set.records),
        fingerprints={cfg.train_split: train_set.records.fingerprint()},
        train_batches=train_input.batches,
        eval_batches=eval_input.batches,
    )


def build_training(
    cfg: ConfigReader, mesh: Mesh, *, num_classes: int, num_examples: int
) -> Training:
    """Returns the computation that the config describes; compiles nothing."""
    if cfg.loss not in LOSSES:
        raise unknown_name("loss", cfg.loss, LOSSES)
    loss = LOSSES[cfg.loss]
    total_steps = round(cfg.num_epochs * num_examples / cfg.batch_size)
    model = build_model(**cfg.model, num_classes=num_classes)
    schedule = create_schedule(
        learning_rate=cfg.optimizer.learning_rate,
        warmup_steps=cfg.optimizer.warmup_steps,
        total_steps=total_steps,
        end_learning_rate=cfg.optimizer.end_learning_rate,
    )
    optimizer = create_adam(
        schedule,
        beta1=cfg.optimizer.beta1,
        beta2=cfg.optimizer.beta2,
        weight_decay=cfg.optimizer.weight_decay,
        clip_global_norm=cfg.optimizer.clip_global_norm,
        mu_dtype=cfg.optimizer.mu_dtype,
    )
    abstract_state, init_state = create_train_state(
        model, optimizer, image_size=cfg.image_size, seed=cfg.seed, mesh=mesh
    )
    train_step = make_train_step(
        model,
        optimizer,
        loss,
        num_classes=num_classes,
        mixup_alpha=cfg.mixup_alpha,
        accumulation_steps=cfg.accumulation_steps,
        seed=cfg.seed,
    )
    return Training(
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


def train(
    config: ConfigDict, workdir: epath.Path, *, allow_config_change: bool = False
) -> dict[str, float]:
    """Runs the config to its last step, from the newest checkpoint of the workdir if it has one.

    Returns the last value of each metric (`mixer/metrics.py` lists them).

    Raises:
      ValueError: a config that cannot work, unread keys included, or one that differs from what
        the checkpoint was trained with, unless `allow_config_change`. Nothing was written then.
      FloatingPointError: loss or gradient became non-finite; nothing of that step is saved.
    """
    cfg = ConfigReader(config)
    mesh = create_mesh(**cfg.mesh)
    check_batch_size(cfg.batch_size, mesh, cfg.accumulation_steps)
    sharding = batch_sharding(mesh)
    data = build_data(cfg, local_rows(sharding, cfg.batch_size))
    training = build_training(
        cfg, mesh, num_classes=data.num_classes, num_examples=data.num_examples
    )
    for key in ("log_every", "eval_every", "checkpoint_every", "keep_checkpoints"):
        if cfg[key] < 1:
            raise ValueError(f"Expected {key} to be at least 1; got {cfg[key]}.")
    replace_damaged = cfg.replace_damaged
    cfg.check_all_read()
    meta = {"config": to_plain(config), "data": data.fingerprints}

    with Checkpoints(workdir / "checkpoints", keep=cfg.keep_checkpoints) as checkpoints:
        first_step = checkpoints.latest_step() or 0
        saved = checkpoints.read_meta(first_step) if first_step else {}
        if saved and not allow_config_change:
            _check_same_run(first_step, saved, meta)
        with TrainLog(
            workdir,
            config=meta["config"],
            first_step=first_step,
            total_steps=training.total_steps,
            log_every=cfg.log_every,
            batch_size=cfg.batch_size,
            train_flops_per_image=training.flops_per_image,
            schedule=training.schedule,
            saved=saved.get("log", {}),
        ) as log:
            if saved:
                log.say(f"Resuming {workdir} at step {first_step:,}.")
                state = checkpoints.restore(first_step, training.abstract_state)
            else:
                log.say(_overview(training.abstract_state.params))
                state = training.init_state()
            if first_step >= training.total_steps:
                return log.finish()

            on_damage = log.add_damage if replace_damaged else None
            batches = data.train_batches(first_step, on_damage)
            first_batch = next(batches)
            log.add_images(first_batch)
            train_step = _compile(training, to_global(first_batch, sharding), log)
            batches = itertools.chain([first_batch], batches)

            log.start_clock()
            for step in range(first_step + 1, training.total_steps + 1):
                state, metrics = train_step(state, to_global(next(batches), sharding))
                log.add(step, metrics)
                checkpoints.raise_failed_save()
                is_last = step == training.total_steps
                if is_last or step % cfg.eval_every == 0:
                    with log.pause():
                        eval_batches = data.eval_batches()
                        result = evaluate(training.eval_step, state.params, eval_batches, sharding)
                        log.add_evaluation(step, "test", result)
                if is_last or step % cfg.checkpoint_every == 0:
                    with log.pause():  # a state that is not finite does not come past here
                        checkpoints.save(step, state, {**meta, "log": log.state()})
            checkpoints.wait()
            return log.finish()


def _check_same_run(step: int, saved: dict[str, Any], meta: dict[str, Any]) -> None:
    changes = [
        change for part in ("config", "data") for change in differences(saved[part], meta[part])
    ]
    if changes:
        lines = "\n  ".join(changes)
        raise ValueError(
            f"The checkpoint of step {step} was trained with another config or other data:\n"
            f"  {lines}\nUse another --workdir, or --allow_config_change to go on from it anyway."
        )


def _overview(params: Any) -> str:
    return parameter_overview.get_parameter_overview(params, include_stats=False)


def _compile(training: Training, batch: dict[str, jax.Array], log: TrainLog) -> Any:
    start = time.monotonic()
    compiled = training.train_step.lower(training.abstract_state, batch).compile()
    log.say(f"Compiled the training step in {time.monotonic() - start:.1f} s.")
    return compiled
