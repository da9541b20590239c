"""Counts the communication between devices in a compiled program, from its HLO text."""

import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from mixer.batch import abstract_batch
from mixer.benchmark import workloads
from mixer.benchmark.workloads import training_step
from mixer.sharding import batch_sharding, create_mesh

_BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "u8": 1, "s8": 1, "pred": 1}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def count_collectives(program: str) -> dict[str, dict[str, float]]:
    """Returns, for each kind of collective in HLO text, its `count` and the `mib` of its results.

    A collective inside a loop, such as gradient accumulation, counts once.
    """
    found: dict[str, dict[str, float]] = {}
    pattern = rf" = (.*?) ({'|'.join(_COLLECTIVES)})(?:-start)?\("
    for shapes, name in re.findall(pattern, program):
        entry = found.setdefault(name, {"count": 0, "mib": 0.0})
        entry["count"] += 1
        for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            size = _BYTES.get(dtype, 0)
            for dim in filter(None, dims.split(",")):
                size *= int(dim)
            entry["mib"] += size / 2**20
    return found


def mib_sent(collectives: dict[str, dict[str, float]], num_devices: int) -> float:
    """Returns the MiB that each of `num_devices` devices sends for the given collectives.

    `collectives` come from `count_collectives`, and all devices are assumed to take part. The count
    is that of ring algorithms, which are bandwidth-optimal: an all-reduce is a reduce-scatter
    followed by an all-gather, and in each a device forwards all but one part of the array.

    Source: Patarasuk and Yuan, 2009, "Bandwidth optimal all-reduce algorithms".
    """
    others = num_devices - 1
    times_sent = {
        "all-reduce": 2 * others / num_devices,
        "all-gather": others / num_devices,
        "reduce-scatter": others,  # the result is one part
        "all-to-all": others / num_devices,
        "collective-permute": 1,
    }
    return sum(times_sent[name] * entry["mib"] for name, entry in collectives.items())


def count_communication(
    model: nn.Module, *, image_size: int, batch_per_device: int, device_counts: Sequence[int]
) -> list[dict[str, Any]]:
    """Counts what a device sends in a data-parallel training step; compiles it but runs nothing.

    Each device holds the whole state and `batch_per_device` images (weak scaling). The result has
    one row per entry of `device_counts`: `sent_mib` from the compiled program, `expected_mib`,
    2 (n - 1) / n times the gradient, which is the cost of averaging it over n devices, and their
    `ratio`, None for one device.

    Raises:
      ValueError: fewer devices are available than requested.
    """
    rows = []
    for count in device_counts:
        devices = jax.devices()[:count]
        if not 0 < count == len(devices):
            raise ValueError(f"Expected 1 to {jax.device_count()} devices; got {count}.")
        mesh = create_mesh(devices)
        step, state, _ = training_step(
            model, image_size=image_size, mesh=mesh, **workloads.RECIPE_STEP
        )
        batch = abstract_batch(
            batch_sharding(mesh), batch_per_device * count, image_size, labels_per_image=1
        )
        collectives = count_collectives(step.lower(state, batch).compile().as_text())
        gradient = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params))
        sent = mib_sent(collectives, count)
        expected = 2 * (count - 1) / count * gradient / 2**20
        rows.append(
            {
                "num_devices": count,
                "collectives": collectives,
                "sent_mib": sent,
                "expected_mib": expected,
                "ratio": sent / expected if expected else None,
            }
        )
    return rows
