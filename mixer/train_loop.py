"""The training loop: builds every part once, then loops. The only file that knows all parts."""

import contextlib
import dataclasses
import functools
import itertools
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
from clu import parameter_overview
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from mixer.checkpoint import Checkpoints
from mixer.config import ConfigReader, differences, to_plain
from mixer.evaluation.classification import EvalStep, evaluate, make_eval_step
from mixer.losses import LOSSES
from mixer.metrics import read_metrics
from mixer.models import build_model
from mixer.optimizer import create_adam, create_schedule
from mixer.pictures import draw_curves, draw_images
from mixer.sharding import (
    batch_sharding,
    check_batch_size,
    create_mesh,
    local_rows,
    replicated,
    to_global,
)
from mixer.suggestion import unknown_name
from mixer.train_log import TrainLog
from mixer.train_state import TrainState, create_train_state
from mixer.train_step import make_train_step

HostBatches = Iterator[dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Parts:
    """Everything that a run is made of. A step number counts the updates done."""

    total_steps: int
    batch_size: int
    sharding: NamedSharding  # of a batch
    data_fingerprint: dict[str, str]
    train_batches: Callable[..., HostBatches]  # from `first_step` on
    eval_batches: Callable[[], HostBatches]
    schedule: optax.Schedule
    abstract_state: TrainState
    init_state: Callable[[], TrainState]
    train_step: Any  # jitted
    eval_step: EvalStep  # jitted
    log_every: int
    eval_every: int
    checkpoint_every: int
    keep_checkpoints: int


def build_parts(config: ConfigDict) -> Parts:
    """Returns the parts of the run that the config describes; nothing is compiled or written.

    Raises:
      ValueError: anything in the config that cannot work, unread keys included.
    """
    # Brings in TensorFlow, which the model, the step and the benchmarks do without.
    from mixer.data import datasets, input_pipeline, preprocess
    from mixer.data.order import ExampleOrder

    cfg = ConfigReader(config)
    mesh = create_mesh()
    check_batch_size(cfg.batch_size, mesh)
    sharding, whole = batch_sharding(mesh), replicated(mesh)
    rows = local_rows(sharding, cfg.batch_size)

    train_set = datasets.open_dataset(cfg.dataset, cfg.train_split, cfg.data_dir)
    eval_set = datasets.open_dataset(cfg.dataset, cfg.eval_split, cfg.data_dir)
    order = ExampleOrder(len(train_set.records), cfg.batch_size, cfg.seed, cfg.num_stripes)
    total_steps = round(cfg.num_epochs * len(train_set.records) / cfg.batch_size)

    if cfg.loss not in LOSSES:
        raise unknown_name("loss", cfg.loss, LOSSES)
    num_classes, loss = train_set.num_classes, LOSSES[cfg.loss]
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
    )
    abstract_state, init_state = create_train_state(
        model, optimizer, image_size=cfg.image_size, seed=cfg.seed, sharding=whole
    )
    train_step = make_train_step(
        model,
        optimizer,
        loss,
        num_classes=num_classes,
        mixup_alpha=cfg.mixup_alpha,
        seed=cfg.seed,
    )
    parts = Parts(
        total_steps=total_steps,
        batch_size=cfg.batch_size,
        sharding=sharding,
        data_fingerprint={cfg.train_split: train_set.records.fingerprint()},
        train_batches=functools.partial(
            input_pipeline.train_batches,
            train_set,
            order,
            preprocess.make_train_preprocess(
                size=cfg.image_size, crop_area=tuple(cfg.crop_area), flip=cfg.flip
            ),
            rows=rows,
            prefetch=cfg.prefetch,
        ),
        eval_batches=functools.partial(
            input_pipeline.evaluation_batches,
            eval_set,
            functools.partial(preprocess.whole_image, size=cfg.image_size),
            batch_size=cfg.batch_size,
            rows=rows,
            prefetch=cfg.prefetch,
        ),
        schedule=schedule,
        abstract_state=abstract_state,
        init_state=init_state,
        train_step=jax.jit(train_step, donate_argnums=0, out_shardings=whole),
        eval_step=jax.jit(make_eval_step(model, loss, num_classes)),
        log_every=_positive(cfg, "log_every"),
        eval_every=_positive(cfg, "eval_every"),
        checkpoint_every=_positive(cfg, "checkpoint_every"),
        keep_checkpoints=_positive(cfg, "keep_checkpoints"),
    )
    cfg.check_all_read()
    return parts


