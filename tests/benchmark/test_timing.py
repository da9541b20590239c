"""Windows with a clock that tells what the work says it took."""

import pytest

from mixer.benchmark import timing
from mixer.benchmark.timing import (
    Workload,
    four_digits,
    is_out_of_memory,
    spread,
    time_calls,
    warm_up,
)


@pytest.fixture
def work_of(monkeypatch):
    """Returns work whose first call takes 7 s, the others so many seconds."""

    def build(seconds: float) -> Workload:
        clock = [0.0]
        monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

        def run(calls: int) -> None:
            clock[0] += calls * seconds if clock[0] else 7.0 + (calls - 1) * seconds

        return Workload(run, compile_s=0.0)

    return build


@pytest.mark.parametrize(
    ("call_seconds", "calls"),
    [(1 / 128, 256), (1 / 2, 4), (1.5, 1), (30.0, 1)],
)
def test_the_calls_of_a_window_come_from_the_pace_after_the_first(work_of, call_seconds, calls):
    work = work_of(call_seconds)
    assert warm_up(work, seconds=2.0) == calls
    assert time_calls(work, 10) == pytest.approx(1 / call_seconds)


def test_spread():
    assert spread([5.0, 1.0, 4.0, 2.0]) == {"median": 3.0, "min": 1.0, "max": 5.0}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("RESOURCE_EXHAUSTED: 9 GiB"), True),
        (RuntimeError("INTERNAL: Error dispatching: Out of memory allocating 60 bytes."), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (MemoryError(), True),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_what_means_that_memory_is_too_small(error, expected):
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize(
    ("value", "text"), [(11582.4, "11582"), (9999.0, "9999"), (4073.2, "4073"), (0.23456, "0.2346")]
)
def test_numbers_have_four_digits_and_no_exponent(value, text):
    assert four_digits(value) == text
