"""The device mesh, and which device holds which part of the batch and of the state.

The mesh has two axes. The batch is divided over both. Parameters and optimizer state are divided
over `fsdp` and replicated over `data`, so with `fsdp=1` every device holds all of them.

Several TPU slices that train together (multislice) are further copies along `data`: the network
between them is slow, so only gradients cross it, and every slice holds the whole state.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")


def create_mesh(
    devices: Sequence[jax.Device] | None = None, *, data: int = -1, fsdp: int = 1
) -> Mesh:
    """Returns a mesh `data` x `fsdp` of the devices, by default those of all processes.

    The sizes are those within a slice; with n slices, the mesh is n * `data` x `fsdp`. One of the
    two may be -1: all the devices of a slice that are left.

    Raises:
      ValueError: the sizes do not multiply to the number of devices of a slice.
    """
    devices = jax.devices() if devices is None else devices
    slices = [[d for d in devices if slice_of(d) == i] for i in sorted(set(map(slice_of, devices)))]
    per_slice = len(slices[0])
    sizes = {"data": data, "fsdp": fsdp}
    for axis, other in (AXES, AXES[::-1]):
        if sizes[axis] == -1 and sizes[other] > 0:
            sizes[axis] = per_slice // sizes[other]
    if min(sizes.values()) < 1 or {sizes["data"] * sizes["fsdp"]} != set(map(len, slices)):
        of_slice = f" of each of {len(slices)} slices" if len(slices) > 1 else ""
        raise ValueError(
            f"Expected mesh.data x mesh.fsdp to be the {per_slice} devices{of_slice}; got {data} x "
            f"{fsdp}. Set one of them to -1 and the other to a divisor of {per_slice}."
        )
    shape = tuple(sizes.values())
    grids = [jax.make_mesh(shape, AXES, devices=devices).devices for devices in slices]
    return Mesh(np.concatenate(grids), AXES, axis_types=(AxisType.Auto,) * 2)


def slice_of(device: jax.Device) -> int:
    """Returns the number of the slice that a device is part of: devices with a fast network."""
    return getattr(device, "slice_index", 0)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of `[B, ...]` arrays: the examples are divided over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(mesh: Mesh, state: Any) -> Any:
    """Returns the tree of shardings of parameters, optimizer state or gradients.

    Every matrix is divided over `fsdp` along its longest dimension that `fsdp` divides. Vectors
    (biases, normalisation) and matrices without such a dimension are replicated.
    """
    fsdp = mesh.shape["fsdp"]

    def shard(leaf: Any) -> NamedSharding:
        fitting = [axis for axis, size in enumerate(leaf.shape) if size % fsdp == 0]
        if fsdp == 1 or len(leaf.shape) < 2 or not fitting:
            return replicated(mesh)
        longest = max(fitting, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))

    return jax.tree.map(shard, state)


def check_batch_size(batch_size: int, mesh: Mesh, accumulation_steps: int = 1) -> None:
    """Raises ValueError unless the global batch divides into parts for every device."""
    if accumulation_steps < 1:
        raise ValueError(f"Expected accumulation_steps of at least 1; got {accumulation_steps}.")
    parts = mesh.size * accumulation_steps
    if batch_size <= 0 or batch_size % parts:
        below = max(batch_size, 0) // parts * parts
        fits = " or ".join(str(size) for size in (below, below + parts) if size)
        times = f" x {accumulation_steps} accumulation_steps" if accumulation_steps > 1 else ""
        raise ValueError(
            f"Expected a global batch_size divisible by the {mesh.size} devices{times}; got "
            f"{batch_size}. Nearest that fit: {fits}."
        )


def local_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """Returns the rows of the global batch that this process reads, ascending, `int64 [rows]`."""
    parts = sharding.addressable_devices_indices_map((batch_size,)).values()
    rows = {row for part in parts if part for row in range(*part[0].indices(batch_size))}
    return np.array(sorted(rows), np.int64)


def to_global(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Returns the global batch on the devices from the rows of this process (`local_rows`)."""
    return {
        name: jax.make_array_from_process_local_data(sharding, local)
        for name, local in batch.items()
    }
