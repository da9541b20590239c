"""One run, top to bottom: build its parts, open its workdir, take the steps, close."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flax.linen as nn
import jax
from etils import epath
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from mixer.batch import HostBatch
from mixer.build import Data, RunOptions, build_run
from mixer.calls import Call, compile_call, first_pixels
from mixer.checkpoint.checksum import compile_checksums
from mixer.checkpoint.folder import checkpoint_folder, newest_step
from mixer.checkpoint.restore import check_free, restore_newest
from mixer.checkpoint.resume import check_resumed
from mixer.checkpoint.save import Checkpoints
from mixer.config import check_config
from mixer.evaluation.in_training import EvalSteps, evaluate_all, jit_eval_steps
from mixer.flops import train_flops_per_image
from mixer.models import build_model
from mixer.reporting.reports import Reports
from mixer.reporting.run_log import RunLog
from mixer.reporting.workdir import check_workdir
from mixer.runtime.output import lasting_output
from mixer.runtime.preemption import Preempted, Preemption
from mixer.runtime.watchdog import Watchdog
from mixer.runtime.workdir_lock import workdir_lock
from mixer.sharding import batch_sharding
from mixer.train_state import Params, TrainState, create_train_state
from mixer.train_step import TrainStep, make_train_step
from mixer.weights.load import initial_params


@dataclasses.dataclass(frozen=True)
class Training:
    """The computation of a run. Nothing is compiled yet."""

    model: nn.Module
    batch_sharding: NamedSharding
    abstract_state: TrainState
    init_state: Callable[[Params], TrainState]  # pre-trained parameters ({}: none) -> first state
    train_step: TrainStep  # not jitted: see mixer/calls.py
    eval_steps: EvalSteps


def train(
    config: ConfigDict,
    workdir: epath.Path,
    *,
    allow_config_change: bool = False,
    started: float | None = None,
    reports: Reports | None = None,
) -> dict[str, float]:
    """Runs a config to its last step and returns the last value of each metric.

    Starts from the newest sound checkpoint of the workdir; without one, from the weights that
    `init_from` names; without these, from scratch. `mixer/reporting/metrics.py` lists the metrics.
    `started` is when the program started, in seconds of `time.monotonic`; None: now. `reports`
    says what the run tells besides its metrics; None: pictures.

    Raises:
      ValueError: a config that cannot work, or is not the checkpoint's (unless
        `allow_config_change`); all checkpoints are damaged; another run is at work in the workdir.
      FloatingPointError: loss or gradient became non-finite; nothing of that step is saved.
      OSError: a checkpoint could not be written, even at the second try, or cannot be read now.
      Preempted: a signal such as SIGTERM asked to stop; every finished step is saved. Exit code 0.
    """
    started = time.monotonic() if started is None else started
    reports = reports or Reports()
    check_config(config)
    with lasting_output(), Watchdog(config.watchdog_seconds) as watchdog:
        check_workdir(workdir)
        with watchdog.phase("opening the data"):
            options, mesh, data = build_run(config)
        training = create_training(options, mesh)
        directory = checkpoint_folder(workdir)
        pretrained: Params = {}
        if options.init_from and newest_step(directory) is None:
            with watchdog.phase("reading the weights of init_from"):
                pretrained = initial_params(options.init_from, training.model, options.image_size)
        meta = dict(config=options.config, data=data.fingerprints, class_names=data.class_names)
        check = functools.partial(
            check_resumed, meta, options.total_steps, options.schedule, allow_config_change
        )
        with Preemption(mesh, watchdog) as preemption, workdir_lock(workdir):
            with watchdog.phase("restoring the checkpoint"):
                restored = restore_newest(directory, training.abstract_state, check)
            step, saved = (restored.step, restored.meta) if restored else (0, {})
            check_free(directory, range(step + 1, options.total_steps + 1))
            with (
                _open_checkpoints(directory, options, meta, saved) as checkpoints,
                _open_log(workdir, options, training, step, saved, started, reports) as log,
                watchdog.phase("training"),
            ):
                log.say_start(training.abstract_state.params, options.init_from)
                state = restored.state if restored else training.init_state(pretrained)
                _loop(options, data, training, state, step, checkpoints, log, preemption)
                return log.finish(best=checkpoints.best())


def create_training(options: RunOptions, mesh: Mesh) -> Training:
    """Returns the model of a run, its state and its steps; compiles nothing.

    Raises:
      ValueError: the model cannot be built, or the images do not split into patches.
    """
    model = build_model(**options.model, num_classes=options.num_classes)
    abstract_state, init_state = create_train_state(
        model,
        options.optimizer,
        image_size=options.image_size,
        seed=options.seed,
        averaged=options.polyak_decay > 0,
        mesh=mesh,
    )
    train_step = make_train_step(
        model,
        options.optimizer,
        options.loss,
        num_classes=options.num_classes,
        mixup_alpha=options.mixup_alpha,
        accumulation_steps=options.accumulation_steps,
        polyak_decay=options.polyak_decay,
        seed=options.seed,
    )
    return Training(
        model=model,
        batch_sharding=batch_sharding(mesh),
        abstract_state=abstract_state,
        init_state=init_state,
        train_step=train_step,
        eval_steps=jit_eval_steps(model, options.loss, options.num_classes, mesh),
    )


def _loop(
    options: RunOptions,
    data: Data,
    training: Training,
    state: TrainState,
    step: int,
    checkpoints: Checkpoints,
    log: RunLog,
    preemption: Preemption,
) -> None:
    """Takes the steps that are left, and evaluates and saves where these are due."""
    try:
        if step < options.total_steps:
            on_damage = log.add_damage if options.replace_damaged else None
            batches = preemption.interruptible(data.train_batches(step, on_damage))
            call, batches = _prepare(options, data, training, batches, preemption, log)
        log.start_clock()
        while True:
            if _is_due(step, options.eval_every, options) and not log.is_evaluated(step):
                with log.pause():
                    results = evaluate_all(
                        training.eval_steps,
                        state.eval_params,
                        data.eval_batches,
                        data.few_shot,
                        training.batch_sharding,
                        preemption.interruptible,
                    )
                    checkpoints.record_scores(step, log.add_evaluations(step, results))
            if checkpoints.is_due(step, _is_due(step, options.checkpoint_every, options)):
                with log.pause():  # raises on non-finite metrics, so a bad state is never saved
                    checkpoints.save(step, state, {"log": log.state()})
            if step == options.total_steps:
                break
            count = _steps_of_call(step, options, log)
            with jax.profiler.StepTraceAnnotation("train", step_num=step + 1):
                state, metrics = call(state, batches, count)
            step += count
            log.add(step, metrics, count)
    except Preempted as preempted:
        saving = "nothing to save," if checkpoints.is_saved(step) else f"saving step {step:,}, then"
        log.say(f"{preempted.signal}: {saving} ending; run the same command to go on.")
        with log.pause():
            checkpoints.finish(step, state, {"log": log.state()})
        raise
    checkpoints.finish(step, state, {"log": log.state()})


def _steps_of_call(step: int, options: RunOptions, log: RunLog) -> int:
    """Returns how many steps the next call takes: none past one where something is due."""
    every = (options.log_every, options.eval_every, options.checkpoint_every)
    to_due = min(each - step % each for each in every)
    to_end = min(options.total_steps, log.next_trace(step)) - step
    return min(options.steps_per_call, to_due, to_end)


def _is_due(step: int, every: int, options: RunOptions) -> bool:
    """True at multiples of `every`, apart from 0, and at the last step."""
    return step == options.total_steps or (step > 0 and step % every == 0)


def _prepare(
    options: RunOptions,
    data: Data,
    training: Training,
    batches: Iterator[HostBatch],
    preemption: Preemption,
    log: RunLog,
) -> tuple[Call, Iterator[HostBatch]]:
    """Returns the compiled call and the batches; the first is read meanwhile."""
    workers = ThreadPoolExecutor(2)
    try:
        with preemption.watchdog.phase("reading all images"):
            dataset = preemption.wait_for(workers.submit(data.read_dataset))
        with preemption.watchdog.phase("reading the first batch"):
            start = time.monotonic()
            step, state = training.train_step, training.abstract_state
            sharding = training.batch_sharding
            call = workers.submit(compile_call, options, data, dataset, step, state, sharding)
            # Otherwise the first save compiles the checksums, while the devices wait.
            checksums = workers.submit(compile_checksums, state)
            first_batch = next(batches)
        if log.is_new:
            log.add_images(first_pixels(first_batch, data, dataset), data.class_names)
        with preemption.watchdog.phase("compiling the training step"):
            compiled = preemption.wait_for(call)
            log.say(f"Compiled the training step in {time.monotonic() - start:.1f} s.")
            preemption.wait_for(checksums)
            return compiled, itertools.chain([first_batch], batches)
    finally:
        workers.shutdown(wait=False)


def _open_checkpoints(
    directory: epath.Path, options: RunOptions, meta: dict[str, Any], saved: dict[str, Any]
) -> Checkpoints:
    return Checkpoints(
        directory,
        keep=options.keep_checkpoints,
        keep_every=options.keep_every,
        best_by=options.best_by,
        scores=saved.get("scores", {}),
        meta=meta,
    )


def _open_log(
    workdir: epath.Path,
    options: RunOptions,
    training: Training,
    step: int,
    saved: dict[str, Any],
    started: float,
    reports: Reports,
) -> RunLog:
    params = training.abstract_state.params
    return RunLog(
        workdir,
        started=started,
        config=options.config,
        first_step=step,
        total_steps=options.total_steps,
        log_every=options.log_every,
        batch_size=options.batch_size,
        train_flops_per_image=train_flops_per_image(training.model, params, options.image_size),
        schedule=options.schedule,
        saved=saved.get("log", {}),
        reports=reports,
    )
