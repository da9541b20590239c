"""Ends a run that hangs, on a dead disk for instance: it would cost as much as one that trains.

It watches from a thread of its own, so it also notices what Python cannot interrupt. Only time in
which the process could run counts: none while it is stopped (SIGSTOP, a suspended machine).
"""

import contextlib
import faulthandler
import os
import threading
import time
from collections.abc import Iterator

EXIT_CODE = 70  # an internal error in sysexits.h; an uncaught Python exception gives 1

# What a run does: its limit in units of `watchdog_seconds`, and the least limit in seconds.
PHASES = {
    "opening the data": (4, 60),  # may list millions of files
    "reading the weights of init_from": (4, 60),
    "restoring the checkpoint": (4, 60),
    "reading all images": (4, 60),  # for input='device'
    "reading the first batch": (1, 60),
    "compiling the training step": (2, 600),
    "training": (1, 0),  # to the next step, or the next batch of an evaluation
}
_IDLE_CPU_SECONDS = 0.5


class Watchdog:
    """Ends the program when nothing is finished in a phase for too long; a context manager.

    The stacks of all threads go to stderr, and the exit code is 70.

    Args:
      seconds: `watchdog_seconds`, from which `PHASES` derives the limits; 0: never.
    """

    def __init__(self, seconds: float):
        if not (isinstance(seconds, int | float) and seconds >= 0):
            raise ValueError(f"Expected watchdog_seconds of at least 0 (never); got {seconds!r}.")
        self._seconds = seconds
        self._phases: list[str] = []
        self._beats = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Watches what happens inside with the limit of a phase."""
        assert name in PHASES
        self._phases.append(name)
        self._beats += 1
        try:
            yield
        finally:
            self._phases.pop()
            self._beats += 1

    def beat(self) -> None:
        """Reports that something was finished."""
        self._beats += 1

    def _watch(self) -> None:
        waited, beats = 0.0, self._beats
        for seconds in _ticks(self._seconds / 10, self._ended):
            waited += seconds
            if beats != self._beats or not self._phases:
                waited, beats = 0.0, self._beats
                continue
            phase = self._phases[-1]
            factor, least = PHASES[phase]
            limit = max(factor * self._seconds, least)
            if waited > limit:
                _end(
                    f"Nothing was finished for {limit:g} s (watchdog_seconds) while {phase}: the "
                    "run ends. The same command goes on from its newest checkpoint."
                )
                return


def end_if_idle(seconds: float = 1800.0) -> None:
    """Ends the program, like a watchdog, once it has computed nothing for so long.

    It then waits for a disk, a pipe or a network that does not answer. For programs that report no
    progress; less than half a second of CPU time counts as nothing.
    """

    def watch() -> None:
        waited, computed = 0.0, _computed()
        for passed in _ticks(seconds / 100, threading.Event()):
            waited += passed
            if _computed() > computed + _IDLE_CPU_SECONDS:
                waited, computed = 0.0, _computed()
            if waited > seconds:
                _end(f"Nothing was computed for {seconds:g} s: the program ends.")
                return

    threading.Thread(target=watch, name="watchdog", daemon=True).start()


def _computed() -> float:
    """Returns the CPU time of the program in seconds, without that of a progress display."""
    displays = [t for t in threading.enumerate() if type(t).__module__ == "rich.live"]
    clocks = [time.pthread_getcpuclockid(thread.ident) for thread in displays if thread.ident]
    return time.process_time() - sum(map(time.clock_gettime, clocks))


def _ticks(seconds: float, ended: threading.Event) -> Iterator[float]:
    """Yields about every so many seconds, at most 1, for how long the process has run meanwhile."""
    tick = min(1.0, seconds)
    before = time.monotonic()
    while not ended.wait(tick):
        now = time.monotonic()
        yield min(now - before, 2 * tick)
        before = now


def _end(why: str) -> None:
    with contextlib.suppress(OSError):  # a terminal that is gone
        os.write(2, f"\n{why} What every thread is waiting for:\n".encode())
        faulthandler.dump_traceback(2)
    os._exit(EXIT_CODE)
