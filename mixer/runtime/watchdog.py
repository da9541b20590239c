"""Ends a run that hangs, on a dead disk for instance: it would cost as much as one that trains.

It watches from a thread of its own, so it also notices what Python cannot interrupt.
"""

import faulthandler
import os
import threading
import time
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")

EXIT_CODE = 70  # an internal error in sysexits.h; an uncaught Python exception gives 1


class Watchdog:
    """Ends the program when nothing was finished for `seconds`; 0: never. A context manager.

    It watches from the first `beat` on, so compilation does not count. The stacks of all threads
    go to stderr, and the exit code is 70.
    """

    def __init__(self, seconds: float):
        if seconds < 0:
            raise ValueError(f"Expected watchdog_seconds of at least 0 (never); got {seconds}.")
        self._seconds = seconds
        self._beaten = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()

    def beat(self) -> None:
        """Reports that something was finished."""
        self._beaten = time.monotonic()
        if self._seconds and not self._thread.is_alive():
            self._thread.start()

    def watched(self, batches: Iterator[T]) -> Iterator[T]:
        """Yields the same batches; asking for one shows that the one before is finished."""
        for batch in batches:
            self.beat()
            yield batch

    def _watch(self) -> None:
        while (left := self._beaten + self._seconds - time.monotonic()) > 0:
            if self._ended.wait(left):
                return
        text = (
            f"\nNo training step and no batch of an evaluation was finished for {self._seconds:g} "
            "s (watchdog_seconds): the program ends. The same command goes on from the newest "
            "checkpoint. What every thread is waiting for:\n"
        )
        os.write(2, text.encode())
        faulthandler.dump_traceback(2)
        os._exit(EXIT_CODE)
