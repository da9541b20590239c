"""Checkpoints in `WORKDIR/checkpoints/STEP`: what a run needs to go on, bit for bit.

What one holds is in `mixer/checkpoint_step.py`. There is nothing else to hold: batches and random
numbers are functions of (seed, step).
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Container, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers
from orbax.checkpoint import options as ocp_options

from mixer import checkpoint_step
from mixer.checkpoint_step import DamagedCheckpoint
from mixer.train_state import TrainState

_ATOMICITY = ocp_options.AtomicityOptions(mode=ocp_options.AtomicityMode.COMMIT_FILE)


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a run goes on with."""

    step: int
    state: TrainState
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for the last save.

    Saves are asynchronous: the state is copied, and the loop goes on while the copy is written. A
    step becomes visible only when it is complete.

    Of all steps stay the last `keep`, every multiple of `keep_every` (0: no others), and the one
    with the highest score, if there are scores of `best_by`.
    """

    def __init__(self, directory: epath.Path, *, keep: int, keep_every: int = 0, best_by: str = ""):
        if not directory.is_absolute():  # asked first: a bucket would become a folder in this one
            directory = directory.absolute()
        self.directory = epath.Path(directory)
        self._best_by = best_by
        self._scores: dict[int, float] = {}
        self._saving: int | None = None  # the step
        self._failure = ""  # of the last save, once known
        policies = [checkpoint_managers.LatestN(keep), _Best(self._scores)]
        if keep_every:
            policies.append(checkpoint_managers.EveryNSteps(keep_every))
        self._policy = checkpoint_managers.AnyPreservationPolicy(policies)
        steps = {name for name in _names(self.directory) if name.isdecimal()}
        self._unfinished = steps - {str(step) for step in complete_steps(self.directory)}
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        """Returns Orbax's manager, which begins to delete what was not completed."""
        return ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy,
                create=False,  # made by the first save: a refused run leaves nothing behind
                enable_async_checkpointing=True,
                cleanup_tmp_directories=True,
                atomicity_options=_ATOMICITY,
                lightweight_initialize=True,  # else it stumbles over a damaged file of a step
            ),
        )

    def _reopen(self) -> None:
        """Lets the manager see what is there now. Its `reload` reads every step, see above."""
        self._manager.close()
        self._manager = self._open()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self.wait()
        finally:
            self._manager.close()

    def latest_step(self) -> int | None:
        """Returns the newest complete step, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Returns the step with the highest score, of those that there are; None without one."""
        return _best(self._manager.all_steps(), self._scores)

    def score(self, step: int, score: float) -> None:
        """Takes the score of a step; before it is saved, if the score shall outlast this run."""
        self._scores[step] = score

    def restore_newest(
        self, abstract_state: TrainState, check: Callable[[int, dict[str, Any]], None]
    ) -> Restored | None:
        """Returns the newest checkpoint that is what was saved; None if none was ever completed.

        Newer ones, which are damaged, are moved aside to `STEP.damaged-WHAT`, and shown. All
        processes must call it, and return the same.

        Args:
          check: is called with a step and its `meta` before its state is read; may refuse.

        Raises:
          ValueError: no checkpoint is sound, and nothing was moved; or the newest sound one does
            not fit `abstract_state`.
        """
        problems: dict[int, str] = {}
        while (step := self._newest_step(problems)) is not None:
            try:
                meta = self._read_meta(step)
                check(step, meta)
                state = self.restore(step, abstract_state)
            except DamagedCheckpoint as damage:
                problems[step] = str(damage)
                continue
            if problems:
                self._move_aside(problems)
            self._say_unfinished()
            scores = meta["scores"].get(self._best_by, {})
            self._scores |= {int(scored): score for scored, score in scores.items()}
            return Restored(step, state, meta)
        found = [f"{step}: {problem}" for step, problem in problems.items()]
        found += sorted(name for name in _names(self.directory) if ".damaged-" in name)
        if found:
            lines = "\n  ".join(found)
            raise ValueError(
                f"No checkpoint in {self.directory} is sound:\n  {lines}\nThe run does not start "
                "anew by itself. To do so use another --workdir, or delete that folder."
            )
        self._say_unfinished()
        return None

    def restore(self, step: int, abstract_state: TrainState) -> TrainState:
        """Returns the state of that step, with the shapes and shardings of `abstract_state`.

        Raises:
          DamagedCheckpoint: it is not what was saved, as one of the processes sees it.
          ValueError: it does not fit `abstract_state`.
        """
        meta = self._read_meta(step)
        checkpoint_step.check_fits(meta, abstract_state)
        with checkpoint_step.all_agree():
            state = checkpoint_step.read_state(self.directory / str(step), abstract_state)
        with checkpoint_step.all_agree():
            checkpoint_step.check_arrays(meta, state)
        return state

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
        items = checkpoint_step.items_to_save(
            step, state, {**meta, "scores": {self._best_by: scores}}
        )
        try:
            is_saved = self._manager.save(step, args=items)
        except Exception as error:  # Orbax raises what the file system does, and other types
            self._fail(step, error)
        else:
            assert is_saved, f"step {step} is not after {self.latest_step()}"
            self._saving = step
        if is_second_try:
            self.wait()

    def failed_save(self, *, wait: bool = False) -> str:
        """Returns what went wrong in the last save, "" if nothing did or it has not ended.

        Cheap, so call it every step, then save once more: Orbax keeps silent about a failed
        background save until somebody waits for it.

        Raises:
          OSError: it failed, and there are several processes, which cannot all know it now.
        """
        if self._saving is not None and (wait or not self._manager.is_saving_in_progress()):
            step, self._saving = self._saving, None
            try:
                self._manager.wait_until_finished()
            except Exception as error:
                self._fail(step, error)
        return self._failure

    def wait(self) -> None:
        """Waits until the last save is complete, which is when a checkpoint can be relied on.

        Raises:
          OSError: it failed.
        """
        if self.failed_save(wait=True):
            self._raise_failure()

    def _fail(self, step: int, error: Exception) -> None:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        path, reason = self.directory / str(step), lines[0][:500]
        if step in complete_steps(self.directory):
            _say(f"Some checkpoints before {path} could not be deleted: {reason}")
        else:
            self._failure = f"The checkpoint {path} could not be written: {reason}"
            if jax.process_count() > 1:
                self._raise_failure()
            with contextlib.suppress(OSError):  # the next start deletes what is left now
                path.rmtree(missing_ok=True)
        if jax.process_count() == 1:
            self._reopen()  # the manager has forgotten the steps that this one would have replaced

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, ""
        steps = ", ".join(map(str, complete_steps(self.directory))) or "none"
        # Without the cause, hundreds of lines of Orbax's threads; its words are in the message.
        raise OSError(
            f"{failure}\nThe run ends. Complete checkpoints there: {steps}. Once there is room and "
            "the folder can be written, the same command goes on from the newest."
        ) from None

    def _newest_step(self, but: Container[int]) -> int | None:
        """Returns the newest complete step as process 0 sees it, without some; None if none."""
        steps = [step for step in complete_steps(self.directory) if step not in but]
        newest = int(multihost_utils.broadcast_one_to_all(np.int32(max(steps, default=-1))))
        return None if newest < 0 else newest

    def _read_meta(self, step: int) -> dict[str, Any]:
        with checkpoint_step.all_agree():
            meta = checkpoint_step.read_meta(self.directory / str(step))
            if meta["step"] != step:
                raise DamagedCheckpoint(f"metadata: it is of step {meta['step']}")
        return meta

    def _move_aside(self, problems: dict[int, str]) -> None:
        for step, problem in problems.items():
            name = f"{step}.damaged-{problem.partition(':')[0]}"
            others = sum(other.startswith(name) for other in _names(self.directory))
            path = self.directory / (f"{name}-{others + 1}" if others else name)
            if jax.process_index() == 0:
                (self.directory / str(step)).rename(path)
            _say(f"Checkpoint {step} is damaged: {problem}. It is {path} now.")
        multihost_utils.sync_global_devices("moved aside")
        self._reopen()  # else the manager would not save those steps again

    def _say_unfinished(self) -> None:
        for step in sorted(self._unfinished, key=int):
            _say(f"Checkpoint {step} was never completed. It is deleted.")


