"""Compiles the real step of a config for a TPU slice, on a machine without one.

The compiled program shows whether the step fits in memory and what it computes and sends. The step
time is the compiler's estimate for one device, without waiting for the network, so a measured step
takes longer. These figures have not yet been compared with a TPU. For large steps on v5e and v6e
the compiler of today has no estimate: some of its instructions have unknown costs.
"""

import re
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer.batch import DeviceBatch, abstract_batch, normalize_images
from mixer.build import RunOptions, build_without_data
from mixer.flops import CHIPS, Chip, matmul_flops, train_flops_per_image
from mixer.models import TITLES, build_model, title_of
from mixer.paper.reference import Result, table3_rows
from mixer.rehearsal.communication import count_collectives
from mixer.rehearsal.topology import larger_slices, slice_devices
from mixer.sharding import batch_sharding, check_batch_size, create_mesh, replicated
from mixer.train_loop import create_training

_GIB = 2**30
# libtpu's messages for a program that does not fit, with the memory needed and available.
_SIZE = r"([\d.]+)([MG])"
_OUT_OF_MEMORY = rf"(?:Used |temporaries \(){_SIZE}\)? (?:of|exceeds available HBM) \(?{_SIZE}"


def rehearse_training(config: ConfigDict, topology: str) -> dict[str, Any]:
    """Compiles the training step of a config for a slice such as "v3-32".

    Returns a JSON-compatible dict. Per step, it has the model's FLOPs, estimated and minimal time
    in ms, and `collectives` with their count and the MiB that each device receives. `hours` and
    `core_days` of the run follow from the estimate. Where the compiler has no estimate, these three
    are missing. If a device has too little memory, `fits` is False, `peak_hbm_gib` is the
    compiler's request, and the entries of a compiled program are missing.

    Raises:
      ValueError: the topology or dataset is unknown, or the batch does not divide evenly.
    """
    options, labels_per_image = build_without_data(config)
    mesh = create_mesh(slice_devices(topology), **options.mesh)
    check_batch_size(options.batch_size, mesh, options.accumulation_steps)
    training = create_training(options, mesh)
    shape = options.batch_size, options.image_size, labels_per_image
    batch = abstract_batch(training.batch_sharding, *shape)
    state, loops = training.abstract_state, options.accumulation_steps
    params = state.params
    flops = train_flops_per_image(training.model, params, options.image_size) * options.batch_size
    report = _compile(training.train_step, state, batch, mesh=mesh, flops=flops, loops=loops)
    report |= {"topology": topology, "total_steps": options.total_steps}
    report["batch_per_core"] = options.batch_size // mesh.size
    paper = _paper_row(options)
    if paper:
        report["paper_core_days"] = paper.tpu_v3_core_days
    if "estimated_step_ms" in report:
        seconds = report["estimated_step_ms"] / 1e3
        cores = mesh.size * CHIPS[mesh.devices.flat[0].device_kind].cores
        report["images_per_s_per_core"] = options.batch_size / seconds / cores
        report["hours"] = options.total_steps * seconds / 3600
        report["core_days"] = report["hours"] * cores / 24
    return report


def rehearse_inference(config: ConfigDict, topology: str, batch_per_core: int) -> dict[str, Any]:
    """Like `rehearse_training`, for the forward pass with `batch_per_core` images per device."""
    options, _ = build_without_data(config)
    model = build_model(**options.model, num_classes=options.num_classes)
    report = rehearse_forward_pass(model, options.image_size, topology, batch_per_core)
    paper = _paper_row(options)
    if paper:
        report["paper_images_per_s_per_core"] = paper.img_per_sec_per_core
    return report


def rehearse_forward_pass(
    model: nn.Module, image_size: int, topology: str, batch_per_core: int
) -> dict[str, Any]:
    """Like `rehearse_inference`, for a model that is built already."""
    mesh = create_mesh(slice_devices(topology))
    batch = abstract_batch(
        batch_sharding(mesh), batch_per_core * mesh.size, image_size, labels_per_image=1
    )

    def infer(params: Any, batch: DeviceBatch) -> Any:
        return model.apply({"params": params}, normalize_images(batch["images"]))

    sample = jnp.zeros((1, image_size, image_size, 3))
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)),
        jax.eval_shape(model.init, jax.random.key(0), sample)["params"],
    )
    step = jax.jit(infer, out_shardings=batch_sharding(mesh))
    flops = matmul_flops(infer, params, batch)
    report = {"topology": topology} | _compile(step, params, batch, mesh=mesh, flops=flops)
    report["batch_per_core"] = batch_per_core
    if "estimated_step_ms" in report:
        images = batch_per_core / CHIPS[mesh.devices.flat[0].device_kind].cores
        report["images_per_s_per_core"] = images / report["estimated_step_ms"] * 1e3
    return report


