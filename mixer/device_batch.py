"""What happens to a batch on the device before the model sees it.

The host sends bytes: images `uint8 [B, H, W, 3]` and label numbers `int32 [B, labels_per_image]`,
where -1 means "no label". Floats and class vectors are made here, four times fewer bytes to send.
"""

import jax
import jax.numpy as jnp


def normalize_images(images: jax.Array) -> jax.Array:
    """Returns uint8 images as float32 in [-1, 1], the range of the released weights."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def multi_hot(labels: jax.Array, num_classes: int) -> jax.Array:
    """Returns float32 `[B, num_classes]` with 1 at each label of `[B, labels_per_image]`."""
    return jnp.max(jax.nn.one_hot(labels, num_classes), axis=1)


def mixup(
    key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Returns each example mixed with the previous one of the global batch.

    One lambda for the whole step, drawn from Beta(alpha, alpha) and replaced by
    max(lambda, 1 - lambda), so that the example itself weighs at least one half. `alpha` is the
    paper's "mixup strength" (Table 4); 0 switches mixup off.

    Source: Zhang et al., 2018 (arXiv:1710.09412); the details, on which the paper is silent,
    follow the public training code of its authors.
    """
    if alpha == 0.0:
        return images, targets
    weight = jax.random.beta(key, alpha, alpha)
    weight = jnp.maximum(weight, 1.0 - weight)

    def mix(x: jax.Array) -> jax.Array:
        return weight * x + (1.0 - weight) * jnp.roll(x, 1, axis=0)

    return mix(images), mix(targets)
