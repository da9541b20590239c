"""Restores the newest sound checkpoint of a run.

The disk may show each of several processes something else, so they agree on what they see.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from mixer.checkpoint import format as checkpoint_format
from mixer.checkpoint.damage import DamagedCheckpoint, readable
from mixer.checkpoint.folder import (
    COMMIT_FILE,
    complete_steps,
    exists,
    foreign_steps,
    names,
    record_of,
    unfinished_steps,
)
from mixer.checkpoint.processes import first_problem, say
from mixer.train_state import TrainState

_UNREADABLE = "unreadable: "  # between processes, before the message of an OSError


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a run resumes from."""

    step: int
    state: TrainState
    meta: dict[str, Any]


def restore_newest(
    directory: epath.Path,
    abstract_state: TrainState,
    check: Callable[[int, dict[str, Any]], None] | None = None,
) -> Restored | None:
    """Returns the newest sound checkpoint; None if none was ever completed.

    Sound means bit for bit what was saved. Newer ones, which are damaged, are reported and renamed
    to `STEP.damaged-WHAT`; nothing is deleted. All processes must call this, and all return the
    same.

    Args:
      directory: of the checkpoints, `WORKDIR/checkpoints`.
      abstract_state: shapes, types and shardings of the state to return.
      check: called with a step and its `meta` before its state is read; may raise.

    Raises:
      ValueError: no checkpoint is sound, or those that there were are gone, and none was renamed;
        or the newest sound one does not fit `abstract_state`.
      OSError: one of them cannot be read now; none was renamed.
    """
    restored = None
    problems: dict[int, str] = {}
    unfinished: set[int] = set()
    while restored is None and (found := _newest(directory, {*problems, *unfinished})):
        step, is_complete = found
        try:
            meta = _read_meta(directory, step)
            if check:
                check(step, meta)
            restored = Restored(step, _read_state(directory, meta, abstract_state), meta)
        except DamagedCheckpoint as damage:
            if is_complete:
                problems[step] = str(damage)
            else:
                unfinished.add(step)
    if restored is None:
        _check_none_damaged(directory, problems)
        _check_none_lost(directory)
    elif not is_complete:
        _commit(directory, restored.step)
    if problems:
        _move_aside(directory, problems)
    return restored


def restore(directory: epath.Path, step: int, abstract_state: TrainState) -> TrainState:
    """Returns the state of a step, with the shapes and shardings of `abstract_state`.

    Raises:
      DamagedCheckpoint: one of the processes sees that it is not what was saved.
      ValueError: it does not fit `abstract_state`.
    """
    return _read_state(directory, _read_meta(directory, step), abstract_state)


def _newest(directory: epath.Path, excluded: Collection[int]) -> tuple[int, bool] | None:
    """Returns the newest step that process 0 sees, apart from those excluded, or None.

    Also whether it is complete. Else it lacks its commit file, and most of the time more.
    """
    with _all_agree(), readable(directory):
        complete = complete_steps(directory)
        steps = {*complete, *unfinished_steps(directory)}.difference(excluded)
    newest = max(steps, default=-1)
    found = multihost_utils.broadcast_one_to_all(np.array([newest, newest in complete], np.int32))
    return None if found[0] < 0 else (int(found[0]), bool(found[1]))


def _read_meta(directory: epath.Path, step: int) -> dict[str, Any]:
    with _all_agree():
        meta = checkpoint_format.read_meta(directory / str(step))
        if meta["step"] != step:
            raise DamagedCheckpoint(f"metadata: it is of step {meta['step']}")
    return meta


def _read_state(
    directory: epath.Path, meta: dict[str, Any], abstract_state: TrainState
) -> TrainState:
    checkpoint_format.check_fits(meta, abstract_state)
    with _all_agree():
        state = checkpoint_format.read_state(directory / str(meta["step"]), abstract_state)
    with _all_agree():
        checkpoint_format.check_arrays(meta, state)
    return state


@contextlib.contextmanager
def _all_agree() -> Iterator[None]:
    """Raises DamagedCheckpoint or OSError in all processes if one raises it inside."""
    problem = ""
    try:
        yield
    except DamagedCheckpoint as damage:
        problem = str(damage)
    except OSError as error:
        problem = _UNREADABLE + str(error)
    problem = first_problem(problem)
    if problem.startswith(_UNREADABLE):
        raise OSError(problem.removeprefix(_UNREADABLE))
    if problem:
        raise DamagedCheckpoint(problem)


def _move_aside(directory: epath.Path, problems: dict[int, str]) -> None:
    for step, problem in problems.items():
        name = f"{step}.damaged-{problem.partition(':')[0]}"
        others = sum(other.startswith(name) for other in names(directory))
        path = directory / (f"{name}-{others + 1}" if others else name)
        if jax.process_index() == 0:
            (directory / str(step)).rename(path)
        say(f"Checkpoint {step} is damaged: {problem}. Renamed to {path}.")
    multihost_utils.sync_global_devices("moved aside")


def _check_none_damaged(directory: epath.Path, problems: dict[int, str]) -> None:
    found = [f"{step}: {problem}" for step, problem in problems.items()]
    found += sorted(name for name in names(directory) if ".damaged-" in name)
    if found:
        lines = "\n  ".join(found)
        raise ValueError(
            f"No checkpoint in {directory} is sound:\n  {lines}\nA run does not start over by "
            "itself. To start over, use another --workdir or delete that folder."
        )


def _commit(directory: epath.Path, step: int) -> None:
    """Completes a sound step that lacks its commit file: a kill can come right before that.

    Raises:
      ValueError: no step has one, so they have been lost since.
    """
    path = directory / str(step) / COMMIT_FILE
    with _all_agree(), readable(directory):
        is_alone = not complete_steps(directory)
    if first_problem("alone" if is_alone else ""):
        raise ValueError(
            f"No checkpoint in {directory} is complete, but {step} is sound apart from its "
            f"{COMMIT_FILE}, as after a copy that left files out. To go on from it, run `touch "
            f"{path}`. To start over, use another --workdir."
        )
    if jax.process_index() == 0:
        path.write_text(f"Checkpoint commit was successful to {path.parent}")
    say(f"Checkpoint {step} lacks its {COMMIT_FILE}, but its checksums are right: it is used.")
    multihost_utils.sync_global_devices("committed")


def _check_none_lost(directory: epath.Path) -> None:
    """Raises ValueError if the run has had checkpoints."""
    record = record_of(directory)
    with _all_agree(), readable(record):
        recorded = record.read_text().strip() if exists(record) else ""
    if recorded := first_problem(recorded):
        raise ValueError(
            f"The run has had {recorded}; {directory} has no checkpoint now. Mount its disk, or "
            "copy the checkpoints back. To start over, use another --workdir, or delete "
            f"{record}."
        )


def check_free(directory: epath.Path, steps: range) -> None:
    """Reports what looks like a step but is none of a run.

    Raises:
      ValueError: it is in the way of the checkpoint of one of `steps`.
    """
    problem = ""
    with _all_agree(), readable(directory):
        for name, why in foreign_steps(directory).items():
            text = f"{directory / name} is not a checkpoint of a run: {why}."
            if name == str(int(name)) and int(name) in steps:
                problem = f"{text} The run will save its step {name} there: move it away."
            else:
                say(f"{text} It is left alone.")
    if problem := first_problem(problem):
        raise ValueError(problem)