def smallest_change_that_fits(config: ConfigDict, topology: str) -> tuple[str, dict[str, Any]]:
    """Finds the cheapest change that makes a config fit; returns it as flags, with its report.

    Each candidate is compiled, in order of increasing cost: shard the state, rematerialise
    elementwise operations, accumulate gradients, rematerialise whole blocks, use a larger slice.

    Raises:
      ValueError: none of them fits.
    """
    divided = {"mesh.data": 1, "mesh.fsdp": -1}
    again = divided | {"model.remat": "elementwise"}
    changes: list[dict[str, Any]] = [divided, again]
    changes += [again | {"accumulation_steps": steps} for steps in (2, 4, 8)]
    changes += [divided | {"model.remat": "block", "accumulation_steps": 8}]
    tries = [(topology, change) for change in changes]
    tries += [(larger, {}) for larger in larger_slices(topology)]
    for where, change in tries:
        changed = ConfigDict(config.to_dict())
        changed.update_from_flattened_dict(change)
        if where == topology and changed.to_dict() == config.to_dict():
            continue
        try:
            report = rehearse_training(changed, where)
        except ValueError:
            continue  # the batch does not divide evenly
        if report["fits"]:
            flags = " ".join(f"--config.{key}={value}" for key, value in change.items())
            return flags or f"--topology={where}", report
    raise ValueError(f"No change fits on {topology} or a larger slice. Use a smaller batch.")


def _paper_row(options: RunOptions) -> Result | None:
    """Returns the row of Table 3 for a pre-training config, or None."""
    config, name, variant = options.config, options.model["name"], options.model.get("variant")
    if name not in TITLES or variant is None:
        return None
    pretrain = "imagenet" if config["dataset"] == "imagenet2012" else config["dataset"]
    wanted = (pretrain, title_of(name, variant), options.image_size, config.get("num_epochs"))
    for row in table3_rows():
        if (row.pretrain, row.model, row.image_size, row.pretrain_epochs) == wanted:
            return row
    return None


def _compile(step: Any, *args: Any, mesh: Mesh, flops: int, loops: int = 1) -> dict[str, Any]:
    """Compiles and reports. `flops` are the model's of a step, on all devices.

    The compiler's estimate is multiplied by `loops`, as XLA counts a loop body once.
    """
    chip = CHIPS[mesh.devices.flat[0].device_kind]
    report: dict[str, Any] = {"num_cores": mesh.size * chip.cores, "hbm_limit_gib": chip.hbm_gib}
    start = time.monotonic()
    try:
        compiled = step.lower(*args).compile()
    except jax.errors.JaxRuntimeError as error:
        used = re.search(_OUT_OF_MEMORY, str(error))
        if not used:
            raise
        peak, limit = (_gib(used[1], used[2]), _gib(used[3], used[4]))
        return report | {"fits": False, "peak_hbm_gib": peak, "hbm_limit_gib": limit}
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = arguments + temporaries + outputs + memory.generated_code_size_in_bytes
    return report | {
        "fits": peak <= chip.hbm_gib * _GIB,
        "compile_s": time.monotonic() - start,
        "arguments_gib": arguments / _GIB,
        "temp_gib": temporaries / _GIB,
        "peak_hbm_gib": peak / _GIB,
        "gflops_per_core": flops / mesh.size / chip.cores / 1e9,
        **times(flops / mesh.size, loops * cost["optimal_seconds"], chip),
        "collectives": count_collectives(compiled.as_text()),
    }


def times(flops: float, estimated_seconds: float, chip: Chip) -> dict[str, float]:
    """Returns the least time of a step of a device in ms, and the estimate if it can be one.

    An instruction of unknown cost makes the compiler's sum negative, or less than the FLOPs take
    at the peak rate of the chip.
    """
    bound = flops / chip.flops_per_second
    found = {"bound_step_ms": bound * 1e3}
    if estimated_seconds >= bound:
        found["estimated_step_ms"] = estimated_seconds * 1e3
    return found


def _gib(number: str, unit: str) -> float:
    return float(number) / (1024 if unit == "M" else 1)
