"""Restores the newest sound checkpoint of a run.

The disk may show each of several processes something else, so they agree on what they see.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Container, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from mixer.checkpoint import format as checkpoint_format
from mixer.checkpoint.folder import all_steps, complete_steps, names
from mixer.checkpoint.format import DamagedCheckpoint
from mixer.checkpoint.processes import first_problem, say
from mixer.train_state import TrainState


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
    to `STEP.damaged-WHAT`. All processes must call this, and all return the same.

    Args:
      directory: of the checkpoints, `WORKDIR/checkpoints`.
      abstract_state: shapes, types and shardings of the state to return.
      check: called with a step and its `meta` before its state is read; may raise.

    Raises:
      ValueError: no checkpoint is sound, and none was renamed; or the newest sound one does not fit
        `abstract_state`.
    """
    restored = None
    problems: dict[int, str] = {}
    while restored is None and (step := _newest_step(directory, problems)) is not None:
        try:
            meta = _read_meta(directory, step)
            if check:
                check(step, meta)
            restored = Restored(step, _read_state(directory, meta, abstract_state), meta)
        except DamagedCheckpoint as damage:
            problems[step] = str(damage)
    if restored is None:
        _check_none_damaged(directory, problems)
    elif problems:
        _move_aside(directory, problems)
    for step in sorted(set(all_steps(directory)) - set(complete_steps(directory))):
        say(f"Checkpoint {step} was never completed. It is deleted.")
    return restored


def restore(directory: epath.Path, step: int, abstract_state: TrainState) -> TrainState:
    """Returns the state of a step, with the shapes and shardings of `abstract_state`.

    Raises:
      DamagedCheckpoint: one of the processes sees that it is not what was saved.
      ValueError: it does not fit `abstract_state`.
    """
    return _read_state(directory, _read_meta(directory, step), abstract_state)


def _newest_step(directory: epath.Path, excluded: Container[int]) -> int | None:
    """Returns the newest complete step that process 0 sees, apart from those excluded, or None."""
    steps = [step for step in complete_steps(directory) if step not in excluded]
    newest = int(multihost_utils.broadcast_one_to_all(np.int32(max(steps, default=-1))))
    return None if newest < 0 else newest


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
    """Raises DamagedCheckpoint in all processes if one raises it inside."""
    problem = ""
    try:
        yield
    except DamagedCheckpoint as damage:
        problem = str(damage)
    if problem := first_problem(problem):
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
