"""The folder of a run's checkpoints, `WORKDIR/checkpoints`: which steps are complete, which stay.

Every save ends by writing a commit file; a save that was cut short leaves its step without one.
"""

import functools
from collections.abc import Mapping, Sequence

import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import options as ocp_options
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    EveryNSteps,
    LatestN,
    PolicyCheckpointInfo,
    PreservationContext,
    PreservationPolicy,
)

ATOMICITY = ocp_options.AtomicityOptions(mode=ocp_options.AtomicityMode.COMMIT_FILE)


def checkpoint_folder(workdir: epath.Path) -> epath.Path:
    """Returns `WORKDIR/checkpoints` as the absolute path that Orbax needs."""
    if (
        not workdir.is_absolute()
    ):  # asked first, as `absolute` would turn a bucket into a local folder
        workdir = workdir.absolute()
    return epath.Path(workdir) / "checkpoints"


def complete_steps(directory: epath.Path) -> list[int]:
    """Returns the complete steps in a folder of checkpoints, in ascending order."""
    is_complete = functools.partial(ocp.path.step.is_path_finalized, atomicity_options=ATOMICITY)
    return [step for step in all_steps(directory) if is_complete(directory / str(step))]


def newest_step(directory: epath.Path) -> int | None:
    """Returns the newest complete step in a folder of checkpoints, or None."""
    return max(complete_steps(directory), default=None)


def all_steps(directory: epath.Path) -> list[int]:
    """Returns the steps in a folder of checkpoints, complete or not, in ascending order."""
    return sorted(int(name) for name in names(directory) if name.isdecimal())


def names(directory: epath.Path) -> set[str]:
    """Returns the names in a folder; none if there is no such folder."""
    return {path.name for path in directory.iterdir()} if directory.is_dir() else set()


def preservation_policy(
    keep: int, keep_every: int, scores: Mapping[int, float]
) -> PreservationPolicy:
    """Returns Orbax's policy for the steps that stay.

    These are the last `keep`, the multiples of `keep_every` (0: no others), and the best of those
    that have a score by then.
    """
    policies = [LatestN(keep), _Best(scores)]
    return AnyPreservationPolicy(policies + [EveryNSteps(keep_every)] * (keep_every > 0))


class _Best(PreservationPolicy):
    """Keeps the best step.

    Orbax's own policy stores the scores in files that it does not verify; a damaged one stops it.
    """

    def __init__(self, scores: Mapping[int, float]):
        self._scores = scores

    def should_preserve(
        self, checkpoints: Sequence[PolicyCheckpointInfo], *, context: PreservationContext
    ) -> Sequence[bool]:
        best = best_step([checkpoint.step for checkpoint in checkpoints], self._scores)
        return [checkpoint.step == best for checkpoint in checkpoints]


def best_step(steps: Sequence[int], scores: Mapping[int, float]) -> int | None:
    """Returns the step with the highest score, the latest of equal ones; None without scores."""
    scored = [(scores[step], step) for step in steps if step in scores]
    return max(scored)[1] if scored else None
