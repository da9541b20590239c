"""Top-1 accuracy and loss over a split, every example counted exactly once.

Labels are sets (`int32 [B, labels_per_image]`, -1 for none): a prediction is correct if it is in
the set, and an example without labels is not counted. So padding needs no mask of its own, and
validation sets with several labels per image are evaluated by the same code.
"""

from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from mixer.batch import multi_hot, normalize_images
from mixer.losses import Loss
from mixer.sharding import to_global

Sums = dict[str, jax.Array]
EvalStep = Callable[[Any, dict[str, jax.Array]], Sums]


def make_eval_step(model: nn.Module, loss: Loss, num_classes: int) -> EvalStep:
    """Returns (params, batch) -> sums over the counted examples: `correct`, `loss`, `count`."""

    def eval_step(params: Any, batch: dict[str, jax.Array]) -> Sums:
        logits: Any = model.apply({"params": params}, normalize_images(batch["images"]))
        targets = multi_hot(batch["labels"], num_classes)
        counted = jnp.max(targets, axis=-1) > 0  # [B]
        predicted = jnp.argmax(logits, axis=-1)
        correct = jnp.take_along_axis(targets, predicted[:, None], axis=-1)[:, 0] > 0
        return {
            "correct": jnp.sum(counted & correct),
            "loss": jnp.sum(jnp.where(counted, loss(logits, targets), 0.0)),
            "count": jnp.sum(counted),
        }

    return eval_step


def evaluate(
    eval_step: EvalStep,
    params: Any,
    batches: Iterable[dict[str, np.ndarray]],
    sharding: NamedSharding,
) -> dict[str, float]:
    """Returns `top1` in [0, 1], the mean `loss` in nats and the `count` of examples.

    Raises:
      ValueError: no example has a label.
    """
    correct, loss, count = 0, 0.0, 0
    for batch in batches:
        sums = jax.device_get(eval_step(params, to_global(batch, sharding)))
        correct += int(sums["correct"])
        loss += float(sums["loss"])
        count += int(sums["count"])
    if not count:
        raise ValueError("Expected examples with labels to evaluate on; the split has none.")
    return {"top1": correct / count, "loss": loss / count, "count": count}
