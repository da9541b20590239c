"""Reads the HLO text of a compiled program: computations, their instructions and shapes."""

import dataclasses
import math
import re
from collections.abc import Mapping

_BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2}
_BYTES |= {"s16": 2, "u16": 2, "u8": 1, "s8": 1, "pred": 1}
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?")
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_CALLED = re.compile(
    r"(calls|condition|body|to_apply|true_computation|false_computation|branch_computations)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    shape: str  # of its result, with layouts; a tuple in brackets
    opcode: str
    attributes: str  # what follows the opcode: operands and the rest

    @property
    def dims(self) -> list[int]:
        """The sizes of the dimensions of its (first) result."""
        found = _ARRAY.search(self.shape)
        return _sizes(found[2]) if found else []

    @property
    def called(self) -> dict[str, list[str]]:
        """The computations that it calls, by the attribute that names them."""
        return {
            kind: re.findall(r"[\w.\-]+", names) for kind, names in _CALLED.findall(self.attributes)
        }

    def numbers(self, name: str) -> list[int]:
        """Returns the numbers of an attribute such as `lhs_contracting_dims={1}`."""
        found = re.search(rf"\b{name}=\{{([\d,]*)\}}", self.attributes)
        return _sizes(found[1]) if found else []

    def window(self, name: str, default: str, rank: int) -> list[str]:
        """Returns the entries of a window, such as `stride=16x16`, for each of `rank` axes."""
        window = re.search(r"window=\{([^}]*)\}", self.attributes)
        found = re.search(rf"\b{name}=([\d_x\-]+)", window[1]) if window else None
        return found[1].split("x") if found else [default] * rank


Computation = dict[str, Instruction]


def parse_program(text: str) -> tuple[dict[str, Computation], str]:
    """Returns the computations of a program by name, and the name of the one that it runs.

    Raises:
      ValueError: it has none.
    """
    computations: dict[str, Computation] = {}
    current: Computation = {}
    entry = ""
    for line in text.splitlines():
        if not line.startswith(" "):
            head = _HEAD.match(line)
            if head and not line.startswith("HloModule"):
                current = computations.setdefault(head[2], {})
                entry = head[2] if head[1] else entry
        elif found := _INSTRUCTION.match(line):
            current[found[1]] = Instruction(found[2], found[3], found[4])
    if not entry:
        raise ValueError(f"Expected the HLO text of a program; got {text[:60]!r}.")
    return computations, entry


def operands(instruction: Instruction) -> list[str]:
    """Returns the names of what an instruction reads."""
    return re.findall(r"%([\w.\-]+)", instruction.attributes.partition(")")[0])


def array_bytes(shape: str) -> int:
    """Returns the bytes in the main memory of a shape's arrays: not those on the chip, `S(1)`."""
    return sum(
        _BYTES.get(kind, 0) * math.prod(_sizes(dims))
        for kind, dims, layout in _ARRAY.findall(shape)
        if not re.search(r"S\(\d+\)", layout)
    )


def moved_bytes(shape: str) -> int:
    """Returns the traffic with the main memory of a copy that was started: what is read or written.

    `shape` is that of the start, a tuple of the two ends, in either order; one is a part of the
    other if only that is copied.
    """
    ends = _ARRAY.findall(shape)[:2]
    size = min(_BYTES.get(kind, 0) * math.prod(_sizes(dims)) for kind, dims, _ in ends)
    return size * sum(not re.search(r"S\(\d+\)", layout) for _, _, layout in ends)


def trip_count(loop: Instruction, around: Computation, program: Mapping[str, Computation]) -> int:
    """Returns how often a loop of the compiler's runs, 1 if it cannot be read from the text.

    Such loops count from a constant up to a constant, by a constant.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
        return int(known[1])
    condition, body = (program[loop.called[part][0]] for part in ("condition", "body"))
    start, result = around[operands(loop)[0]], list(body.values())[-1]
    compare = next((i for i in condition.values() if "direction=LT" in i.attributes), None)
    if compare is None or {start.opcode, result.opcode} != {"tuple"}:
        return 1
    counter, limit = (_source(condition, name) for name in operands(compare))
    place = re.search(r"index=(\d+)", counter.attributes)
    if not place or counter.opcode != "get-tuple-element":
        return 1
    first, following = (
        _source(where, operands(values)[int(place[1])])
        for where, values in ((around, start), (body, result))
    )
    steps = [_source(body, name) for name in operands(following)]
    by = [step for step in steps if step.opcode == "constant"]
    if following.opcode != "add" or not by or {first.opcode, limit.opcode} != {"constant"}:
        return 1
    return -(-(_value(limit) - _value(first)) // _value(by[0]))


def _source(computation: Computation, name: str) -> Instruction:
    """Returns what a value is a copy of."""
    instruction = computation[name]
    while instruction.opcode in ("copy", "bitcast"):
        instruction = computation[operands(instruction)[0]]
    return instruction


def _value(constant: Instruction) -> int:
    return int(constant.attributes.partition(")")[0])


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",") if size]
