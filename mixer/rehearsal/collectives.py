"""What a compiled program sends between devices, read from its text."""

import re

_BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "u8": 1, "s8": 1, "pred": 1}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def count_collectives(program: str) -> dict[str, dict[str, float]]:
    """Returns the `count` of each collective in a program's text, and the `mib` of their results.

    One inside a loop, as gradient accumulation makes it, counts once.
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
    """Returns what each device sends for `count_collectives`, in MiB, if all devices take part.

    Counted for rings, which send least: an all-reduce is a reduce-scatter and an all-gather, and
    in each of the two a device passes on every part of the array but one.

    Source: Patarasuk and Yuan, 2009, "Bandwidth optimal all-reduce algorithms".
    """
    others = num_devices - 1
    times_sent = {
        "all-reduce": 2 * others / num_devices,
        "all-gather": others / num_devices,
        "reduce-scatter": others,  # its result is one part
        "all-to-all": others / num_devices,
        "collective-permute": 1,
    }
    return sum(times_sent[name] * entry["mib"] for name, entry in collectives.items())
