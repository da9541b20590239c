"""Which checkpoints stay: the last ones, every so many steps, and the one with the best score."""

from collections.abc import Mapping, Sequence

from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    EveryNSteps,
    LatestN,
    PolicyCheckpointInfo,
    PreservationContext,
    PreservationPolicy,
)


def preservation_policy(
    keep: int, keep_every: int, scores: Mapping[int, float]
) -> PreservationPolicy:
    """Returns Orbax's policy that keeps the last `keep` steps, every multiple of `keep_every` (0:
    no others), and the best of those that have a score by then."""
    policies = [LatestN(keep), _Best(scores)]
    return AnyPreservationPolicy(policies + [EveryNSteps(keep_every)] * (keep_every > 0))


class _Best(PreservationPolicy):
    """Keeps the best step.

    Orbax's own policy keeps the scores in files, which are not verified, and stop it if damaged.
    """

    def __init__(self, scores: Mapping[int, float]):
        self._scores = scores

    def should_preserve(
        self, checkpoints: Sequence[PolicyCheckpointInfo], *, context: PreservationContext
    ) -> Sequence[bool]:
        best = best_step([checkpoint.step for checkpoint in checkpoints], self._scores)
        return [checkpoint.step == best for checkpoint in checkpoints]


def best_step(steps: Sequence[int], scores: Mapping[int, float]) -> int | None:
    """Returns the step with the highest score, of equal ones the latest; None if none has one."""
    scored = [(scores[step], step) for step in steps if step in scores]
    return max(scored)[1] if scored else None
