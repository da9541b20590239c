"""The training loop: builds every part of a run once, opens it (`mixer/run.py`), then loops."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from mixer.build import Training, build_data, build_training
from mixer.checkpoint.checksum import compile_checksums
from mixer.config import ConfigReader, to_plain
from mixer.reporting.run_log import TrainLog
from mixer.run import Run, open_run
from mixer.runtime.preemption import Preempted
from mixer.sharding import batch_sharding, check_batch_size, create_mesh, local_rows, to_global


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
    (`mixer/reporting/metrics.py` lists them). The program was `started` at that time of
    `time.monotonic`; None: now.

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
    data = build_data(cfg, local_rows(batch_sharding(mesh), cfg.batch_size))
    training = build_training(
        cfg, mesh, num_classes=data.num_classes, num_examples=data.num_examples
    )
    meta = {
        "config": to_plain(config),
        "data": data.fingerprints,
        "class_names": data.class_names,
    }
    parts = cfg, mesh, data, training, meta
    with open_run(*parts, workdir, allow_config_change=allow_config_change, started=started) as run:
        if not run.is_finished():
            try:
                _train(run)
            except Preempted as preempted:
                run.stop(preempted)
                raise
            run.complete_saves()
        return run.finish()


def _train(run: Run) -> None:
    """Takes the steps that are left, evaluates and saves in between."""
    batches = run.train_batches()
    first_batch = next(batches)
    if run.is_new:
        run.log.add_images(first_batch)
    train_step = _compile(run.training, to_global(first_batch, run.sharding), run.log)
    run.preemption.check()
    batches = itertools.chain([first_batch], batches)

    run.log.start_clock()
    if run.is_due(run.cfg.eval_every) and not run.log.is_evaluated(run.step):
        run.evaluate()
    while run.step < run.training.total_steps:
        run.state, metrics = train_step(run.state, to_global(next(batches), run.sharding))
        run.step += 1
        run.log.add(run.step, metrics)
        run.watchdog.beat()
        if run.is_due(run.cfg.eval_every):
            run.evaluate()
        if run.is_due(run.cfg.checkpoint_every) or run.checkpoints.failed_save():
            run.save()


def _compile(training: Training, batch: dict[str, jax.Array], log: TrainLog) -> Any:
    start = time.monotonic()
    with ThreadPoolExecutor(1) as beside:  # else the first save does it, and the step waits
        checksums = beside.submit(compile_checksums, training.abstract_state)
        compiled = training.train_step.lower(training.abstract_state, batch).compile()
        checksums.result()
    log.say(f"Compiled the training step in {time.monotonic() - start:.1f} s.")
    return compiled
