"""Saves the checkpoints of a run, `WORKDIR/checkpoints/STEP`, what it needs to go on bit for bit.

What one holds is in `mixer/checkpoint/format.py`. There is nothing else to hold: batches and random
numbers are functions of (seed, step). `mixer/checkpoint/restore.py` brings it back.
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
    best_step,
    complete_steps,
    newest_step,
    preservation_policy,
)
from mixer.checkpoint.format import items_to_save
from mixer.checkpoint.processes import FailedElsewhere, first_problem, say
from mixer.train_state import TrainState


class Checkpoints:
    """The checkpoints that a run saves; a context manager that waits for the last one.

    Saves are asynchronous: the state is copied, and the loop goes on while the copy is written. A
    step becomes visible only when it is complete.

    Of all steps stay the last `keep`, every multiple of `keep_every` (0: no others), and the one
    with the highest score, if there are scores of `best_by`. `scores` are those that the `meta` of
    the restored checkpoint has.
    """

    def __init__(
        self,
        directory: epath.Path,
        *,
        keep: int,
        keep_every: int = 0,
        best_by: str = "",
        scores: Mapping[str, Mapping[str, float]] | None = None,
    ):
        self.directory = epath.Path(directory)
        self._best_by = best_by
        saved = (scores or {}).get(best_by, {})
        self._scores = {int(step): score for step, score in saved.items()}
        self._policy = preservation_policy(keep, keep_every, self._scores)
        self._saving: int | None = None  # the step
        self._failure = ""  # of the last save, once known
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        """Returns Orbax's manager, which begins to delete what was not completed."""
        barrier = processes.barrier if jax.process_count() > 1 else None
        return ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy,
                create=False,  # made by the first save: a refused run leaves nothing behind
                enable_async_checkpointing=True,
                async_options=ocp.AsyncOptions(barrier_sync_fn=barrier),
                cleanup_tmp_directories=True,
                atomicity_options=ATOMICITY,
                lightweight_initialize=True,  # else it stumbles over a damaged file of a step
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            # Of several processes one that fails alone must not wait for what the others say.
            if exc_info[0] is None or jax.process_count() == 1:
                self.wait()
        finally:
            self._manager.close()

    def best_step(self) -> int | None:
        """Returns the step with the highest score, of those that there are; None without one."""
        return best_step(self._manager.all_steps(), self._scores)

    def score(self, step: int, score: float) -> None:
        """Takes the score of a step; before it is saved, if the score shall outlast this run."""
        self._scores[step] = score

    def save(self, step: int, state: TrainState, meta: dict[str, Any]) -> None:
        """Starts to save; only a state whose metrics were found finite may come here.

        If the save before has failed, this one is the second try: it is waited for.

        Raises:
          OSError: the second try failed, too.
        """
        is_second_try = bool(self.failed_save(wait=True))
        self._failure = ""
        steps = {*self._manager.all_steps(), step}
        scores = {str(scored): self._scores[scored] for scored in steps & self._scores.keys()}
        items = items_to_save(step, state, {**meta, "scores": {self._best_by: scores}})
        try:
            is_saved = self._manager.save(step, args=items)
        except Exception as error:  # Orbax raises what the file system does, and other types
            self._failure = self._failure_of(step, error)
            if self._failure and jax.process_count() > 1:  # the others may have begun to write
                self._raise_failure()
            if self._failure:
                self._clear_away(step)
        else:
            assert is_saved, f"step {step} is not after {newest_step(self.directory)}"
            self._saving = step
        if is_second_try:
            self.wait()

    def failed_save(self, *, wait: bool = False) -> str:
        """Returns what went wrong in the last save, "" if nothing did or it has not ended.

        Cheap, so call it every step, then save once more: Orbax keeps silent about a failed
        background save until somebody waits for it. Several processes know it only when all wait,
        at the next save: each of them learns at another step whether the last one has ended.
        """
        is_known = jax.process_count() == 1 and not self._manager.is_saving_in_progress()
        if self._saving is not None and (wait or is_known):
            step, self._saving = self._saving, None
            failure = ""
            try:
                self._manager.wait_until_finished()
            except FailedElsewhere:
                pass  # there they know more
            except Exception as error:
                failure = self._failure_of(step, error)
            self._failure = first_problem(failure)
            if self._failure:
                self._clear_away(step)
        return self._failure

    def wait(self) -> None:
        """Waits until the last save is complete, which is when a checkpoint can be relied on.

        Raises:
          OSError: it failed.
        """
        if self.failed_save(wait=True):
            self._raise_failure()

    def _failure_of(self, step: int, error: Exception) -> str:
        """Returns why that step is not complete; "" if it is, and only others are not deleted."""
        lines = str(error).strip().splitlines() or [type(error).__name__]
        path, reason = self.directory / str(step), lines[0][:500]
        if step not in complete_steps(self.directory):
            return f"The checkpoint {path} could not be written: {reason}"
        say(f"Some checkpoints before {path} could not be deleted: {reason}")
        if jax.process_count() == 1:  # of several only the first has tried
            self._reopen()
        return ""

    def _clear_away(self, step: int) -> None:
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):  # the next start deletes what is left now
                (self.directory / str(step)).rmtree(missing_ok=True)
        multihost_utils.sync_global_devices("cleared away")
        self._reopen()

    def _reopen(self) -> None:
        """Lets the manager see the steps that are there: it has forgotten those that the failed one
        would have replaced. Its own `reload` reads every step, see above."""
        self._manager.close()
        self._manager = self._open()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, ""
        steps = ", ".join(map(str, complete_steps(self.directory))) or "none"
        # Without the cause, hundreds of lines of Orbax's threads; its words are in the message.
        raise OSError(
            f"{failure}\nThe run ends. Complete checkpoints there: {steps}. Once there is room and "
            "the folder can be written, the same command goes on from the newest."
        ) from None
