"""The training loop: builds every part once, then loops. The only file that knows all parts."""

import gc
import itertools
import time
from typing import Any

import jax
from clu import parameter_overview
from etils import epath
from ml_collections import ConfigDict

from mixer.build import Data, Training, build_data, build_training
from mixer.checkpoint import Checkpoints, newest_step
from mixer.config import ConfigReader, differences, to_plain
from mixer.evaluation.classification import evaluate
from mixer.preemption import Preempted, Preemption
from mixer.sharding import batch_sharding, check_batch_size, create_mesh, local_rows, to_global
from mixer.suggestion import unknown_name
from mixer.train_log import TrainLog
from mixer.train_state import Params
from mixer.watchdog import Watchdog
from mixer.weights.restore import initial_params
from mixer.workdir_lock import workdir_lock


def train(
    config: ConfigDict,
    workdir: epath.Path,
    *,
    allow_config_change: bool = False,
    started: float | None = None,
) -> dict[str, float]:
    """Runs the config to its last step.

    Starts from the newest sound checkpoint of the workdir, otherwise from the weights that
    `init_from` names, otherwise from scratch. Returns the last value of each metric
    (`mixer/metrics.py` lists them). The program was `started` at that time of `time.monotonic`;
    None: now.

    Raises:
      ValueError: a config that cannot work, unread keys included, or one that differs from what
        the checkpoint was trained with, unless `allow_config_change`. Nothing was written then.
        Also, all checkpoints are damaged, or another run is at work in the workdir.
      FloatingPointError: loss or gradient became non-finite; nothing of that step is saved.
      OSError: a checkpoint could not be written, nor at the second try. Earlier ones are intact.
      Preempted: SIGTERM or Ctrl-C asked to stop; every finished step is saved. A SystemExit with
        code 0.
    """
    started = time.monotonic() if started is None else started
    cfg = ConfigReader(config)
    mesh = create_mesh(**cfg.mesh)
    check_batch_size(cfg.batch_size, mesh, cfg.accumulation_steps)
    sharding = batch_sharding(mesh)
    data = build_data(cfg, local_rows(sharding, cfg.batch_size))
    training = build_training(
        cfg, mesh, num_classes=data.num_classes, num_examples=data.num_examples
    )
    _check_intervals(cfg, data)
    watchdog = Watchdog(cfg.watchdog_seconds)
    replace_damaged, best_by, init_from = cfg.replace_damaged, cfg.best_by, cfg.init_from
    cfg.check_all_read()
    meta: dict[str, Any] = {
        "config": to_plain(config),
        "data": data.fingerprints,
        "class_names": data.class_names,
    }

    def check_same_run(step: int, saved: dict[str, Any]) -> None:
        if not allow_config_change:
            _check_same_run(step, saved, meta)

    pretrained: Params = {}
    if init_from and newest_step(workdir / "checkpoints") is None:
        pretrained = initial_params(init_from, training.model, config.image_size)
    with (
        Preemption(mesh) as preemption,
        workdir_lock(workdir),
        Checkpoints(
            workdir / "checkpoints",
            keep=cfg.keep_checkpoints,
            keep_every=cfg.keep_every,
            best_by=best_by,
        ) as checkpoints,
        watchdog,
    ):
        restored = checkpoints.restore_newest(training.abstract_state, check_same_run)
        first_step, saved = (restored.step, restored.meta) if restored else (0, {})
        with TrainLog(
            workdir,
            started=started,
            config=meta["config"],
            first_step=first_step,
            total_steps=training.total_steps,
            log_every=cfg.log_every,
            batch_size=cfg.batch_size,
            train_flops_per_image=training.flops_per_image,
            schedule=training.schedule,
            saved=saved.get("log", {}),
        ) as log:
            if restored:
                log.say(f"Resuming {workdir} at step {first_step:,}.")
                state = restored.state
            else:
                log.say(_overview(training.abstract_state.params))
                origin = f"the weights {init_from}, with a fresh head" if pretrained else "scratch"
                log.say(f"Starting {workdir} from {origin}.")
                state = training.init_state(pretrained)
            is_evaluated = log.is_evaluated(first_step)
            if first_step >= training.total_steps and is_evaluated:
                return _finish(log, checkpoints, best_by)

            def is_due(step: int, every: int) -> bool:
                return step == training.total_steps or step % every == 0

            def evaluate_all(step: int) -> None:
                with log.pause():
                    results = {
                        split: evaluate(
                            training.eval_step,
                            state.eval_params,
                            watchdog.batches(preemption.batches(batches_of())),
                            sharding,
                        )
                        for split, batches_of in data.eval_batches.items()
                    }
                    log.add_evaluations(step, results)
                if best_by:
                    checkpoints.score(step, results[best_by.removesuffix("/top1")]["top1"])

            def save(step: int) -> None:
                with log.pause():  # a state that is not finite does not come past here
                    if failure := checkpoints.failed_save(wait=True):
                        log.say(f"{failure}\nTrying once more, with step {step:,}.")
                    checkpoints.save(step, state, {**meta, "log": log.state()})

            saved_step = first_step
            try:
                on_damage = log.add_damage if replace_damaged else None
                batches = preemption.batches(data.train_batches(first_step, on_damage))
                first_batch = next(batches)
                if not restored:
                    log.add_images(first_batch)
                train_step = _compile(training, to_global(first_batch, sharding), log)
                preemption.check()
                batches = itertools.chain([first_batch], batches)

                gc.enable()  # mixer/main.py turns it off
                log.start_clock()
                if is_due(first_step, cfg.eval_every) and not is_evaluated:
                    evaluate_all(first_step)
                for step in range(first_step + 1, training.total_steps + 1):
                    state, metrics = train_step(state, to_global(next(batches), sharding))
                    log.add(step, metrics)
                    watchdog.beat()
                    if is_due(step, cfg.eval_every):
                        evaluate_all(step)
                    if is_due(step, cfg.checkpoint_every) or checkpoints.failed_save():
                        save(step)
                        saved_step = step
            except Preempted as preempted:
                step = int(state.step)
                is_new = step > saved_step
                doing = (
                    f"saving step {step:,}, then ending" if is_new else "nothing to save, ending"
                )
                log.say(f"{preempted.signal}: {doing}; run the same command to go on.")
                if is_new or checkpoints.failed_save(wait=True):
                    save(step)
                checkpoints.wait()
                raise
            if checkpoints.failed_save(wait=True):
                save(training.total_steps)
            checkpoints.wait()
            return _finish(log, checkpoints, best_by)


def _check_intervals(cfg: ConfigReader, data: Data) -> None:
    for key in ("log_every", "eval_every", "checkpoint_every", "keep_checkpoints"):
        if cfg[key] < 1:
            raise ValueError(f"Expected {key} to be at least 1; got {cfg[key]}.")
    if cfg.keep_every < 0 or cfg.keep_every % cfg.checkpoint_every:
        raise ValueError(
            f"Expected keep_every to be 0 or a multiple of checkpoint_every "
            f"({cfg.checkpoint_every}); got {cfg.keep_every}."
        )
    scores = [f"{split}/top1" for split in data.eval_batches]
    if cfg.best_by and cfg.best_by not in scores:
        raise unknown_name("score best_by", cfg.best_by, scores)


def _finish(log: TrainLog, checkpoints: Checkpoints, best_by: str) -> dict[str, float]:
    result = log.finish()
    best_step = checkpoints.best_step()
    if best_step is not None:
        log.say(f"  best         {checkpoints.directory / str(best_step)}, by {best_by}")
    return result


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
