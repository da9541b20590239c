"""The training loop: builds every part once, then loops. The only file that knows all parts."""

import itertools
import time
from typing import Any

import jax
from clu import parameter_overview
from etils import epath
from ml_collections import ConfigDict

from mixer.build import Training, build_data, build_training
from mixer.checkpoint import Checkpoints
from mixer.config import ConfigReader, differences, to_plain
from mixer.evaluation.classification import evaluate
from mixer.preemption import Preempted, Preemption
from mixer.sharding import batch_sharding, check_batch_size, create_mesh, local_rows, to_global
from mixer.train_log import TrainLog
from mixer.train_state import Params
from mixer.watchdog import Watchdog
from mixer.weights.restore import initial_params


def train(
    config: ConfigDict, workdir: epath.Path, *, allow_config_change: bool = False
) -> dict[str, float]:
    """Runs the config to its last step.

    Starts from the newest checkpoint of the workdir, otherwise from the weights that `init_from`
    names, otherwise from scratch. Returns the last value of each metric (`mixer/metrics.py` lists
    them).

    Raises:
      ValueError: a config that cannot work, unread keys included, or one that differs from what
        the checkpoint was trained with, unless `allow_config_change`. Nothing was written then.
      FloatingPointError: loss or gradient became non-finite; nothing of that step is saved.
      Preempted: SIGTERM or Ctrl-C asked to stop; every finished step is saved. A SystemExit with
        code 0.
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
    replace_damaged, init_from = cfg.replace_damaged, cfg.init_from
    watchdog = Watchdog(cfg.watchdog_seconds)
    cfg.check_all_read()
    meta: dict[str, Any] = {
        "config": to_plain(config),
        "data": data.fingerprints,
        "class_names": data.class_names,
    }

    with (
        Preemption(mesh) as preemption,
        Checkpoints(workdir / "checkpoints", keep=cfg.keep_checkpoints) as checkpoints,
    ):
        first_step = checkpoints.latest_step() or 0
        saved = checkpoints.read_meta(first_step) if first_step else {}
        if saved and not allow_config_change:
            _check_same_run(first_step, saved, meta)
        pretrained: Params = {}
        if init_from and not saved:
            pretrained = initial_params(init_from, training.model, config.image_size)
        with (
            watchdog,
            TrainLog(
                workdir,
                config=meta["config"],
                first_step=first_step,
                total_steps=training.total_steps,
                log_every=cfg.log_every,
                batch_size=cfg.batch_size,
                train_flops_per_image=training.flops_per_image,
                schedule=training.schedule,
                saved=saved.get("log", {}),
            ) as log,
        ):
            if saved:
                log.say(f"Resuming {workdir} at step {first_step:,}.")
                state = checkpoints.restore(first_step, training.abstract_state)
            else:
                log.say(_overview(training.abstract_state.params))
                origin = f"the weights {init_from}, with a fresh head" if pretrained else "scratch"
                log.say(f"Starting {workdir} from {origin}.")
                state = training.init_state(pretrained)
            is_evaluated = log.is_evaluated(first_step)
            if first_step >= training.total_steps and is_evaluated:
                return log.finish()

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

            def save(step: int) -> None:
                with log.pause():  # a state that is not finite does not come past here
                    checkpoints.save(step, state, {**meta, "log": log.state()})

            saved_step = first_step
            try:
                on_damage = log.add_damage if replace_damaged else None
                batches = preemption.batches(data.train_batches(first_step, on_damage))
                first_batch = next(batches)
                if not saved:
                    log.add_images(first_batch)
                train_step = _compile(training, to_global(first_batch, sharding), log)
                preemption.check()
                batches = itertools.chain([first_batch], batches)

                log.start_clock()
                if is_due(first_step, cfg.eval_every) and not is_evaluated:
                    evaluate_all(first_step)
                for step in range(first_step + 1, training.total_steps + 1):
                    state, metrics = train_step(state, to_global(next(batches), sharding))
                    log.add(step, metrics)
                    watchdog.beat()
                    checkpoints.raise_failed_save()
                    if is_due(step, cfg.eval_every):
                        evaluate_all(step)
                    if is_due(step, cfg.checkpoint_every):
                        save(step)
                        saved_step = step
            except Preempted as preempted:
                step = int(state.step)
                is_new = step > saved_step
                doing = (
                    f"saving step {step:,}, then ending" if is_new else "nothing to save, ending"
                )
                log.say(f"{preempted.signal}: {doing}; run the same command to go on.")
                if is_new:
                    save(step)
                checkpoints.wait()
                raise
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