class _Best(checkpoint_managers.PreservationPolicy):
    """Keeps the best step.

    Orbax's own policy keeps the scores in files, which are not verified, and stop it if damaged.
    """

    def __init__(self, scores: dict[int, float]):
        self._scores = scores

    def should_preserve(
        self,
        checkpoints: Sequence[checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        best = _best([checkpoint.step for checkpoint in checkpoints], self._scores)
        return [checkpoint.step == best for checkpoint in checkpoints]


def _best(steps: Sequence[int], scores: dict[int, float]) -> int | None:
    """Returns the step with the highest score, of equal ones the latest."""
    scored = [(scores[step], step) for step in steps if step in scores]
    return max(scored)[1] if scored else None


def complete_steps(directory: epath.Path) -> list[int]:
    """Returns the complete steps in a folder of checkpoints, in ascending order."""
    is_complete = functools.partial(ocp.path.step.is_path_finalized, atomicity_options=_ATOMICITY)
    names = filter(str.isdecimal, _names(directory))
    return sorted(int(name) for name in names if is_complete(directory / name))


def newest_step(directory: epath.Path) -> int | None:
    """Returns the newest complete step in a folder of checkpoints, or None."""
    return max(complete_steps(directory), default=None)


def _names(directory: epath.Path) -> set[str]:
    return {path.name for path in directory.iterdir()} if directory.is_dir() else set()


def _say(text: str) -> None:
    """Prints a line; the log of the run begins only when it is known where it goes on."""
    if jax.process_index() == 0:
        print(text, flush=True)
