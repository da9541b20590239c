"""Describes the devices of a Cloud TPU slice, to compile for them without having one."""

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.experimental import topologies


@dataclasses.dataclass(frozen=True)
class _Generation:
    counted_per_chip: int  # by the number in the name of a slice: cores or chips
    dimensions: int  # of the interconnect
    max_chips: int  # of a pod, or as many as are tested
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # for libtpu
    min_chips: int = 4  # a host


# Source: cloud.google.com/tpu/docs, the page of each generation, "Configurations". "v4-8" and
# "v5p-8" count cores, although a chip is one device.
_GENERATIONS = {
    "v2": _Generation(2, 2, 256),
    "v3": _Generation(2, 2, 1024),
    "v4": _Generation(2, 3, 1024, {"chip_config_name": "megacore"}),
    "v5e": _Generation(1, 2, 256, min_chips=1),
    "v5p": _Generation(2, 3, 1024, {"chip_config_name": "megacore"}),
    "v6e": _Generation(1, 2, 256, min_chips=1),
}
# Every spelling -> that of people. gcloud says v5litepod.
GENERATIONS = {name: name for name in _GENERATIONS} | {"v5litepod": "v5e"}
_HOST_CHIPS = 4

# Without these libtpu looks for a TPU and asks the metadata server of its VM.
_LIBTPU_VARIABLES = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice by its name, perhaps several of the kind that train together (multislice)."""

    generation: str
    number: int  # in the name: cores or chips
    num_slices: int = 1

    def __str__(self) -> str:
        several = f"{self.num_slices}x" if self.num_slices > 1 else ""
        return f"{several}{self.generation}-{self.number}"

    @property
    def chips(self) -> int:
        """Of one slice."""
        return self.number // _GENERATIONS[self.generation].counted_per_chip


def parse_slice(name: str) -> Slice:
    """Returns the slice of a name such as "v3-32", "v5e-16" or "v5litepod-16", or "2xv5e-16".

    Raises:
      ValueError: there is no such slice. Only those with a power of two of chips are supported.
    """
    match = re.fullmatch(r"(?:([1-9]\d*)x)?(v\w+)-(\d+)", name)
    generation = GENERATIONS.get(match[2]) if match else None
    if not match or generation is None:
        raise ValueError(
            f"Expected a topology such as v3-32, with a generation from {', '.join(_GENERATIONS)}, "
            f"or several slices such as 2xv5e-16; got {name!r}."
        )
    kind, number = _GENERATIONS[generation], int(match[3])
    exist = [2**power for power in range(11) if kind.min_chips <= 2**power <= kind.max_chips]
    exist = [chips * kind.counted_per_chip for chips in exist if chips != 2]
    if number not in exist:
        nearest = min(exist, key=lambda size: abs(math.log2(max(number, 1) / size)))
        raise ValueError(
            f"Expected {match[2]}-N with N one of {', '.join(map(str, exist))}; got {name!r}. "
            f"Nearest: {match[2]}-{nearest}."
        )
    return Slice(generation, number, int(match[1] or 1))


def slice_devices(name: str) -> list[jax.Device]:
    """Returns the devices of a slice by its Cloud TPU name; see `parse_slice`.

    Programs can be compiled for these devices but not run on them.

    Raises:
      ValueError: there is no such slice, or libtpu is not installed.
    """
    found = parse_slice(name)
    kind = _GENERATIONS[found.generation]
    options = dict(kind.options)
    if found.num_slices > 1:
        options["num_slices"] = found.num_slices
    if found.chips < _HOST_CHIPS:
        options["chips_per_host_bounds"] = (1, 1, 1)
    shape = "x".join(map(str, _shape(found.chips, kind.dimensions)))
    try:
        with _environment(_LIBTPU_VARIABLES | {"TPU_ACCELERATOR_TYPE": name}):
            description = topologies.get_topology_desc(
                platform="tpu", topology_name=f"{found.generation}:{shape}", **options
            )
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"Cannot get the topology of {name} from libtpu: {error}. Install libtpu: "
            "pip install -r requirements-tpu.txt."
        ) from error
    return list(description.devices)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets variables that are not set; afterwards the environment is as it was, for children."""
    added = variables.keys() - os.environ.keys()
    os.environ.update({name: variables[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def larger_slices(name: str) -> list[str]:
    """Returns the names of the slices with 2, 4, ... times the cores, of the same generation."""
    found = parse_slice(name)
    factors = [2**power for power in range(1, 11)]
    most = _GENERATIONS[found.generation].max_chips
    return [
        str(dataclasses.replace(found, number=found.number * factor))
        for factor in factors
        if found.chips * factor <= most and found.chips * factor != 2
    ]


def num_cores(name: str) -> int:
    """Returns the number in the name of a slice, times the slices; ValueError if there is none."""
    found = parse_slice(name)
    return found.number * found.num_slices


def _shape(chips: int, dimensions: int) -> list[int]:
    """Factors a power of two as evenly as possible into `dimensions` powers of two, ascending."""
    power = chips.bit_length() - 1
    shape = [
        2 ** (power // dimensions + (i >= dimensions - power % dimensions))
        for i in range(dimensions)
    ]
    return sorted(shape, reverse=chips == _HOST_CHIPS and dimensions == 3)
