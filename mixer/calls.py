"""The calls of a run's compiled training: each takes one step, or several of a small model.

A program is started, its memory allocated and its batch sent once per call. With a model whose step
takes milliseconds that is a part of the run (docs/performance.md), with others it is nothing.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mixer.batch import AbstractBatch, HostBatch, abstract_batch
from mixer.build import Data, RunOptions
from mixer.sharding import to_global
from mixer.train_state import TrainState
from mixer.train_step import Metrics, TrainStep, jit_train_step, jit_train_steps

# Takes `count` batches and as many steps; the metrics are scalars, or `[n]` with the first `count`.
Call = Callable[[TrainState, Iterator[HostBatch], int], tuple[TrainState, Metrics]]


def compile_call(
    options: RunOptions,
    data: Data,
    dataset: HostBatch,
    train_step: TrainStep,
    state: TrainState,
    sharding: NamedSharding,
) -> Call:
    """Returns the compiled call of a run.

    Args:
      dataset: what `data.read_dataset` has returned.
      train_step: not jitted.
      state: abstract.
      sharding: of the batch.
    """
    if data.draw:
        indices = jax.ShapeDtypeStruct((options.batch_size,), jnp.int32, sharding=sharding)
        batch = {"indices": indices}
    else:
        shape = options.batch_size, options.image_size, data.labels_per_image
        batch = abstract_batch(sharding, *shape)
    steps = options.steps_per_call
    if data.draw is None and steps == 1:
        return _compile_one_step(jit_train_step(train_step, state), state, batch, sharding)
    train_steps = jit_train_steps(train_step, data.draw, state, steps)
    return _compile_steps(train_steps, state, batch, sharding, steps, dataset)


def first_pixels(batch: HostBatch, data: Data, dataset: HostBatch) -> HostBatch:
    """Returns the first batch of a run, with its images even if the devices keep them."""
    if data.draw is None:
        return batch
    drawn: HostBatch = jax.device_get(jax.jit(data.draw)(dataset, batch, 0))
    return drawn


def _compile_one_step(
    train_step: Any, abstract_state: TrainState, batch: AbstractBatch, sharding: NamedSharding
) -> Call:
    compiled = train_step.lower(abstract_state, batch).compile()

    def call(state: TrainState, batches: Iterator[HostBatch], count: int) -> Any:
        return compiled(state, to_global(next(batches), sharding))

    return call


def _compile_steps(
    train_steps: Any,
    abstract_state: TrainState,
    batch: AbstractBatch,
    sharding: NamedSharding,
    steps: int,
    dataset: HostBatch,
) -> Call:
    # `batch` is what the host sends for one step; every device gets `dataset`.
    stacked = NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))
    batches_of_call = {
        name: jax.ShapeDtypeStruct((steps, *array.shape), array.dtype, sharding=stacked)
        for name, array in batch.items()
    }
    on_device = jax.device_put(dataset, NamedSharding(sharding.mesh, PartitionSpec()))
    number = jax.ShapeDtypeStruct((), jnp.int32)
    compiled = train_steps.lower(abstract_state, batches_of_call, number, on_device).compile()

    def call(state: TrainState, batches: Iterator[HostBatch], count: int) -> Any:
        taken = list(itertools.islice(batches, count))
        taken += taken[-1:] * (steps - count)  # the shapes are fixed; these are not taken
        sent = {name: np.stack([each[name] for each in taken]) for name in batch}
        return compiled(state, to_global(sent, stacked), np.int32(count), on_device)

    return call
