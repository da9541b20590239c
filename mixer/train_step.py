"""The training step: a pure function of the state and the batch."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from mixer.batch import mix, mixup_weight, multi_hot, normalize_images, partner
from mixer.losses import Loss
from mixer.train_state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    *,
    num_classes: int,
    mixup_alpha: float,
    accumulation_steps: int,
    polyak_decay: float,
    seed: int,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns the step: (state, batch) -> (next state, metrics).

    The batch holds `images`, uint8 `[B, H, W, 3]`, and `labels`, int32 `[B, labels_per_image]`.
    The metrics are float32 scalars over the global batch: `loss` and `grad_norm` before clipping.
    All randomness is drawn for the global batch from (seed, step), so neither the number of
    devices nor of `accumulation_steps` (parts of the batch, computed one after the other) nor an
    interruption changes it. `mixup_alpha=0` is no mixup. A state with `averaged_params` keeps
    `polyak_decay` of them in each step and takes the rest from the new parameters.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        mixup_key, dropout_key = jax.random.split(
            jax.random.fold_in(jax.random.key(seed), state.step)
        )
        weight = mixup_weight(mixup_key, mixup_alpha) if mixup_alpha else None

        def mean_loss(params: Any, batch: Batch) -> jax.Array:
            images = normalize_images(batch["images"])
            targets = multi_hot(batch["labels"], num_classes)
            if weight is not None:
                images = mix(images, normalize_images(batch["partner_images"]), weight)
                targets = mix(targets, multi_hot(batch["partner_labels"], num_classes), weight)
            rngs = {"dropout": dropout_key}
            logits: Any = model.apply(
                {"params": params}, images, train=True, rows=batch["rows"], rngs=rngs
            )
            return jnp.mean(loss(logits, targets))

        batch = {**batch, "rows": jnp.arange(batch["labels"].shape[0])}
        if weight is not None:
            batch["partner_images"] = partner(batch["images"])
            batch["partner_labels"] = partner(batch["labels"])
        loss_value, grads = _accumulate(
            jax.value_and_grad(mean_loss), state.params, batch, accumulation_steps
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss_value, "grad_norm": optax.tree.norm(grads)}
        averaged = state.averaged_params
        if averaged is not None:
            averaged = optax.incremental_update(params, averaged, 1.0 - polyak_decay)
        return TrainState(state.step + 1, params, opt_state, averaged), metrics

    return train_step


def _accumulate(
    loss_and_grads: Callable[[Any, Batch], tuple[jax.Array, Any]],
    params: Any,
    batch: Batch,
    steps: int,
) -> tuple[jax.Array, Any]:
    """Returns loss and gradient of the batch, the mean over `steps` parts of it, one at a time."""
    if steps == 1:
        return loss_and_grads(params, batch)

    # Every `steps`-th row is in the same part, so that no device needs the rows of another.
    def split(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x.reshape(-1, steps, *x.shape[1:]), 0, 1)

    def add(total: Any, part: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, loss_and_grads(params, part)), None

    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    total, _ = jax.lax.scan(add, zeros, jax.tree.map(split, batch))
    return jax.tree.map(lambda x: x / steps, total)
