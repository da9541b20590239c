"""Top-1 and top-5 accuracy and loss over a split, counting every example exactly once.

An image may have several labels (`int32 [B, labels_per_image]`, padded with -1): a prediction is
correct if it is one of them, and an example without labels is not counted. The same code therefore
covers ImageNet ReaL, and the padding of the last batch needs no separate mask.
"""

import collections
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from mixer.batch import DeviceBatch, HostBatch, multi_hot, normalize_images
from mixer.losses import Loss
from mixer.sharding import replicated, to_global

Sums = dict[str, jax.Array]
EvalStep = Callable[[Any, DeviceBatch], Sums]

# Steps dispatched ahead of the sums that are fetched, so that the devices do not idle.
_BATCHES_IN_FLIGHT = 2
_TOP = 5


def make_eval_step(
    model: nn.Module, loss: Loss, num_classes: int, logits_of: Sequence[int] | None = None
) -> EvalStep:
    """Returns (params, batch) -> sums over labelled examples: `correct`, `loss` (nats), `count`.

    With more than five classes also `correct_top5`, where a label is among the five most probable
    classes. `logits_of` is the model's logit for each of the `num_classes` labels; None: in their
    order. Beside the sums are the `predicted` labels and their `probability` (softmax), `[B]`.
    """

    def eval_step(params: Any, batch: DeviceBatch) -> Sums:
        logits: Any = model.apply({"params": params}, normalize_images(batch["images"]))
        if logits_of is not None:
            logits = logits[:, jnp.asarray(logits_of)]
        targets = multi_hot(batch["labels"], num_classes)
        counted = jnp.max(targets, axis=-1) > 0  # [B]
        top = jax.lax.top_k(logits, min(_TOP, num_classes))[1]  # [B, 5], the most probable first
        correct = jnp.take_along_axis(targets, top, axis=-1) > 0
        sums = {
            "correct": jnp.sum(counted & correct[:, 0]),
            "loss": jnp.sum(jnp.where(counted, loss(logits, targets), 0.0)),
            "count": jnp.sum(counted),
            "predicted": top[:, 0],
            "probability": jnp.max(jax.nn.softmax(logits), axis=-1),
        }
        if num_classes > _TOP:
            sums["correct_top5"] = jnp.sum(counted & jnp.any(correct, axis=-1))
        return sums

    return eval_step


def jit_eval_step(
    model: nn.Module,
    loss: Loss,
    num_classes: int,
    mesh: Mesh,
    logits_of: Sequence[int] | None = None,
) -> EvalStep:
    """Returns the jitted step of `make_eval_step`, with the sums replicated over `mesh`."""
    step = make_eval_step(model, loss, num_classes, logits_of)
    return jax.jit(step, out_shardings=replicated(mesh))


def evaluate(
    eval_step: EvalStep,
    params: Any,
    batches: Iterable[HostBatch],
    sharding: NamedSharding,
    look: Callable[[HostBatch, Sums], None] | None = None,
) -> dict[str, float]:
    """Returns `top1` in [0, 1], the mean `loss` in nats, and the `count` of labelled examples.

    With more than five classes also `top5`. `eval_step` is from `jit_eval_step`; `batches` hold
    this process's part of each global batch. `look` is given each of them with what the step
    returns for it.

    Raises:
      ValueError: no example has a label.
      FloatingPointError: a logit is not finite.
    """
    correct, correct_top5, loss, count = 0, None, 0.0, 0
    steps = ((batch, eval_step(params, to_global(batch, sharding))) for batch in batches)
    for batch, sums in _fetched(steps):
        correct += int(sums["correct"])
        loss += float(sums["loss"])
        count += int(sums["count"])
        if "correct_top5" in sums:
            correct_top5 = (correct_top5 or 0) + int(sums["correct_top5"])
        if look is not None:
            look(batch, sums)
    if not count:
        raise ValueError("Expected labelled examples; the split has none. Use another split.")
    check_outputs("logits", math.isfinite(loss))  # a logit that is not finite makes it NaN or inf
    top5 = {} if correct_top5 is None else {"top5": correct_top5 / count}
    return {"top1": correct / count, **top5, "loss": loss / count, "count": count}


def check_outputs(what: str, is_finite: bool) -> None:
    """Raises FloatingPointError, naming the outputs, unless they are finite."""
    if not is_finite:
        raise FloatingPointError(
            f"Expected finite {what}; got NaN or infinity. The weights are damaged, or their "
            "training diverged. Use others."
        )


def _fetched(results: Iterable[tuple[HostBatch, Sums]]) -> Iterator[tuple[HostBatch, Sums]]:
    """Yields results in order, fetching each once `_BATCHES_IN_FLIGHT` more are dispatched."""
    in_flight: collections.deque[tuple[HostBatch, Sums]] = collections.deque()
    for result in results:
        in_flight.append(result)
        if len(in_flight) > _BATCHES_IN_FLIGHT:
            yield jax.device_get(in_flight.popleft())
    yield from map(jax.device_get, in_flight)
