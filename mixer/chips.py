"""What one JAX device of each accelerator can do, after the vendors' public specifications.

A TPU v2 or v3 chip is two devices, its cores; of later chips, each is one device.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device: matrix-unit peak in bfloat16, memory and its bandwidth; cores as clouds count."""

    flops_per_second: float
    hbm_gib: float
    hbm_bytes_per_second: float
    cores: int = 1


# By `jax.Device.device_kind`. Source: cloud.google.com/tpu/docs, "System architecture", and
# NVIDIA's data sheets (dense, without sparsity).
CHIPS: dict[str, Chip] = {
    "TPU v2": Chip(22.5e12, 8, 350e9),
    "TPU v3": Chip(61.5e12, 16, 450e9),
    "TPU v4": Chip(275e12, 32, 1228e9, cores=2),
    "TPU v5 lite": Chip(197e12, 16, 819e9),
    "TPU v5": Chip(459e12, 95, 2765e9, cores=2),
    "TPU v6 lite": Chip(918e12, 32, 1640e9),
    "NVIDIA A100-SXM4-40GB": Chip(312e12, 40, 1555e9),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 80, 2039e9),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 80, 3350e9),
    "NVIDIA H200": Chip(989e12, 141, 4800e9),
}
