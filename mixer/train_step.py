"""The training step: a pure function of the state and the batch."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec

from mixer.batch import DeviceBatch, Draw, mix, mixup_weight, multi_hot, normalize_images, partner
from mixer.losses import Loss
from mixer.sharding import replicated
from mixer.train_state import TrainState

Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, DeviceBatch], tuple[TrainState, Metrics]]


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
) -> TrainStep:
    """Returns the step, a pure function: (state, batch) -> (next state, metrics).

    The batch is described in `mixer/batch.py`. The metrics are float32 scalars: `loss`, in nats,
    the mean over the global batch, and three norms over all parameters: `grad_norm`, before
    clipping, `update_norm`, of what the step adds, and `param_norm`, after it. All randomness is
    drawn for the global batch from (seed, step), so neither the number of devices, nor
    `accumulation_steps`, nor an interruption changes it.

    Args:
      mixup_alpha: of the Beta distribution that the mixup weight is drawn from; 0: no mixup.
      accumulation_steps: parts of the batch that are computed one after the other.
      polyak_decay: share of `averaged_params` that a step keeps, if the state has them.
      seed: of mixup, dropout and stochastic depth.
    """

    def train_step(state: TrainState, batch: DeviceBatch) -> tuple[TrainState, Metrics]:
        mixup_key, dropout_key = jax.random.split(
            jax.random.fold_in(jax.random.key(seed), state.step)
        )
        weight = mixup_weight(mixup_key, mixup_alpha) if mixup_alpha else None

        def mean_loss(params: Any, batch: DeviceBatch) -> jax.Array:
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
        metrics = {
            "loss": loss_value,
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "param_norm": optax.tree.norm(params),
        }
        averaged = state.averaged_params
        if averaged is not None:
            averaged = optax.incremental_update(params, averaged, 1.0 - polyak_decay)
        return TrainState(state.step + 1, params, opt_state, averaged), metrics

    return train_step


def jit_train_step(train_step: TrainStep, abstract_state: TrainState) -> Any:
    """Returns the step jitted: the state is donated and keeps its shardings.

    Every device gets the metrics. `abstract_state` is that of `create_train_state`.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state)
    out_shardings = (shardings, replicated(shardings.step.mesh))
    return jax.jit(train_step, donate_argnums=0, out_shardings=out_shardings)


def jit_train_steps(
    train_step: TrainStep, draw: Draw | None, abstract_state: TrainState, steps: int
) -> Any:
    """Returns up to `steps` steps as one program, for models whose step takes milliseconds.

    It is (state, batches, count, dataset) -> (next state, metrics): `batches` are stacked in the
    first dimension, and the first `count` (int32) of them are taken. The metrics are `[steps]`,
    those past `count` zeros. What a step computes does not depend on its place in a call. `draw`
    makes a batch of the `dataset`, which is on the device, and what the host sends for it; with
    None, `dataset` is {} and the host sends batches. The state is donated, as in `jit_train_step`.
    """

    def train_steps(
        state: TrainState, batches: DeviceBatch, count: jax.Array, dataset: DeviceBatch
    ) -> tuple[TrainState, Metrics]:
        def step(state: TrainState, number: Any) -> tuple[TrainState, Metrics]:
            batch = jax.tree.map(lambda x: x[number], batches)
            return train_step(state, draw(dataset, batch, state.step) if draw else batch)

        def body(number: jax.Array, carry: tuple[TrainState, Metrics]) -> Any:
            state, metrics = carry
            state, new = step(state, number)
            return state, jax.tree.map(lambda all, one: all.at[number].set(one), metrics, new)

        shapes = jax.eval_shape(step, state, 0)[1]
        zeros = jax.tree.map(lambda x: jnp.zeros((steps, *x.shape), x.dtype), shapes)
        return jax.lax.fori_loop(0, count, body, (state, zeros))

    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state)
    out_shardings = (shardings, replicated(shardings.step.mesh))
    return jax.jit(train_steps, donate_argnums=0, out_shardings=out_shardings)


def _accumulate(
    loss_and_grads: Callable[[Any, DeviceBatch], tuple[jax.Array, Any]],
    params: Any,
    batch: DeviceBatch,
    steps: int,
) -> tuple[jax.Array, Any]:
    """Returns loss and gradient, the mean over `steps` parts computed one after the other."""
    if steps == 1:
        return loss_and_grads(params, batch)

    # Every `steps`-th row is in the same part, so that no device needs the rows of another.
    def split(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x.reshape(-1, steps, *x.shape[1:]), 0, 1)

    def mean_of_parts(params: Any, batch: DeviceBatch) -> tuple[jax.Array, Any]:
        def add(total: Any, part: DeviceBatch) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, loss_and_grads(params, part)), None

        zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        total, _ = jax.lax.scan(add, zeros, jax.tree.map(split, batch))
        loss, grads = jax.tree.map(lambda x: x / steps, total)
        return loss, grads

    mesh = jax.typeof(batch["images"]).sharding.mesh
    if mesh.empty or mesh.size == 1 or mesh.shape["fsdp"] > 1:
        return mean_of_parts(params, batch)

    # XLA's partitioner sums gradients over the devices after each part. The compiler for TPUs moves
    # the sum out of the loop, the one for CPUs does not.
    def on_each_device(params: Any, batch: DeviceBatch) -> Any:
        flat, unravel = ravel_pytree(mean_of_parts(params, batch))
        return unravel(jax.lax.pmean(flat, mesh.axis_names))

    whole, divided = PartitionSpec(), PartitionSpec(mesh.axis_names)
    summed_once = jax.shard_map(
        on_each_device, mesh=mesh, in_specs=(whole, divided), out_specs=whole, check_vma=False
    )
    mean: tuple[jax.Array, Any] = jax.lax.platform_dependent(
        params, batch, cpu=summed_once, default=mean_of_parts
    )
    return mean
