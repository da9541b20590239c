"""Describes the devices of a Cloud TPU slice, to compile for them without having one."""

import math
import os
import re

import jax
from jax.experimental import topologies

# generation -> (cores per chip in slice names, dimensions of the interconnect, libtpu options).
# Source: cloud.google.com/tpu/docs. "v4-8" and "v5p-8" count cores, although a chip is one device.
_GENERATIONS: dict[str, tuple[int, int, dict[str, str]]] = {
    "v2": (2, 2, {}),
    "v3": (2, 2, {}),
    "v4": (2, 3, {"chip_config_name": "megacore"}),
    "v5e": (1, 2, {}),
    "v5p": (2, 3, {"chip_config_name": "megacore"}),
    "v6e": (1, 2, {}),
}
_MAX_CHIPS = 1024
_MIN_CHIPS = 4  # one host


def slice_devices(name: str) -> list[jax.Device]:
    """Returns the devices of a slice by its Cloud TPU name, such as "v3-32".

    Programs can be compiled for these devices but not run on them. Only slices with a power of two
    of chips are supported.

    Raises:
      ValueError: there is no such slice, or libtpu is not installed.
    """
    chips, counted = _chips(name)
    generation = name.partition("-")[0]
    _, dimensions, options = _GENERATIONS[generation]
    # Otherwise libtpu queries a TPU and the metadata server of its VM.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", name)
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        description = topologies.get_topology_desc(
            platform="tpu",
            topology_name=f"{generation}:{'x'.join(map(str, _shape(chips, dimensions)))}",
            **options,
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"Cannot get the topology of {name} ({counted} cores) from libtpu: {error}. Install "
            "libtpu: pip install -r requirements-tpu.txt."
        ) from error
    return list(description.devices)


def larger_slices(name: str) -> list[str]:
    """Returns the names of the slices with 2, 4, ... times the cores, of the same generation."""
    chips, counted = _chips(name)
    factors = [2**power for power in range(1, 12) if chips * 2**power <= _MAX_CHIPS]
    return [f"{name.partition('-')[0]}-{counted * factor}" for factor in factors]


def num_cores(name: str) -> int:
    """Returns the number in the name of a slice; ValueError if there is no such slice."""
    return _chips(name)[1]


def _chips(name: str) -> tuple[int, int]:
    """Returns the number of chips of a slice, and the number of cores in its name."""
    match = re.fullmatch(r"(v\w+)-(\d+)", name)
    if not match or match[1] not in _GENERATIONS:
        raise ValueError(
            f"Expected a topology such as v3-32, with a generation from {', '.join(_GENERATIONS)}; "
            f"got {name!r}."
        )
    counted, per_chip = int(match[2]), _GENERATIONS[match[1]][0]
    chips = counted // per_chip
    if counted % per_chip or chips & (chips - 1) or not _MIN_CHIPS <= chips <= _MAX_CHIPS:
        exist = [per_chip * 2**power for power in range(2, 11)]
        nearest = min(exist, key=lambda size: abs(math.log2(max(counted, 1) / size)))
        raise ValueError(
            f"Expected {match[1]}-N with N one of {', '.join(map(str, exist))}; got {name!r}. "
            f"Nearest: {match[1]}-{nearest}."
        )
    return chips, counted


def _shape(chips: int, dimensions: int) -> list[int]:
    """Factors a power of two as evenly as possible into `dimensions` powers of two, ascending."""
    power = chips.bit_length() - 1
    shape = [
        2 ** (power // dimensions + (i >= dimensions - power % dimensions))
        for i in range(dimensions)
    ]
    return sorted(shape, reverse=chips == _MIN_CHIPS and dimensions == 3)
