"""Saves the checkpoints of a run, `WORKDIR/checkpoints/STEP`: all it needs to go on bit for bit.

`mixer/checkpoint/format.py` says what a checkpoint holds. There is nothing else to hold: batches
and random numbers are functions of (seed, step). `mixer/checkpoint/restore.py` reads it back.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from mixer.checkpoint import processes
from mixer.checkpoint.folder import (
    ATOMICITY,
    StepNames,
    best_step,
    complete_steps,
    exists,
    is_folder,
    names,
    newest_step,
    preservation_policy,
    record_of,
    unfinished_steps,
)
from mixer.checkpoint.format import items_to_save
from mixer.checkpoint.processes import FailedElsewhere, first_problem, say
from mixer.train_state import TrainState


class Checkpoints:
    """Saves checkpoints; a context manager that waits for the last one.

    Saves are asynchronous: the state is copied, and the loop goes on while the copy is written. A
    step becomes visible only when it is complete. A save that fails is tried once more, with the
    next step that is due. Nothing is deleted before the first save, and never what this run, or one
    before it in this folder, has not written.

    Args:
      directory: of the checkpoints, `WORKDIR/checkpoints`.
      keep: how many of the last steps stay.
      keep_every: multiples of it are kept, too; 0: none.
      best_by: the metric whose best step stays, too; "": none.
      scores: metric -> step -> value, as the restored checkpoint has them in its `meta`.
      meta: what every checkpoint says of its run, as JSON holds it, such as the config.
    """

    def __init__(
        self,
        directory: epath.Path,
        *,
        keep: int,
        keep_every: int = 0,
        best_by: str = "",
        scores: Mapping[str, Mapping[str, float]] | None = None,
        meta: Mapping[str, Any] | None = None,
    ):
        self.directory = epath.Path(directory)
        self._meta = meta or {}
        self._best_by = best_by
        saved = (scores or {}).get(best_by, {})
        self._scores = {int(step): score for step, score in saved.items()}
        self._policy = preservation_policy(self.directory, keep, keep_every, self._scores)
        self._newest = newest_step(self.directory) or 0  # the last that was saved, or tried
        self._is_clean = False  # of unfinished steps
        self._is_pending = False  # nobody has looked yet at what became of the last save
        self._failure = ""  # of the last save, once somebody has
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        barrier = processes.barrier if jax.process_count() > 1 else None
        return ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy,
                create=False,  # the first save makes it: a refused run leaves nothing behind
                enable_async_checkpointing=True,
                async_options=ocp.AsyncOptions(barrier_sync_fn=barrier),
                cleanup_tmp_directories=False,  # it would delete every folder that is not a step
                step_name_format=StepNames(),
                atomicity_options=ATOMICITY,
                lightweight_initialize=True,  # otherwise a damaged file of any step stops it
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            if exc_info[0] is None:
                self.wait()
            # Of several processes, one that fails alone must not wait for the others.
            elif jax.process_count() == 1 and (failure := self._await_last_save()):
                say(failure)  # as an error it would hide the one that ends the run
        finally:
            self._manager.close()

    def best(self) -> str:
        """Returns the path of the checkpoint with the highest score, and the name of the score.

        "" if there are no scores.
        """
        step = best_step(self._manager.all_steps(), self._scores)
        return "" if step is None else f"{self.directory / str(step)}, by {self._best_by}"

    def record_scores(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records a step's `best_by` from its metrics. Call before `save` to persist it."""
        if self._best_by:
            self._scores[step] = metrics[self._best_by]

    def is_saved(self, step: int) -> bool:
        """True if the newest step is this one, and its save is not known to have failed."""
        return step == self._newest and not self._has_failed()

    def is_due(self, step: int, is_regular: bool) -> bool:
        """True if the step is to be saved: at a regular one, or because the last save failed."""
        return self._has_failed() or (is_regular and step > self._newest)

    def save(self, step: int, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Starts to save a step; if the last save failed, this is the second try and is waited for.

        The caller has checked that the metrics are finite. `meta` is what this checkpoint records
        in addition to the `meta` of all.

        Raises:
          OSError: the second try failed as well.
        """
        failure = self._await_last_save()
        if failure:
            say(f"{failure}\nTrying once more, with step {step:,}.")
        if failure or not self._is_clean:
            self._delete_unfinished()
        steps = {*self._manager.all_steps(), step}
        scores = {str(scored): self._scores[scored] for scored in steps & self._scores.keys()}
        meta = {**self._meta, **meta, "scores": {self._best_by: scores}}
        self._newest = step
        path = self.directory / str(step)
        try:
            if is_folder(path) and not names(path):
                say(f"Checkpoint {step} was never begun: its folder is empty.")
            elif exists(path):  # Orbax would delete it
                raise FileExistsError(f"{path} is there, and no run wrote it: move it away")
            is_saved = self._manager.save(step, args=items_to_save(step, state, meta))
        except Exception as error:  # Orbax raises what the file system does, and other types
            self._failure = self._handle_error(error)
            if self._failure and jax.process_count() > 1:  # the others may have begun to write
                self._raise(self._failure)
        else:
            assert is_saved, f"step {step} is not after {newest_step(self.directory)}"
            self._is_pending = True
        if failure:
            self.wait()

    def finish(self, step: int, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Saves the step unless it is saved, and waits until that checkpoint can be relied on.

        Raises:
          OSError: it could not be written, even at the second try.
        """
        if step > self._newest or self._await_last_save():
            self.save(step, state, meta)
        self.wait()

    def wait(self) -> None:
        """Waits until the last save is complete.

        Raises:
          OSError: it failed.
        """
        if failure := self._await_last_save():
            self._delete_unfinished()
            self._raise(failure)

    def _has_failed(self) -> bool:
        """True once the last save is known to have failed; deletes nothing and does not wait.

        Orbax does not report a failure in the background until somebody waits for that save.
        Several processes find out only when all wait, at the next save: each of them learns at
        another step whether the last one has ended.
        """
        if jax.process_count() == 1 and not self._manager.is_saving_in_progress():
            self._await_last_save()
        return bool(self._failure)

    def _await_last_save(self) -> str:
        """Returns why the last save failed, "" if it did not."""
        if self._is_pending:
            self._is_pending = False
            failure = ""
            try:
                self._manager.wait_until_finished()
            except FailedElsewhere:
                pass  # the others know more
            except Exception as error:
                failure = self._handle_error(error)
            self._failure = first_problem(failure)
            if not self._failure and jax.process_index() == 0:
                with contextlib.suppress(OSError):  # nothing depends on it while there are steps
                    record_of(self.directory).write_text(f"the checkpoint of step {self._newest}")
        return self._failure

    def _handle_error(self, error: Exception) -> str:
        """Returns why the newest step is incomplete; "" if only older ones were not deleted."""
        lines = str(error).strip().splitlines() or [type(error).__name__]
        path, reason = self.directory / str(self._newest), lines[0][:500]
        if self._newest not in complete_steps(self.directory):
            return f"The checkpoint {path} could not be written: {reason}"
        say(f"Some checkpoints before {path} could not be deleted: {reason}")
        if jax.process_count() == 1:  # of several, only the first has tried
            self._reopen()
        return ""

    def _delete_unfinished(self) -> None:
        """Deletes the steps whose save was cut short."""
        self._failure, self._is_clean = "", True
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):  # a later start deletes what is left now
                for step in unfinished_steps(self.directory):
                    (self.directory / str(step)).rmtree(missing_ok=True)
                    if step != self._newest:
                        say(f"Checkpoint {step} was never completed. It is deleted.")
        multihost_utils.sync_global_devices("deleted unfinished steps")
        self._reopen()

    def _reopen(self) -> None:
        """Lets the manager see the steps on disk: it has forgotten those that the failed save would
        have replaced. Its own `reload` reads every step, which a damaged one stops."""
        self._manager.close()
        self._manager = self._open()

    def _raise(self, failure: str) -> None:
        steps = ", ".join(map(str, complete_steps(self.directory))) or "none"
        # Without its cause, hundreds of lines from Orbax's threads; the message holds its words.
        raise OSError(
            f"{failure}\nThe run ends. Complete checkpoints there: {steps}. Once there is room and "
            "the folder is writable, the same command goes on from the newest."
        ) from None
