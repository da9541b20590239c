"""The MLP of a block: two dense layers with a GELU between them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint
from jax.nn.initializers import Initializer, lecun_normal, zeros
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from mixer.models.dropout import Dropout
from mixer.models.layers import gelu, product
from mixer.models.platforms import platform_dependent


def _row_major(y: jax.Array) -> jax.Array:
    def constraint(y: jax.Array) -> jax.Array:
        return with_layout_constraint(y, Layout(tuple(range(y.ndim))))

    mesh = jax.typeof(y).sharding.mesh
    if mesh.empty or not mesh.are_all_axes_auto or y.shape[0] % mesh.size:
        return constraint(y)
    # To each part by itself: in one program for several slices the compiler would gather the batch.
    batch = PartitionSpec(mesh.axis_names)
    return jax.shard_map(constraint, mesh=mesh, in_specs=batch, out_specs=batch)(y)


class MlpBlock(nn.Module):
    """Two dense layers with a GELU between them, over the last dimension.

    Fields:
      row_major: on a TPU, the hidden activation is laid out in memory as it is indexed.
    """

    mlp_dim: int
    gelu_approximate: bool = True
    dropout_rate: float = 0.0
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = lecun_normal()
    bias_init: Initializer = zeros
    row_major: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, rows: jax.Array, *, train: bool) -> jax.Array:
        dense = functools.partial(
            nn.Dense,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            dot_general=product,
        )
        y = checkpoint_name(dense(self.mlp_dim)(x), "hidden")
        if self.row_major:
            y = platform_dependent(y, tpu=_row_major, default=lambda y: y)
        y = gelu(y, self.gelu_approximate)
        y = Dropout(self.dropout_rate)(y, rows, train=train)
        y = dense(x.shape[-1])(y)
        return Dropout(self.dropout_rate)(y, rows, train=train)
