"""Top-1 accuracy and loss over a split, counting every example exactly once.

An image may have several labels (`int32 [B, labels_per_image]`, padded with -1): a prediction is
correct if it is one of them, and an example without labels is not counted. The same code therefore
covers ImageNet ReaL, and the padding of the last batch needs no separate mask.
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
    """Returns a step that sums `correct`, `loss` and `count` over the labelled examples of a batch.

    The step takes `(params, batch)`; the batch holds uint8 `images [B, H, W, 3]` and `labels`. The
    loss is in nats.
    """

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
    """Returns `top1` in [0, 1], the mean `loss` in nats, and the `count` of labelled examples.

    Args:
      eval_step: from `make_eval_step`, jitted with replicated outputs.
      params: the parameters of its model.
      batches: this process's part of each global batch.
      sharding: of the global batch.

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
        raise ValueError(
            "Expected examples with labels; the split has none. Evaluate on another split."
        )
    return {"top1": correct / count, "loss": loss / count, "count": count}
