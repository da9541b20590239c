"""Compiles the real step of a config for a TPU slice, on a machine without one.

The compiled program shows whether the step fits in memory and what it computes and sends. The step
time is an estimate for one device, without waiting for the network, so a measured step takes
longer. It is the compiler's, or for large steps on v4, v5e and v6e, where the compiler of today
does not know the costs of all instructions, a roofline. None has been compared with a TPU yet.
"""

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
from mixer.rehearsal.communication import count_collectives, mib_between_slices
from mixer.rehearsal.compiled import compile_program
from mixer.rehearsal.roofline import Roofline, roofline
from mixer.rehearsal.topology import larger_slices, parse_slice, slice_devices
from mixer.sharding import batch_sharding, check_batch_size, create_mesh, replicated, slice_of
from mixer.train_loop import create_training
from mixer.train_step import jit_train_step

# Of the model's FLOPs that the roofline has to find. It finds 99.7% of Mixer-B/16's: the first
# layer needs no gradient with respect to the images.
_LEAST_SHARE = 0.95


def rehearse_training(config: ConfigDict, topology: str) -> dict[str, Any]:
    """Compiles the training step of a config for a slice such as "v3-32".

    Returns a JSON-compatible dict. Per step, it has the model's FLOPs, the minimal and the
    estimated time in ms, `estimated_by` the compiler or the roofline, and `collectives` with their
    count and the MiB that each device receives; with several slices `between_slices_mib`, what one
    sends to the others. `hours` and `core_days` of the run follow from the estimate; if there is
    none, these are missing. If a device has too little memory, `fits` is False, `peak_hbm_gib` is
    the compiler's request, and the entries of a compiled program are missing.

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
    step = jit_train_step(training.train_step, state)
    report = compile_step(step, state, batch, mesh=mesh, flops=flops, loops=loops)
    report |= {"topology": str(parse_slice(topology)), "total_steps": options.total_steps}
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
    report: dict[str, Any] = {"topology": str(parse_slice(topology))}
    report |= compile_step(step, params, batch, mesh=mesh, flops=flops)
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


def compile_step(step: Any, *args: Any, mesh: Mesh, flops: int, loops: int = 1) -> dict[str, Any]:
    """Compiles and reports. `flops` are the model's of a step, on all devices.

    The compiler's estimate is multiplied by `loops`, as XLA counts a loop body once.

    Raises:
      ValueError: the program cannot be read.
    """
    chip = CHIPS[mesh.devices.flat[0].device_kind]
    program = compile_program(step, *args, mesh=mesh)
    report: dict[str, Any] = {
        "num_cores": mesh.size * chip.cores,
        "num_chips": mesh.size * chip.chips,
        "hbm_limit_gib": program.available_gib or chip.hbm_gib,
        "fits": bool(program.text) and program.peak_hbm_gib <= chip.hbm_gib,
        "peak_hbm_gib": program.peak_hbm_gib,
        "bound_step_ms": flops / mesh.size / chip.flops_per_second * 1e3,
    }
    if not program.text:
        return report
    slices = [slice_of(device) for device in mesh.devices.flat]
    if len(set(slices)) > 1:
        report["between_slices_mib"] = mib_between_slices(program.text, slices)
    return report | {
        "compile_s": program.compile_s,
        "arguments_gib": program.arguments_gib,
        "temp_gib": program.temp_gib,
        "gflops_per_core": flops / mesh.size / chip.cores / 1e9,
        **estimate(
            flops / mesh.size,
            compiler_seconds=loops * program.optimal_seconds,
            found=roofline(program.text, chip),
            chip=chip,
        ),
        "collectives": count_collectives(program.text),
    }


def estimate(
    flops: float, *, compiler_seconds: float, found: Roofline, chip: Chip
) -> dict[str, Any]:
    """Returns the estimate of a device's step in ms, whose it is, and the roofline beside it.

    An instruction of unknown cost makes the compiler's sum negative, or less than the FLOPs take at
    the peak of the chip; then the estimate is the roofline's. That is never below `flops` at the
    peak, and there is none if the program's FLOPs, as it finds them, are not the model's.
    """
    bound = flops / chip.flops_per_second
    report: dict[str, Any] = {}
    if found.flops >= _LEAST_SHARE * flops:
        milliseconds = max(found.seconds, bound) * 1e3
        report = {"roofline_step_ms": milliseconds, "estimated_step_ms": milliseconds}
        report["estimated_by"] = "roofline"
    if compiler_seconds >= bound:
        report |= {"estimated_step_ms": compiler_seconds * 1e3, "estimated_by": "compiler"}
    return report
