"""A run that is asked to stop: by SIGTERM, which clouds send before they take a machine, or Ctrl-C.

The signal only leaves a note. The loop looks at it before each batch, of the training and of an
evaluation, so the state is never caught in the middle of a step. Several processes agree there: all
stop before the same batch. (JAX has a service for that, which Orbax asks too, later and with other
numbers, so that processes may disagree; `mixer/runtime/distributed.py` turns it off.)
"""

import collections
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from types import FrameType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mixer.sharding import batch_sharding, replicated, to_global

Batch = TypeVar("Batch")

# Several processes act on what they knew so many batches ago: that answer is there already, so
# neither the host nor the devices wait for it.
_BATCHES_TO_AGREE = 2
# How often a process that waits for a batch looks whether it shall go on waiting.
_POLL_SECONDS = 0.1


class Preempted(SystemExit):
    """Ends the program with exit code 0; `signal` is the name of what asked for it."""

    def __init__(self, signal_number: int):
        super().__init__(0)
        self.signal = signal.Signals(signal_number).name


class Preemption:
    """Takes SIGTERM and SIGINT while its context lasts; SIGINT after that ends the program."""

    def __init__(self, mesh: Mesh):
        self._several = jax.process_count() > 1
        self._signal = 0
        self._sharding = batch_sharding(mesh)
        self._maximum = jax.jit(jnp.max, out_shardings=replicated(mesh))
        self._answers: collections.deque[jax.Array] = collections.deque()

    def __enter__(self) -> "Preemption":
        self._before = {
            number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yields the same batches; every process must take equally many.

        Raises:
          Preempted: before a batch, if a process was asked to stop. A single process does not wait
            for the batch then. Of several, each needs it: the others have begun to use theirs.
        """
        for batch in batches if self._several else self._interruptible(batches):
            self.check()
            yield batch

    def check(self) -> None:
        """Raises Preempted if a process was asked to stop; all must call this equally often."""
        number = self._agree() if self._several else self._signal
        if number:
            raise Preempted(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        name = signal.Signals(number).name
        text = f"\n{name}: ending as soon as the state is saved. Ctrl-C ends the program at once.\n"
        os.write(2, text.encode())  # print() may have been interrupted in the middle of its work

    def _agree(self) -> int:
        mine = np.full(jax.local_device_count(), self._signal, np.int32)
        signals = to_global({"signals": mine}, self._sharding)["signals"]
        self._answers.append(self._maximum(signals))
        if len(self._answers) <= _BATCHES_TO_AGREE:
            return 0
        return int(self._answers.popleft())

    def _interruptible(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yields the same, taken in another thread: Python handles no signal inside `next`."""
        reader = ThreadPoolExecutor(1, "batches")
        try:
            while True:
                waiting = reader.submit(next, batches, None)
                while not wait([waiting], _POLL_SECONDS).done:
                    self.check()
                if (batch := waiting.result()) is None:
                    return
                yield batch
        finally:
            reader.shutdown(wait=False)
