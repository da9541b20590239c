"""Training and inference throughput on local devices, relative to their measured matmul peak.

As in Table 3 of the paper, the result is images/s/core at the best of several batch sizes.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mixer.benchmark import workloads
from mixer.benchmark.timing import Workload, is_out_of_memory, spread, time_calls, warm_up
from mixer.flops import CHIPS, train_flops_per_image

_GIB = 2**30
# m, k, n of the product [m, k] @ [k, n] that defines the peak: large enough to saturate the device,
# small enough to take a CPU only a fraction of a second.
_PRODUCT = {"cpu": (4096, 1024, 4096)}
_LARGE_PRODUCT = (8192, 8192, 8192)


def measure_matrix_peak(dtype: str, *, seconds: float, windows: int) -> float:
    """Returns the TFLOP/s of a large matrix product on one device, in the fastest window."""
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
    """Measures training ("train", the ImageNet pre-training step) or inference ("infer").

    `image_size` is the side in pixels, `batch_sizes` are in images per device, `matrix_tflops` is
    from `measure_matrix_peak`, and `seconds` is the length of each of the `windows`.

    Returns a JSON-compatible dict: `rows` has the result of `measure_batch_size` for each batch
    size, or `out_of_memory` if it does not fit; `best` is the row with the highest median
    images/s/core, None if nothing fits; `tokens` is None for a model without patches.

    Raises:
      ValueError: `image_size` is not a multiple of the patch size.
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
        "tokens": _tokens(model, image_size),
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
    """Measures the workload that `build` makes for `batch_size` images per device.

    Returns a JSON-compatible dict. `images_per_s_per_core` has the median, min and max over the
    windows; `tflops_per_device` and `matrix_share`, its fraction of the peak, follow from the
    median. `peak_memory_gib` per device is counted by the device if this run set a new peak,
    otherwise by the compiler (`peak_memory_from`).
    """
    workload = build(batch_size)
    before = _peak_bytes(mesh)
    calls = warm_up(workload, seconds)
    paces = [time_calls(workload, calls) for _ in range(windows)]
    images_per_s = spread([pace * batch_size for pace in paces])  # per device
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
    """Returns the cores per device as cloud providers count them; 1 for an unknown device."""
    chip = CHIPS.get(mesh.devices.flat[0].device_kind)
    return chip.cores if chip else 1


def describe_devices(mesh: Mesh) -> dict[str, Any]:
    """Returns a JSON-compatible description of the devices and the host.

    If `host_load`, the load average, is well above 0 before a run, CPU timings are unreliable.
    """
    return {
        "device": mesh.devices.flat[0].device_kind,
        "num_devices": mesh.size,
        "num_cores": mesh.size * cores_per_device(mesh),
        "host_cpus": os.cpu_count(),
        "host_load": os.getloadavg()[0],
        "jax": jax.__version__,
    }


def fitted_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Returns the exponent p of the power law `cost = factor * size**p`, fitted in log space."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def token_scaling(results: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns the exponents with which time and FLOPs per image grow with the number of tokens.

    `results` come from `measure_throughput` at several image sizes; None if fewer than two fit in
    memory, or the model has no tokens. Source: section 2, "linear in the number of input patches".
    """
    fitting = [result for result in results if result["best"] and result["tokens"]]
    if len(fitting) < 2:
        return None
    tokens = [result["tokens"] for result in fitting]
    seconds = [1 / result["best"]["images_per_s_per_core"]["median"] for result in fitting]
    gflops = [result["gflops_per_image"] for result in fitting]
    return {
        "tokens": tokens,
        "time_exponent": fitted_exponent(tokens, seconds),
        "flops_exponent": fitted_exponent(tokens, gflops),
    }


def _tokens(model: nn.Module, image_size: int) -> int | None:
    """Returns the patches of an image, and the class token if there is one."""
    patch_size = getattr(model, "patch_size", None)
    if patch_size is None:
        return None
    return (image_size // patch_size) ** 2 + (getattr(model, "pool", "gap") == "token")


def _peak_bytes(mesh: Mesh) -> int | None:
    """Returns the peak memory of the first local device in bytes, or None if it is not tracked."""
    return (mesh.local_devices[0].memory_stats() or {}).get("peak_bytes_in_use")
