"""How much arithmetic a model needs, and how much a chip can do.

The former is counted from the jaxpr, without computing anything. The latter are the vendors' public
figures for one JAX device: a core of a TPU v2 or v3 chip, or a whole later chip.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device: matrix-unit peak in bfloat16, memory, and cores and chips as clouds count them."""

    flops_per_second: float
    hbm_gib: float
    hbm_bytes_per_second: float = math.nan
    cores: int = 1
    chips: float = 1


# By `jax.Device.device_kind`. Sources: cloud.google.com/tpu/docs, the page "TPU v2" to "TPU v6e" of
# each generation, "System architecture", and NVIDIA's data sheets (dense, without sparsity). A
# device is half a chip of v2 (45 TFLOPs, 16 GB, 700 GB/s) and v3 (123 TFLOPs, 32 GB, 900 GB/s).
CHIPS: dict[str, Chip] = {
    "TPU v2": Chip(22.5e12, 8, 350e9, chips=0.5),
    "TPU v3": Chip(61.5e12, 16, 450e9, chips=0.5),
    "TPU v4": Chip(275e12, 32, 1228e9, cores=2),
    "TPU v5 lite": Chip(197e12, 16, 819e9),
    "TPU v5": Chip(459e12, 95, 2765e9, cores=2),
    "TPU v6 lite": Chip(918e12, 32, 1640e9),
    "NVIDIA A100-SXM4-40GB": Chip(312e12, 40, 1555e9),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 80, 2039e9),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 80, 3350e9),
    "NVIDIA H200": Chip(989e12, 141, 4800e9),
}

# Their equation alone does not tell how often a device runs their body.
_UNCOUNTED = ("while", "shard_map", "pallas_call")


def train_flops_per_image(model: nn.Module, params: Any, image_size: int) -> int:
    """Returns the model FLOPs of training on one image: three times those of the forward pass.

    For each product of the forward pass, the backward pass computes two of the same size, the
    gradients of its factors. (The images need no gradient; the convention ignores this 0.3% of
    Mixer-B/16.) Recomputation to save memory does not count: "model FLOPs" are what the model
    needs, however it is run.

    Source: Chowdhery et al., 2022 (arXiv:2204.02311), Appendix B.
    """
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    return 3 * matmul_flops(lambda p, x: model.apply({"params": p}, x), params, images)


def matmul_flops(function: Callable[..., Any], *abstract_args: Any) -> int:
    """Returns the FLOPs of the matrix products and convolutions of a call, two per multiply-add.

    The padding of a convolution counts, and of a condition the most expensive branch.

    Raises:
      ValueError: a product in a loop of unknown length, or in a kernel.
    """
    return _flops(jax.make_jaxpr(function)(*abstract_args))


def _flops(jaxpr: Any) -> int:
    return sum(_equation_flops(equation) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _equation_flops(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name in ("dot_general", "conv_general_dilated"):
        left, right = (variable.aval.shape for variable in equation.invars)
        if name == "dot_general":
            terms = math.prod(left[axis] for axis in params["dimension_numbers"][0][0])
        else:
            terms = math.prod(right) // right[params["dimension_numbers"].rhs_spec[0]]
        return 2 * terms * math.prod(equation.outvars[0].aval.shape)
    inner = [_flops(leaf) for leaf in jax.tree.leaves(params) if hasattr(leaf, "eqns")]
    if name in _UNCOUNTED and any(inner):
        raise ValueError(f"Expected matrix products that can be counted; got one in a {name!r}.")
    return max(inner, default=0) if name == "cond" else sum(inner) * params.get("length", 1)
