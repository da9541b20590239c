"""What fits this machine's devices, and how long a run takes on them: compiled and timed.

For GPUs and CPUs nothing estimates the time of a step, but they are there.
"""

import dataclasses
import math
from typing import Any

import jax
import psutil
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer.benchmark.timing import Workload, is_out_of_memory, time_calls
from mixer.benchmark.workloads import chained, random_batch
from mixer.build import RunOptions, build_without_data
from mixer.flops import CHIPS, train_flops_per_image
from mixer.sharding import check_batch_size, create_mesh
from mixer.train_loop import Training, create_training
from mixer.train_step import jit_train_step

_GIB = 2**30
_SECONDS = 5.0  # of steps that are timed


def rehearse_here(config: ConfigDict) -> dict[str, Any]:
    """Finds the largest part of a config's batch that fits this machine, and times its step.

    The parts of a batch follow one after the other: `accumulation_steps` is the config's, times a
    power of two. Returns a JSON-compatible dict with the entries of `rehearse_training` that need
    no estimate. Steps are timed on random images that are on the devices already, so `hours` and
    `core_days` are without the input, evaluation and saves.

    Raises:
      ValueError: the dataset is unknown, the batch does not divide evenly, or not even its smallest
        part fits.
    """
    options, labels_per_image = build_without_data(config)
    mesh = create_mesh(jax.devices(), **options.mesh)
    check_batch_size(options.batch_size, mesh, options.accumulation_steps)
    limit = memory_per_device(mesh)
    parts = options.accumulation_steps
    while (found := _part(options, labels_per_image, mesh, parts, limit)) is None:
        parts *= 2
        if options.batch_size % (parts * mesh.size):
            raise ValueError(
                f"Expected a step that fits {limit / _GIB:.1f} GiB per device; even "
                f"{options.batch_size * 2 // parts} images do not. Use model.remat=block, a "
                "smaller model or image_size."
            )
    workload, training, needed = found
    seconds = parts * _seconds_per_call(workload)
    params = training.abstract_state.params
    flops = train_flops_per_image(training.model, params, options.image_size) * options.batch_size
    kind = mesh.devices.flat[0].device_kind
    report = {
        "topology": "this",
        "device": kind,
        "num_cores": mesh.size,
        "fits": True,
        "peak_hbm_gib": needed / _GIB,
        "hbm_limit_gib": limit / _GIB,
        "accumulation_steps": parts,
        "batch_per_core": options.batch_size // parts // mesh.size,
        "estimated_step_ms": seconds * 1e3,
        "estimated_by": "measured",
        "gflops_per_core": flops / mesh.size / 1e9,
        "images_per_s_per_core": options.batch_size / seconds / mesh.size,
        "total_steps": options.total_steps,
        "hours": options.total_steps * seconds / 3600,
        "core_days": options.total_steps * seconds * mesh.size / 86400,
        "compile_s": workload.compile_s,
    }
    if kind in CHIPS:
        report["bound_step_ms"] = flops / mesh.size / CHIPS[kind].flops_per_second * 1e3
    return report


def _seconds_per_call(workload: Workload) -> float:
    workload.run(1)  # not timed, as it may allocate, load and autotune
    seconds = 1 / time_calls(workload, 1)
    if seconds > _SECONDS:
        return seconds
    return 1 / time_calls(workload, math.ceil(_SECONDS / seconds))


def memory_per_device(mesh: Mesh) -> float:
    """Returns the bytes that JAX may use on each device; on a CPU, what is free divided by all."""
    device = mesh.devices.flat[0]
    if device.platform == "cpu":
        return psutil.virtual_memory().available / mesh.size
    return device.memory_stats()["bytes_limit"]


def _part(
    options: RunOptions, labels_per_image: int, mesh: Mesh, parts: int, limit: float
) -> tuple[Workload, Training, float] | None:
    """Returns the step of a part, and the bytes it needs on a device; None if it does not fit."""
    size = options.batch_size // parts
    training = create_training(
        dataclasses.replace(options, batch_size=size, accumulation_steps=1), mesh
    )
    # Between parts, the sum of their gradients is kept.
    sums = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(training.abstract_state.params)
    )
    try:
        batch = random_batch(
            size, options.image_size, options.num_classes, mesh, labels_per_image=labels_per_image
        )
        step = jit_train_step(training.train_step, training.abstract_state)
        workload = chained(step, training.init_state({}), batch)
    except Exception as error:
        if is_out_of_memory(error):
            return None
        raise
    needed = (workload.program_bytes or 0) + (sums if parts > 1 else 0)
    return (workload, training, needed) if needed <= limit else None
