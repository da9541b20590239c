"""Random masks of the training: dropout, and stochastic depth, which drops whole branches.

A mask is a function of the key, the module and the row that an example has in the batch of its
step. So a part of a batch, as gradient accumulation takes it, gets the masks that it has in the
whole, on any number of devices.
"""

import flax.linen as nn
import jax


def linear_rate(last_rate: float, block: int, num_blocks: int) -> float:
    """Returns the drop rate of a block: 0 at the first, growing linearly to `last_rate`.

    Source: section 3 of the MLP-Mixer paper ("grows linearly from 0.0 to s"). With one block only,
    that block is the first, hence 0.
    """
    return last_rate * block / max(num_blocks - 1, 1)


class Dropout(nn.Module):
    """Zeroes each element of `[B, ...]` with probability `rate` and divides the others by 1 - rate.

    Source: Srivastava et al., 2014. Nothing happens outside of training.
    """

    rate: float

    @nn.compact
    def __call__(self, y: jax.Array, rows: jax.Array, *, train: bool) -> jax.Array:
        if not train or self.rate == 0.0:
            return y
        keep_rate = 1.0 - self.rate
        return y * _keep(self.make_rng("dropout"), keep_rate, rows, y.shape[1:]) / keep_rate


class StochasticDepth(nn.Module):
    """Zeroes whole examples of a branch `[B, ...]`, each with probability `rate`, in training.

    The kept examples are not rescaled, in training or evaluation.

    Source: Huang et al., 2016 (arXiv:1603.09382).
    """

    rate: float

    @nn.compact
    def __call__(self, y: jax.Array, rows: jax.Array, *, train: bool) -> jax.Array:
        if not train or self.rate == 0.0:
            return y
        return y * _keep(self.make_rng("dropout"), 1.0 - self.rate, rows, (1,) * (y.ndim - 1))


def _keep(key: jax.Array, rate: float, rows: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns bools `[B, *shape]`, True with probability `rate`, for the rows `[B]`."""

    def draw(row: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(key, row), rate, shape)

    return jax.vmap(draw)(rows)
