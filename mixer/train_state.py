"""The state of a run: what a step changes and a checkpoint holds."""

from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mixer.sharding import state_sharding

Params = dict[str, Any]


@flax.struct.dataclass
class TrainState:
    """What a step changes.

    `step` is the number of updates done, int32; `params` is a float32 tree; `averaged_params` its
    Polyak average, or None.
    """

    step: jax.Array
    params: Any
    opt_state: optax.OptState
    averaged_params: Any = None

    @property
    def eval_params(self) -> Any:
        """The parameters to evaluate: their average if there is one."""
        return self.params if self.averaged_params is None else self.averaged_params


def create_train_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    image_size: int,
    seed: int,
    averaged: bool,
    mesh: Mesh,
) -> tuple[TrainState, Callable[[Params], TrainState]]:
    """Returns the abstract state, with shardings, and a function that initialises the real one.

    A resumed run needs only the former. The latter takes pre-trained parameters, any subset of the
    top level of the tree, and draws the others; `{}`: from scratch. Its output is born sharded, so
    no device ever holds more than its part.

    Raises:
      ValueError: images of that size do not split into patches.
    """

    def initialise(pretrained: Params) -> TrainState:
        images = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
        params = {**model.init(jax.random.key(seed), images)["params"], **pretrained}
        average = jax.tree.map(jnp.copy, params) if averaged else None
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), average)

    shapes = jax.eval_shape(initialise, {})
    shardings = state_sharding(mesh, shapes)
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )
    return abstract, jax.jit(initialise, out_shardings=shardings)
