"""The training step: a pure function of the state and the batch."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from mixer.device_batch import mixup, multi_hot, normalize_images
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
    seed: int,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns the step: (state, batch) -> (next state, metrics).

    The batch holds `images`, uint8 `[B, H, W, 3]`, and `labels`, int32 `[B, labels_per_image]`.
    The metrics are float32 scalars over the global batch: `loss` and `grad_norm` before clipping.
    All randomness is drawn for the global batch from (seed, step), so neither the number of
    devices nor an interruption changes it.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        mixup_key, dropout_key = jax.random.split(
            jax.random.fold_in(jax.random.key(seed), state.step)
        )
        images = normalize_images(batch["images"])
        targets = multi_hot(batch["labels"], num_classes)
        images, targets = mixup(mixup_key, images, targets, mixup_alpha)

        def mean_loss(params: Any) -> jax.Array:
            rngs = {"dropout": dropout_key}
            logits: Any = model.apply({"params": params}, images, train=True, rngs=rngs)
            return jnp.mean(loss(logits, targets))

        loss_value, grads = jax.value_and_grad(mean_loss)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss_value, "grad_norm": optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, opt_state), metrics

    return train_step
