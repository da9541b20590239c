"""What a run evaluates: its splits, and perhaps a few-shot probe of its features."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
from jax.sharding import Mesh, NamedSharding

from mixer.batch import HostBatch
from mixer.evaluation.classification import EvalStep, evaluate, jit_eval_step
from mixer.evaluation.few_shot import FeaturesStep, FewShot, evaluate_probe, jit_features_step
from mixer.losses import Loss


class EvalSteps(NamedTuple):
    """The jitted steps; nothing is compiled yet."""

    classify: EvalStep
    features: FeaturesStep


def jit_eval_steps(model: nn.Module, loss: Loss, num_classes: int, mesh: Mesh) -> EvalSteps:
    """Returns the steps of a model, with their results replicated over `mesh`."""
    return EvalSteps(jit_eval_step(model, loss, num_classes, mesh), jit_features_step(model, mesh))


def evaluate_all(
    steps: EvalSteps,
    params: Any,
    splits: Mapping[str, Callable[[], Iterator[HostBatch]]],
    few_shot: FewShot | None,
    sharding: NamedSharding,
    guard: Callable[[Iterator[HostBatch]], Iterator[HostBatch]],
) -> dict[str, dict[str, float]]:
    """Returns the scores of each split, and as "few_shot" those of the probe if there is one.

    Each pass over images goes through `guard`.

    Raises:
      ValueError: a split has no label, or too few images for the probe.
      FloatingPointError: a logit or a feature is not finite.
    """
    results = {
        name: evaluate(steps.classify, params, guard(one_pass()), sharding)
        for name, one_pass in splits.items()
    }
    if few_shot:
        results["few_shot"] = evaluate_probe(steps.features, params, few_shot, sharding, guard)
    return results
