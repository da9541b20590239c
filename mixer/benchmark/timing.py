"""Times repeated work on a device, in windows of several calls."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class Workload:
    """Compiled work that can be run repeatedly."""

    run: Callable[[int], None]  # dispatches that many calls, then waits for the device to finish
    compile_s: float  # seconds spent on compilation
    program_bytes: int | None = None  # device memory per call according to the compiler, if known


def time_calls(workload: Workload, calls: int) -> float:
    """Returns the calls per second over one window of `calls` calls."""
    start = time.perf_counter()
    workload.run(calls)
    return calls / (time.perf_counter() - start)


def warm_up(workload: Workload, seconds: float) -> int:
    """Warms up the workload and returns the number of calls that take about `seconds`, at least 1.

    The first call is not timed, as it may allocate, load and autotune. The number of calls is then
    doubled until they fill a quarter of a window.
    """
    workload.run(1)
    calls = 1
    pace = time_calls(workload, calls)
    while calls / pace < seconds / 4:
        calls *= 2
        pace = time_calls(workload, calls)
    return max(1, round(pace * seconds))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns the `median`, `min` and `max` of the values."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def is_out_of_memory(error: BaseException) -> bool:
    """Returns True if the error, from JAX, PyTorch or Python, means that memory ran out."""
    said = str(error).lower()
    texts = ("resource_exhausted", "out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(text in said for text in texts)


def four_digits(value: float) -> str:
    """Returns a number with four significant digits and no exponent, unless it is below 1e-4."""
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
