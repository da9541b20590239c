"""Timed windows of work on a device."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class Workload:
    """Work that can be repeated, compiled already.

    `run(calls)` starts the calls one after the other and waits once, for the device to have done
    them all. `compile_s` are the seconds until it could run. `program_bytes`, if known, are the
    compiler's count of what a call needs in the memory of a device.
    """

    run: Callable[[int], None]
    compile_s: float
    program_bytes: int | None = None


def time_calls(workload: Workload, calls: int) -> float:
    """Returns the calls per second of a window of so many calls."""
    start = time.perf_counter()
    workload.run(calls)
    return calls / (time.perf_counter() - start)


def warm_up(workload: Workload, seconds: float) -> int:
    """Runs the workload until its pace is known; returns the calls that take about `seconds`.

    The first call is not counted: it may allocate, load and tune. Then the number of calls doubles
    until they fill a quarter of a window.
    """
    workload.run(1)
    calls = 1
    pace = time_calls(workload, calls)
    while calls / pace < seconds / 4:
        calls *= 2
        pace = time_calls(workload, calls)
    return max(1, round(pace * seconds))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns `median`, `min` and `max`."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether JAX, PyTorch or Python itself say with this error that memory is too small."""
    said = str(error).lower()
    texts = ("resource_exhausted", "out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(text in said for text in texts)
