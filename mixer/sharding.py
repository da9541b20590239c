"""The device mesh, and which device holds which part of the batch and of the state."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def create_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of the devices, by default all of all processes, with one axis, `data`."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh(
        (len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=tuple(devices)
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of `[B, ...]` arrays: examples divided over the axis `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole: parameters, optimizer state."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError unless the global batch divides evenly over the devices."""
    devices = mesh.size
    if batch_size <= 0 or batch_size % devices:
        below = max(batch_size, 0) // devices * devices
        fits = " or ".join(str(size) for size in (below, below + devices) if size)
        raise ValueError(
            f"Expected a global batch_size divisible by the {devices} devices; got {batch_size}. "
            f"Nearest that fit: {fits}."
        )


def local_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """Returns the rows of the global batch that this process feeds, ascending, `int64 [rows]`."""
    parts = sharding.addressable_devices_indices_map((batch_size,)).values()
    rows = {row for part in parts if part for row in range(*part[0].indices(batch_size))}
    return np.array(sorted(rows), np.int64)


def to_global(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Returns the global device batch from this process's rows of it (`local_rows`)."""
    return {
        name: jax.make_array_from_process_local_data(sharding, local)
        for name, local in batch.items()
    }
