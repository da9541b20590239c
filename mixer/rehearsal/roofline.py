"""A step time from the text of a compiled program and the public figures of a chip.

Each instruction takes the longer of its arithmetic at the peak of the matrix units and its traffic
at the bandwidth of the memory, and they run one after the other. Copies that run beside other
instructions take no time of their own, but no program is faster than its whole traffic.
Vector arithmetic and the network are not counted.

Source: Williams et al., 2009, "Roofline: an insightful visual performance model".
"""

import dataclasses
import math
import re
from collections.abc import Mapping

from mixer.flops import Chip
from mixer.rehearsal.hlo import (
    Computation,
    Instruction,
    array_bytes,
    moved_bytes,
    operands,
    parse_program,
    trip_count,
)

# They move nothing, or stand for what runs elsewhere.
_FREE = frozenset(
    ("parameter", "constant", "bitcast", "get-tuple-element", "tuple", "after-all", "domain")
    + ("partition-id", "replica-id", "opt-barrier", "iota")
)
_FREE_CALLS = ("AllocateBuffer", "ConcatBitcast")  # custom calls of the TPU compiler
_NETWORK = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BESIDE = ("copy-start", "slice-start", "dynamic-slice-start")
_SLICES = ("slice", "dynamic-slice", "gather")
_UNCHANGED = (
    "bitcast",
    "convert",
    "pad",
    "reshape",
    "transpose",
)  # in a fusion: computed on reading


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Of one run of a program on one device."""

    seconds: float
    flops: float
    memory_bytes: float


def roofline(text: str, chip: Chip) -> Roofline:
    """Returns the time, FLOPs and memory traffic of a program, given as HLO text.

    Raises:
      ValueError: an instruction cannot be read.
    """
    computations, entry = parse_program(text)
    counter = _Counter(computations, chip)
    seconds, flops, traffic = counter.total(entry)
    return Roofline(max(seconds, traffic / chip.hbm_bytes_per_second), flops, traffic)


class _Counter:
    def __init__(self, computations: Mapping[str, Computation], chip: Chip):
        self._computations = computations
        self._chip = chip
        self._flops: dict[str, float] = {}  # of what a fusion computes

    def total(self, name: str) -> tuple[float, float, float]:
        """Returns (seconds, FLOPs, bytes) of a computation, loops and branches included."""
        total = (0.0, 0.0, 0.0)
        computation = self._computations[name]
        for instruction in computation.values():
            cost = self._cost(instruction, computation)
            total = (total[0] + cost[0], total[1] + cost[1], total[2] + cost[2])
        return total

    def _cost(self, instruction: Instruction, around: Computation) -> tuple[float, float, float]:
        name = instruction.opcode
        if name in _FREE or name.endswith("-done") or name.startswith(_NETWORK):
            return 0.0, 0.0, 0.0
        if name == "custom-call" and any(call in instruction.attributes for call in _FREE_CALLS):
            return 0.0, 0.0, 0.0
        called = instruction.called
        if name == "while":
            times = trip_count(instruction, around, self._computations)
            body = self.total(called["body"][0])
            return times * body[0], times * body[1], times * body[2]
        if name in ("call", "conditional"):
            return max(self.total(inner) for inners in called.values() for inner in inners)
        if name in _BESIDE:
            return 0.0, 0.0, float(moved_bytes(instruction.shape))
        traffic = float(self._written(instruction, around) + self._read_bytes(instruction, around))
        flops = self._product(instruction, around)
        flops += sum(self._inner_flops(inner) for inners in called.values() for inner in inners)
        at_peak = flops / self._chip.flops_per_second
        return max(at_peak, traffic / self._chip.hbm_bytes_per_second), flops, traffic

    def _written(self, instruction: Instruction, around: Computation) -> int:
        """Returns what is written to memory: of an array updated in place, the update."""
        whole = array_bytes(instruction.shape)
        if whole and instruction.opcode == "dynamic-update-slice":
            return min(whole, array_bytes(around[operands(instruction)[1]].shape))
        if whole and instruction.opcode == "fusion":
            fused = self._computations[instruction.called["calls"][0]]
            root = list(fused.values())[-1]
            outs = [fused[name] for name in operands(root)] if root.opcode == "tuple" else [root]
            for out in (_origin(fused, out) for out in outs):
                if out.opcode == "dynamic-update-slice":
                    update = fused[operands(out)[1]]
                    whole -= array_bytes(out.shape) - array_bytes(update.shape)
        return max(whole, 0)

    def _read_bytes(self, instruction: Instruction, around: Computation) -> int:
        """Returns what an instruction reads from memory: of an array that it slices, the slices."""
        sources = operands(instruction)
        read = 0
        for source in dict.fromkeys(source for source in sources if source in around):
            whole = array_bytes(around[source].shape)
            if whole and instruction.opcode in _SLICES:
                whole = min(whole, array_bytes(instruction.shape))
            elif whole and instruction.opcode == "dynamic-update-slice":
                whole *= sources.index(source) != 0
            elif whole and instruction.opcode == "fusion":
                fused = self._computations[instruction.called["calls"][0]]
                whole = min(whole, self._used_bytes(fused, sources.index(source), whole))
            read += whole
        return read

    def _used_bytes(self, fused: Computation, index: int, whole: int) -> int:
        """Returns the bytes that a fused computation uses of an argument of `whole` bytes."""
        name = next(
            name
            for name, found in fused.items()
            if found.opcode == "parameter" and found.attributes.startswith(f"{index})")
        )
        return self._used_of(fused, name, whole)

    def _used_of(self, fused: Computation, name: str, whole: int) -> int:
        used = 0
        for user, found in fused.items():
            arguments = operands(found)
            if name not in arguments:
                continue
            if found.opcode == "dynamic-update-slice" and arguments[0] == name:
                continue
            if found.opcode in _SLICES and arguments[0] == name:
                used += array_bytes(found.shape)
            elif found.opcode in _UNCHANGED:
                used += self._used_of(fused, user, whole)
            elif found.opcode == "fusion":
                inner = self._computations[found.called["calls"][0]]
                used += self._used_bytes(inner, arguments.index(name), whole)
            else:
                return whole
        return used

    def _inner_flops(self, name: str) -> float:
        if name not in self._flops:
            computation = self._computations[name]
            self._flops[name] = sum(
                self._product(instruction, computation)
                + sum(self._inner_flops(i) for inner in instruction.called.values() for i in inner)
                for instruction in computation.values()
            )
        return self._flops[name]

    @staticmethod
    def _product(instruction: Instruction, around: Computation) -> float:
        """Returns the FLOPs of a product or convolution; 0 for another instruction."""
        if instruction.opcode not in ("dot", "convolution"):
            return 0.0
        left, right = (around[source].dims for source in operands(instruction)[:2])
        if instruction.opcode == "dot":
            axes = instruction.numbers("lhs_contracting_dims")
            return 2.0 * math.prod(instruction.dims) * math.prod(left[axis] for axis in axes)
        return _convolution_flops(instruction, left, right)


def _origin(fused: Computation, instruction: Instruction) -> Instruction:
    """Returns what a result of a fusion is another view of."""
    while instruction.opcode == "bitcast":
        instruction = fused[operands(instruction)[0]]
    return instruction


def _convolution_flops(instruction: Instruction, left: list[int], right: list[int]) -> float:
    """Returns two FLOPs for each product of a kernel element with one that is no padding."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if not labels:
        raise ValueError(f"Expected dim_labels of a convolution; got {instruction.attributes}.")
    left_labels, right_labels, out_labels = labels.groups()
    rank = sum(label.isdigit() for label in left_labels)
    window = {
        name: instruction.window(name, default, rank)
        for name, default in (
            ("stride", "1"),
            ("pad", "0_0"),
            ("lhs_dilate", "1"),
            ("rhs_dilate", "1"),
        )
    }
    flops = 2.0 * right[right_labels.index("i")]
    flops *= math.prod(instruction.dims[out_labels.index(label)] for label in "bf")
    for axis in range(rank):
        size = left[left_labels.index(str(axis))]
        kernel = right[right_labels.index(str(axis))]
        stride, dilate, spread = (
            int(window[name][axis]) for name in ("stride", "lhs_dilate", "rhs_dilate")
        )
        before = int(window["pad"][axis].partition("_")[0])
        flops *= sum(
            0 <= at <= (size - 1) * dilate and at % dilate == 0
            for out in range(instruction.dims[out_labels.index(str(axis))])
            for at in (out * stride + k * spread - before for k in range(kernel))
        )
    return flops
