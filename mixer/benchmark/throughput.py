"""Throughput of a model on the devices of this machine, beside the matrix peak measured there.

The paper reports images/s/core at the best of several batch sizes (Table 3); so does this.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mixer.benchmark import workloads
from mixer.benchmark.timing import Workload, is_out_of_memory, spread, time_calls, warm_up
from mixer.flops import CHIPS, train_flops_per_image

_GIB = 2**30
# m, k, n of the product [m, k] [k, n] that stands for the matrix peak: large enough that a larger
# one is no faster, small enough that a CPU has done it in a fraction of a second.
_PRODUCT = {"cpu": (4096, 1024, 4096)}
_LARGE_PRODUCT = (8192, 8192, 8192)


def measure_matrix_peak(dtype: str, *, seconds: float, windows: int) -> float:
    """Returns the TFLOP/s of the fastest window of a large matrix product on one device."""
    m, k, n = _PRODUCT.get(jax.default_backend(), _LARGE_PRODUCT)
    product = workloads.matrix_product(dtype, (m, k, n))
    calls = warm_up(product, seconds)
    return max(time_calls(product, calls) for _ in range(windows)) * 2 * m * k * n / 1e12


def measure_throughput(
    model: nn.Module,
    *,
    mode: str,
    image_size: int,
    batch_sizes: Sequence[int],
    mesh: Mesh,
    matrix_tflops: float,
    seconds: float,
    windows: int,
) -> dict[str, Any]:
    """Returns the throughput of a model at one image size, a plain dict for JSON.

    `rows` holds an entry for each batch size, images per device: `measure_batch_size` says what is
    in it; one that does not fit into memory has `out_of_memory`. `best` is the row with the highest
    median of images/s/core, None if nothing fits. `mode` is "train", the step of the pre-training
    on ImageNet, or "infer".

    Raises:
      ValueError: the images do not split into patches.
    """

    def build(batch_size: int) -> Workload:
        images = batch_size * mesh.size
        if mode == "train":
            return workloads.training(
                model, batch_size=images, image_size=image_size, mesh=mesh, **workloads.RECIPE_STEP
            )
        return workloads.inference(model, batch_size=images, image_size=image_size, mesh=mesh)

    sample = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), sample)["params"]
    training_flops = train_flops_per_image(model, params, image_size)
    flops_per_image = training_flops if mode == "train" else training_flops // 3
    rows: list[dict[str, Any]] = []
    for batch_size in batch_sizes:
        try:
            row = measure_batch_size(
                build,
                batch_size,
                mesh=mesh,
                flops_per_image=flops_per_image,
                matrix_tflops=matrix_tflops,
                seconds=seconds,
                windows=windows,
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            row = {"batch_size": batch_size, "out_of_memory": True}
        rows.append(row)
    fitting = [row for row in rows if "out_of_memory" not in row]
    return {
        "image_size": image_size,
        "tokens": (image_size // model.patch_size) ** 2,
        "gflops_per_image": flops_per_image / 1e9,
        "rows": rows,
        "best": max(fitting, key=lambda row: row["images_per_s_per_core"]["median"], default=None),
    }


def measure_batch_size(
    build: Callable[[int], Workload],
    batch_size: int,
    *,
    mesh: Mesh,
    flops_per_image: float,
    matrix_tflops: float,
    seconds: float,
    windows: int,
) -> dict[str, Any]:
    """Returns the row of a batch size: `images_per_s_per_core` with its spread over the windows.

    `tflops_per_device` and its share of the matrix peak, `matrix_share`, follow from its median.
    `peak_memory_gib` of a device is what `peak_memory_from` counted: the device itself if it does
    and this row reached a new peak, otherwise the compiler.
    """
    workload = build(batch_size)
    before = _peak_bytes(mesh)
    calls = warm_up(workload, seconds)
    paces = [time_calls(workload, calls) for _ in range(windows)]
    images_per_s = spread([pace * batch_size for pace in paces])  # of one device
    tflops = images_per_s["median"] * flops_per_image / 1e12
    after = _peak_bytes(mesh)
    counted = after if after is not None and after != before else workload.program_bytes
    return {
        "batch_size": batch_size,
        "images_per_s_per_core": {
            name: value / cores_per_device(mesh) for name, value in images_per_s.items()
        },
        "tflops_per_device": tflops,
        "matrix_share": tflops / matrix_tflops,
        "peak_memory_gib": None if counted is None else counted / _GIB,
        "peak_memory_from": "compiler" if counted is workload.program_bytes else "device",
        "compile_s": workload.compile_s,
    }


def cores_per_device(mesh: Mesh) -> int:
    """Returns the cores of a device as clouds count them; 1 for one that is not in the table."""
    chip = CHIPS.get(mesh.devices.flat[0].device_kind)
    return chip.cores if chip else 1


def describe_devices(mesh: Mesh) -> dict[str, Any]:
    """Returns what measures: the devices, their cores, and the host with its load in processes.

    A load well above 0 before the measurement means that others use the host, and that nothing
    that computes on it can be measured.
    """
    return {
        "device": mesh.devices.flat[0].device_kind,
        "num_devices": mesh.size,
        "num_cores": mesh.size * cores_per_device(mesh),
        "host_cpus": os.cpu_count(),
        "host_load": os.getloadavg()[0],
        "jax": jax.__version__,
    }


def _peak_bytes(mesh: Mesh) -> int | None:
    """Returns the most bytes that a device ever held, None if it does not count them."""
    return (mesh.local_devices[0].memory_stats() or {}).get("peak_bytes_in_use")
