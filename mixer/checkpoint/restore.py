"""Where a run goes on: from the newest checkpoint that is what was saved.

Several processes see the same only if the disk shows them the same, so they tell each other.
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
    """What a run goes on with."""

    step: int
    state: TrainState
    meta: dict[str, Any]


def restore_newest(
    directory: epath.Path,
    abstract_state: TrainState,
    check: Callable[[int, dict[str, Any]], None] | None = None,
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
    """Returns the state of that step, with the shapes and shardings of `abstract_state`.

    Raises:
      DamagedCheckpoint: it is not what was saved, as one of the processes sees it.
      ValueError: it does not fit `abstract_state`.
    """
    return _read_state(directory, _read_meta(directory, step), abstract_state)


def _newest_step(directory: epath.Path, but: Container[int]) -> int | None:
    """Returns the newest complete step as process 0 sees it, without some; None if none."""
    steps = [step for step in complete_steps(directory) if step not in but]
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
    """Raises DamagedCheckpoint in all processes if one of them does so inside."""
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
        say(f"Checkpoint {step} is damaged: {problem}. It is {path} now.")
    multihost_utils.sync_global_devices("moved aside")


def _check_none_damaged(directory: epath.Path, problems: dict[int, str]) -> None:
    found = [f"{step}: {problem}" for step, problem in problems.items()]
    found += sorted(name for name in names(directory) if ".damaged-" in name)
    if found:
        lines = "\n  ".join(found)
        raise ValueError(
            f"No checkpoint in {directory} is sound:\n  {lines}\nThe run does not start "
            "anew by itself. To do so use another --workdir, or delete that folder."
        )
