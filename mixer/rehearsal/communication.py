"""Counts the communication between devices in a compiled program, from its HLO text."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mixer.batch import abstract_batch
from mixer.benchmark import workloads
from mixer.benchmark.workloads import training_step
from mixer.sharding import batch_sharding, create_mesh

_BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4}
_BYTES |= {"bf16": 2, "f16": 2, "s16": 2, "u16": 2, "u8": 1, "s8": 1, "pred": 1, "token": 0}
_ORDER = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"  # of devices
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def count_collectives(program: str) -> dict[str, dict[str, float]]:
    """Returns, for each kind of collective in HLO text, its `count` and the `mib` of its results.

    A collective inside a loop, such as gradient accumulation, counts once.
    """
    found: dict[str, dict[str, float]] = {}
    for name, mib, _ in _collectives(program):
        entry = found.setdefault(name, {"count": 0, "mib": 0.0})
        entry["count"] += 1
        entry["mib"] += mib
    return found


def _collectives(program: str) -> Iterator[tuple[str, float, str]]:
    """Yields the kind, the MiB of the results and the attributes of each collective."""
    pattern = rf" = (.*?) ({'|'.join(_COLLECTIVES)})(-start)?\((.*)"
    for shapes, name, start, attributes in re.findall(pattern, program):
        arrays = _arrays(shapes)
        if start and name in ("all-gather", "collective-permute") and shapes.startswith("("):
            arrays = [array for array in arrays if array != ("u32", "")]  # of the network
            arrays = arrays[len(arrays) // 2 :]  # operands, then results
        yield name, _mib(arrays), attributes


def _arrays(shapes: str) -> list[tuple[str, str]]:
    """Returns type and dimensions of each array in a shape of HLO."""
    return re.findall(r"(\w+)\[([\d,]*)\]", shapes)


def _mib(arrays: list[tuple[str, str]]) -> float:
    if unknown := {dtype for dtype, _ in arrays} - _BYTES.keys():
        raise ValueError(f"Expected types of {[*_BYTES]} in a program; got {sorted(unknown)}.")
    sizes = (
        _BYTES[dtype] * math.prod(int(dim) for dim in dims.split(",") if dim)
        for dtype, dims in arrays
    )
    return sum(sizes) / 2**20


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


def mib_between_slices(program: str, slices: Sequence[int]) -> float:
    """Returns the MiB that a slice sends to other slices in a program, the mean over slices.

    `slices` has the slice of each device, in the order of the mesh. In each collective the slices
    are taken as the devices of a ring, as in `mib_sent`: inside, the data is combined before.
    Between slices, programs compiled for TPUs use transfers by the hosts instead of collectives. In
    a loop they count once: the TPU compiler sends an accumulated gradient after the loop.

    Raises:
      ValueError: the groups of a collective or a transfer cannot be read.
    """
    num_slices = len(set(slices))
    total = sum(
        mib * _transfers(kind, targets, num_slices, len(slices))
        for mib, targets, kind in _sends(program)
    )
    for name, mib, attributes in _collectives(program):
        if name == "collective-permute":
            pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", attributes)
            ends = re.findall(r"(\d+),(\d+)", pairs[1]) if pairs else []
            total += mib * sum(slices[int(a)] != slices[int(b)] for a, b in ends)
            continue
        for group in _groups(attributes, len(slices)):
            of_group = [slices[device] for device in group]
            others = len(set(of_group)) - 1
            if name == "all-reduce":
                total += 2 * others * mib
            elif name == "all-gather":
                total += others * mib
            elif name == "reduce-scatter":
                total += others * mib * len(group)  # the result is one part
            elif others:  # all-to-all: to each device its part
                own = sum(of_group.count(number) for number in of_group) / len(group)
                total += mib * (len(group) - own)
    return total / num_slices


def _sends(program: str) -> Iterator[tuple[float, str, str]]:
    """Yields the MiB on each device, the targets and the kind of each transfer between slices."""
    for line in re.findall(r"^.* send\(.*is_host_transfer=true.*$", program, re.MULTILINE):
        shape = re.search(r" = \((\w+\[[\d,]*\])", line)
        targets = re.search(r'_xla_megascale_target=("[^"]*"|\{.*?\}\})', line)
        kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', line)
        if not (shape and targets and kind):
            raise ValueError(f"Expected a transfer between slices; got {line.strip()[:200]!r}.")
        yield _mib(_arrays(shape[1])), targets[1], kind[1]


def _transfers(kind: str, targets: str, num_slices: int, num_devices: int) -> float:
    """Returns how often a part of that kind is sent, by all devices together."""
    others = num_slices - 1
    if kind == "ONE_TO_ONE":
        return targets.count("->")
    if kind not in (kinds := {"ALL_REDUCE": 2 / num_slices, "ALL_GATHER": 1}):
        raise ValueError(f"Expected a transfer between slices of {[*kinds]}; got {kind}.")
    return num_devices * others * kinds[kind]


def _groups(attributes: str, num_devices: int) -> list[list[int]]:
    """Returns the devices that take part together, from the three ways in which XLA writes them."""
    if listed := re.search(r"replica_groups=\{(\{[\d,{}]*\})?\}", attributes):
        groups = re.findall(r"\{([\d,]+)\}", listed[1] or "")
        return [_numbers(group) for group in groups] or [[*range(num_devices)]]
    if tiled := re.search(rf"replica_groups=\[([\d,]+)\]<={_ORDER}", attributes):
        return _ordered(num_devices, *tiled.groups()[1:]).reshape(_numbers(tiled[1])).tolist()
    named = re.search(
        rf"replica_groups=mesh\[((?:'\w+'=\d+,?)+)\](?:, device_ids=\({_ORDER}\))? "
        r"\{((?:'\w+',?)+)\}",
        attributes,
    )
    if not named:
        raise ValueError(f"Expected the replica_groups of a collective; got {attributes[:200]!r}.")
    axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
    inside = [list(axes).index(name) for name in re.findall(r"'(\w+)'", named[4])]
    devices = _ordered(num_devices, named[2], named[3]).reshape(list(axes.values()))
    devices = np.moveaxis(devices, inside, range(-len(inside), 0))
    return devices.reshape(-1, math.prod(devices.shape[-len(inside) :])).tolist()


def _ordered(num_devices: int, dims: str | None, order: str | None) -> np.ndarray:
    """Returns the devices in the order that XLA writes as [DIMS]T(ORDER)."""
    devices = np.arange(num_devices).reshape(_numbers(dims) if dims else -1)
    return devices.transpose(_numbers(order)) if order else devices


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


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
