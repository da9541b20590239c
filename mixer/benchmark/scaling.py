"""How cost grows: with the number of tokens, measured; with the number of devices, counted."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mixer.benchmark import workloads
from mixer.benchmark.workloads import abstract_batch, training_step
from mixer.rehearsal.collectives import count_collectives, mib_sent
from mixer.sharding import create_mesh


def fitted_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Returns p of the power law `cost = factor * size**p`, fitted to the logarithms."""
    slope, _ = np.polyfit(np.log(sizes), np.log(costs), 1)
    return float(slope)


def token_scaling(results: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns the exponents of time and FLOPs per image in the number of tokens.

    Takes the results of `measure_throughput` for several image sizes, each at its best batch size;
    None if fewer than two of them have one.

    Source: section 2, "linear in the number of input patches".
    """
    fitting = [result for result in results if result["best"]]
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


def count_communication(
    model: nn.Module, *, image_size: int, batch_per_device: int, device_counts: Sequence[int]
) -> list[dict[str, Any]]:
    """Returns what a device sends in a training step, for each number of devices; runs nothing.

    Every device has the whole state and `batch_per_device` images (weak scaling, data parallel).
    `sent_mib` is counted from the compiled program, `expected_mib` is 2 (n - 1) / n times the
    gradient, which is what averaging it over n devices takes; `ratio` is None for one device.

    Raises:
      ValueError: there are not so many devices.
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
        batch = abstract_batch(batch_per_device * count, image_size, mesh)
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
