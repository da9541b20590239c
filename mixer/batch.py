"""A batch, and what happens to it on the device before the model sees it.

The host sends bytes: `images`, uint8 `[B, H, W, 3]`, and `labels`, int32 `[B, labels_per_image]`,
where -1 means "no label". Converting them to floats and class vectors on the device sends a quarter
of the bytes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

HostBatch = dict[str, np.ndarray]  # the rows of one process, in host memory
DeviceBatch = dict[str, jax.Array]  # the global batch, divided over all devices
# Makes a batch of a data set on the devices, of what the host sends for it, and of the step.
Draw = Callable[[DeviceBatch, DeviceBatch, jax.Array], DeviceBatch]
AbstractBatch = dict[str, jax.ShapeDtypeStruct]  # its shapes, types and shardings


def abstract_batch(
    sharding: NamedSharding, batch_size: int, image_size: int, labels_per_image: int
) -> AbstractBatch:
    """Returns what is needed of a global batch to compile a step without one."""
    images = (batch_size, image_size, image_size, 3)

    return {
        "images": jax.ShapeDtypeStruct(images, jnp.uint8, sharding=sharding),
        "labels": jax.ShapeDtypeStruct(
            (batch_size, labels_per_image), jnp.int32, sharding=sharding
        ),
    }


def normalize_images(images: jax.Array) -> jax.Array:
    """Returns uint8 images as float32 in [-1, 1], the range of the released weights."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def multi_hot(labels: jax.Array, num_classes: int) -> jax.Array:
    """Returns float32 `[B, num_classes]` with 1 at each label of `[B, labels_per_image]`."""
    return jnp.max(jax.nn.one_hot(labels, num_classes), axis=1)


def mixup_weight(key: jax.Array, alpha: float) -> jax.Array:
    """Returns the weight of an example in its mixture, a scalar shared by the whole step.

    Drawn from Beta(alpha, alpha) and replaced by max(w, 1 - w), so that the example itself weighs
    at least one half. `alpha` is the paper's "mixup strength" (Table 4).

    Source: Zhang et al., 2018 (arXiv:1710.09412). The paper gives no details; these follow the
    authors' public training code.
    """
    weight = jax.random.beta(key, alpha, alpha)
    return jnp.maximum(weight, 1.0 - weight)


def partner(x: jax.Array) -> jax.Array:
    """Returns for each example of `[B, ...]` the one before it, its partner in mixup.

    Rolling bytes and label numbers costs each device one image sent to its neighbour.
    """
    return jnp.roll(x, 1, axis=0)


def mix(x: jax.Array, other: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns the weighted mean of images or targets and those of their partners."""
    return weight * x + (1.0 - weight) * other