def train(
    config: ConfigDict, workdir: pathlib.Path, *, allow_config_change: bool = False
) -> dict[str, float]:
    """Runs the config to its last step, from the newest checkpoint of the workdir if it has one.

    Returns the last value of each metric (`mixer/metrics.py` lists them).

    Raises:
      ValueError: a config that cannot work, or one that differs from what the checkpoint was
        trained with, unless `allow_config_change`.
      FloatingPointError: loss or gradient became non-finite; nothing of that step is saved.
    """
    start = time.monotonic()
    parts = build_parts(config)
    meta = {"config": to_plain(config), "data": parts.data_fingerprint}
    workdir.mkdir(parents=True, exist_ok=True)

    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            Checkpoints(workdir / "checkpoints", keep=parts.keep_checkpoints)
        )
        first_step = checkpoints.latest_step() or 0
        saved = checkpoints.read_meta(first_step) if first_step else {}
        if saved and not allow_config_change:
            _check_same_run(first_step, saved, meta)
        if jax.process_index() == 0:
            (workdir / "config.json").write_text(json.dumps(meta["config"], indent=2) + "\n")
        log = stack.enter_context(
            TrainLog(
                workdir,
                first_step=first_step,
                total_steps=parts.total_steps,
                log_every=parts.log_every,
                batch_size=parts.batch_size,
                schedule=parts.schedule,
                saved=saved.get("log", {}),
            )
        )
        if saved:
            log.progress.say(f"Resuming {workdir} at step {first_step:,}.")
            state = checkpoints.restore(first_step, parts.abstract_state)
        else:
            log.progress.say(_overview(parts.abstract_state.params))
            state = parts.init_state()
        if first_step < parts.total_steps:
            _run_steps(parts, state, first_step, workdir, checkpoints, log, meta)
    final = _final_metrics(workdir)
    log.progress.say(_summary(workdir, parts.total_steps, final, time.monotonic() - start))
    return final


def _check_same_run(step: int, saved: dict[str, Any], meta: dict[str, Any]) -> None:
    changes = differences(saved["config"], meta["config"]) + differences(
        saved["data"], meta["data"]
    )
    if changes:
        lines = "\n  ".join(changes)
        raise ValueError(
            f"The checkpoint of step {step} was trained with another config or other data:\n"
            f"  {lines}\nUse another --workdir, or --allow_config_change to go on from it anyway."
        )


def _overview(params: Any) -> str:
    return parameter_overview.get_parameter_overview(params, include_stats=False)


def _run_steps(
    parts: Parts,
    state: TrainState,
    first_step: int,
    workdir: pathlib.Path,
    checkpoints: Checkpoints,
    log: TrainLog,
    meta: dict[str, Any],
) -> None:
    batches = parts.train_batches(first_step=first_step)
    first_batch = next(batches)
    batches = itertools.chain([first_batch], batches)
    draw_images(first_batch["images"], first_batch["labels"], workdir / "train_images.png")
    train_step = _compile(parts, first_batch, log)

    log.progress.start()
    for step in range(first_step + 1, parts.total_steps + 1):
        state, metrics = train_step(state, to_global(next(batches), parts.sharding))
        log.add(step, metrics)
        checkpoints.raise_failed_save()
        is_last = step == parts.total_steps
        if is_last or step % parts.eval_every == 0:
            log.flush()
            with log.progress.pause():
                result = evaluate(
                    parts.eval_step, state.params, parts.eval_batches(), parts.sharding
                )
                log.add_evaluation(step, "test", result)
                draw_curves(workdir)
        if is_last or step % parts.checkpoint_every == 0:
            log.flush()  # a state that is not finite does not come past here
            with log.progress.pause():
                checkpoints.save(step, state, {**meta, "log": log.state()})


def _compile(parts: Parts, batch: dict[str, np.ndarray], log: TrainLog) -> Any:
    start = time.monotonic()
    compiled = parts.train_step.lower(
        parts.abstract_state, to_global(batch, parts.sharding)
    ).compile()
    log.progress.say(f"Compiled the training step in {time.monotonic() - start:.1f} s.")
    return compiled


def _final_metrics(workdir: pathlib.Path) -> dict[str, float]:
    """Returns the last value of each metric on disk, also for a run that had already ended."""
    final: dict[str, float] = {}
    for line in read_metrics(workdir):
        final |= line
    return final


def _summary(workdir: pathlib.Path, total_steps: int, final: dict[str, float], wall: float) -> str:
    return f"""
Finished {total_steps:,} steps in {final["train_seconds"]:.1f} s of training, {wall:.1f} s in all.
  test top-1   {final["test/top1"]:.2%} of {final["test/count"]:,} images
  config       {workdir / "config.json"}
  metrics      {workdir / "metrics.jsonl"}, and for TensorBoard: tensorboard --logdir {workdir}
  pictures     {workdir / "curves.png"}, {workdir / "train_images.png"}
  checkpoint   {workdir / "checkpoints" / str(total_steps)}"""


def _positive(cfg: ConfigReader, key: str) -> int:
    if cfg[key] < 1:
        raise ValueError(f"Expected {key} to be at least 1; got {cfg[key]}.")
    return cfg[key]
