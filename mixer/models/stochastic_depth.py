"""Stochastic depth (Huang et al., 2016, arXiv:1603.09382): skip a branch for some examples."""

import flax.linen as nn
import jax


def linear_rate(last_rate: float, block: int, num_blocks: int) -> float:
    """Returns the drop rate of a block: 0 at the first, growing linearly to `last_rate`.

    Source: section 3 of the MLP-Mixer paper ("grows linearly from 0.0 to s"). With one block only,
    that block is the first, hence 0.
    """
    return last_rate * block / max(num_blocks - 1, 1)


class StochasticDepth(nn.Module):
    """Zeroes whole examples of a branch `[B, ...]`, each with probability `rate`, in training.

    By default the kept examples are not rescaled, in training or evaluation. With `rescale` they
    are divided by `1 - rate`, so that the expectation over masks is the branch itself.
    """

    rate: float
    rescale: bool = False

    @nn.compact
    def __call__(self, y: jax.Array, *, train: bool) -> jax.Array:
        if not train or self.rate == 0.0:
            return y
        keep_rate = 1.0 - self.rate
        mask_shape = (y.shape[0],) + (1,) * (y.ndim - 1)
        keep = jax.random.bernoulli(self.make_rng("dropout"), keep_rate, mask_shape)
        y = y * keep.astype(y.dtype)
        return y / keep_rate if self.rescale else y
