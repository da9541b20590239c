"""Classification losses over logits `[B, classes]` and soft targets `[B, classes]`.

Each returns the loss per example, `[B]` in float32, in nats.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax


def sigmoid_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns the binary cross-entropy summed over the classes.

    Source: the paper's pre-training code uses it on every dataset, ImageNet included.
    """
    return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, targets), axis=-1)


def softmax_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns the cross-entropy of the softmax over the classes; the paper fine-tunes with it."""
    return optax.softmax_cross_entropy(logits, targets)


Loss = Callable[[jax.Array, jax.Array], jax.Array]

LOSSES: dict[str, Loss] = {"sigmoid": sigmoid_cross_entropy, "softmax": softmax_cross_entropy}
