"""What happens to a batch on the device before the model sees it.

The host sends bytes: images `uint8 [B, H, W, 3]` and label numbers `int32 [B, labels_per_image]`,
where -1 means "no label". Floats and class vectors are made here, four times fewer bytes to send.
"""

import jax
import jax.numpy as jnp
import numpy as np

HostBatch = dict[str, np.ndarray]  # the rows of one process, in host memory


def normalize_images(images: jax.Array) -> jax.Array:
    """Returns uint8 images as float32 in [-1, 1], the range of the released weights."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def multi_hot(labels: jax.Array, num_classes: int) -> jax.Array:
    """Returns float32 `[B, num_classes]` with 1 at each label of `[B, labels_per_image]`."""
    return jnp.max(jax.nn.one_hot(labels, num_classes), axis=1)


def mixup_weight(key: jax.Array, alpha: float) -> jax.Array:
    """Returns the weight of each example in its mixture, one for the whole step.

    Drawn from Beta(alpha, alpha) and replaced by max(w, 1 - w), so that the example itself weighs
    at least one half. `alpha` is the paper's "mixup strength" (Table 4).

    Source: Zhang et al., 2018 (arXiv:1710.09412); the details, on which the paper is silent,
    follow the public training code of its authors.
    """
    weight = jax.random.beta(key, alpha, alpha)
    return jnp.maximum(weight, 1.0 - weight)


def partner(x: jax.Array) -> jax.Array:
    """Returns for each example of `[B, ...]` the previous one: its partner in mixup.

    Rolled as bytes and label numbers, a device sends one image to its neighbour.
    """
    return jnp.roll(x, 1, axis=0)


def mix(x: jax.Array, other: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns the mixture of images or targets with those of the partners."""
    return weight * x + (1.0 - weight) * other
