"""A run that is open: its files, its state, and what happens between two steps."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from clu import parameter_overview
from etils import epath
from jax.sharding import Mesh, NamedSharding

from mixer.build import Data, Training
from mixer.checkpoint.folder import checkpoint_folder, newest_step
from mixer.checkpoint.restore import restore_newest
from mixer.checkpoint.save import Checkpoints
from mixer.config import ConfigReader, differences
from mixer.errors import unknown_name
from mixer.evaluation.classification import evaluate
from mixer.reporting.run_log import TrainLog
from mixer.runtime.preemption import Preempted, Preemption
from mixer.runtime.watchdog import Watchdog
from mixer.runtime.workdir_lock import workdir_lock
from mixer.sharding import batch_sharding
from mixer.train_state import Params, TrainState
from mixer.weights.load import initial_params


@dataclasses.dataclass
class Run:
    """The parts of a run, and its state after `step` steps. `open_run` makes one."""

    cfg: ConfigReader
    data: Data
    training: Training
    sharding: NamedSharding  # of batches
    meta: dict[str, Any]  # what a checkpoint holds beside the state and the log
    preemption: Preemption
    watchdog: Watchdog
    checkpoints: Checkpoints
    log: TrainLog
    step: int
    state: TrainState
    is_new: bool  # not resumed

    def __post_init__(self) -> None:
        self._saved_step = self.step

    def train_batches(self) -> Iterator[dict[str, np.ndarray]]:
        """Yields the batches from the current step on, without end."""
        on_damage = self.log.add_damage if self.cfg.replace_damaged else None
        return self.preemption.batches(self.data.train_batches(self.step, on_damage))

    def is_due(self, every: int) -> bool:
        """Returns whether what is done every so many steps, and at the end, is to be done now."""
        return self.step == self.training.total_steps or self.step % every == 0

    def evaluate(self) -> None:
        """Evaluates the state on each split."""
        with self.log.pause():
            results = {
                split: evaluate(
                    self.training.eval_step,
                    self.state.eval_params,
                    self.watchdog.batches(self.preemption.batches(batches_of())),
                    self.sharding,
                )
                for split, batches_of in self.data.eval_batches.items()
            }
            self.log.add_evaluations(self.step, results)
        if best_by := self.cfg.best_by:
            self.checkpoints.score(self.step, results[best_by.removesuffix("/top1")]["top1"])

    def save(self) -> None:
        """Starts to save the state; waits for the save before, which may have failed."""
        with self.log.pause():  # a state that is not finite does not come past here
            if failure := self.checkpoints.failed_save(wait=True):
                self.log.say(f"{failure}\nTrying once more, with step {self.step:,}.")
            self.checkpoints.save(self.step, self.state, {**self.meta, "log": self.log.state()})
        self._saved_step = self.step

    def stop(self, preempted: Preempted) -> None:
        """Says so, and saves what is not saved yet."""
        is_new = self.step > self._saved_step
        doing = f"saving step {self.step:,}, then ending" if is_new else "nothing to save, ending"
        self.log.say(f"{preempted.signal}: {doing}; run the same command to go on.")
        self.complete_saves(also_now=is_new)

    def complete_saves(self, *, also_now: bool = False) -> None:
        """Waits for the last save, and tries it once more if it has failed."""
        if also_now or self.checkpoints.failed_save(wait=True):
            self.save()
        self.checkpoints.wait()

    def is_finished(self) -> bool:
        """Returns whether there is nothing left to do but to tell."""
        return self.step >= self.training.total_steps and self.log.is_evaluated(self.step)

    def finish(self) -> dict[str, float]:
        """Shows the summary and returns the last value of each metric."""
        result = self.log.finish()
        best_step = self.checkpoints.best_step()
        if best_step is not None:
            path = self.checkpoints.directory / str(best_step)
            self.log.say(f"  best         {path}, by {self.cfg.best_by}")
        return result


@contextlib.contextmanager
def open_run(
    cfg: ConfigReader,
    mesh: Mesh,
    data: Data,
    training: Training,
    meta: dict[str, Any],
    workdir: epath.Path,
    *,
    allow_config_change: bool,
    started: float,
) -> Iterator[Run]:
    """Opens the run of a workdir at the step that it has come to; raises as `train` does.

    Args:
      meta: what its checkpoints shall say of it.
    """
    _check_intervals(cfg, data)
    watchdog = Watchdog(cfg.watchdog_seconds)
    init_from, _ = cfg.init_from, cfg.replace_damaged  # the last keys, one for later
    cfg.check_all_read()
    directory = checkpoint_folder(workdir)
    pretrained: Params = {}
    if init_from and newest_step(directory) is None:
        pretrained = initial_params(init_from, training.model, cfg.image_size)
    check = None if allow_config_change else functools.partial(_check_same_run, meta)
    with Preemption(mesh) as preemption, workdir_lock(workdir):
        restored = restore_newest(directory, training.abstract_state, check)
        step, saved = (restored.step, restored.meta) if restored else (0, {})
        with (
            Checkpoints(
                directory,
                keep=cfg.keep_checkpoints,
                keep_every=cfg.keep_every,
                best_by=cfg.best_by,
                scores=saved.get("scores", {}),
            ) as checkpoints,
            watchdog,
            TrainLog(
                workdir,
                started=started,
                config=meta["config"],
                first_step=step,
                total_steps=training.total_steps,
                log_every=cfg.log_every,
                batch_size=cfg.batch_size,
                train_flops_per_image=training.flops_per_image,
                schedule=training.schedule,
                saved=saved.get("log", {}),
            ) as log,
        ):
            if restored:
                log.say(f"Resuming {workdir} at step {step:,}.")
                state = restored.state
            else:
                params = training.abstract_state.params
                log.say(parameter_overview.get_parameter_overview(params, include_stats=False))
                origin = f"the weights {init_from}, with a fresh head" if pretrained else "scratch"
                log.say(f"Starting {workdir} from {origin}.")
                state = training.init_state(pretrained)
            parts = preemption, watchdog, checkpoints, log
            is_new = restored is None
            yield Run(cfg, data, training, batch_sharding(mesh), meta, *parts, step, state, is_new)


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


def _check_same_run(meta: dict[str, Any], step: int, saved: dict[str, Any]) -> None:
    changes = [
        change for part in ("config", "data") for change in differences(saved[part], meta[part])
    ]
    if changes:
        lines = "\n  ".join(changes)
        raise ValueError(
            f"The checkpoint of step {step} was trained with another config or other data:\n"
            f"  {lines}\nUse another --workdir, or --allow_config_change to go on from it anyway."
        )
