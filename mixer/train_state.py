"""The state of a run: everything that a step changes and a checkpoint holds."""

from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mixer.sharding import state_sharding


@flax.struct.dataclass
class TrainState:
    """`step` is the number of updates done, int32; `params` and `opt_state` are float32 trees."""

    step: jax.Array
    params: Any
    opt_state: optax.OptState


def create_train_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    image_size: int,
    seed: int,
    mesh: Mesh,
) -> tuple[TrainState, Any]:
    """Returns the abstract state, with shardings, and a function that initialises the real one.

    A run that resumes needs only the first. The second is compiled with the shardings as its
    output, so that no device ever holds more than its part.
    """

    def initialise() -> TrainState:
        images = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
        params = model.init(jax.random.key(seed), images)["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    shapes = jax.eval_shape(initialise)
    shardings = state_sharding(mesh, shapes)
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )
    return abstract, jax.jit(initialise, out_shardings=shardings)
