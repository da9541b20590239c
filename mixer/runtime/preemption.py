"""Stops a run, with its state saved, when a signal asks for that.

Clouds send SIGTERM before they take a machine away, batch systems also SIGUSR1, SIGUSR2 or SIGXCPU
before the time is up; Ctrl-C sends SIGINT, and the end of an ssh session SIGHUP. The signal handler
only takes a note. The loop checks it before each batch, of the training and of an evaluation, so
that it never interrupts a step. Several processes agree: all stop before the same batch. (JAX has a
service for this, but Orbax asks it too, later and with other step numbers, so that processes could
disagree; `mixer/runtime/distributed.py` turns it off.)
"""

import collections
import contextlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import FrameType
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mixer.runtime.watchdog import Watchdog
from mixer.sharding import batch_sharding, replicated, to_global

T = TypeVar("T")

_SIGNALS = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),
)
# Several processes act on the signals of this many batches ago: that answer has arrived by now, so
# neither the host nor the devices wait for it.
_BATCHES_TO_AGREE = 2
# Polling interval while waiting for a batch or a compilation.
_POLL_SECONDS = 0.1


class Preempted(SystemExit):
    """Ends the program with exit code 0; `signal` is the name of the signal."""

    def __init__(self, signal_number: int):
        super().__init__(0)
        self.signal = signal.Signals(signal_number).name


class Preemption:
    """Handles these signals within its context; a SIGINT after another one ends the program.

    A signal that is ignored stays so: `nohup` ignores SIGHUP, and a shell's `&` SIGINT.

    `mesh` holds the devices of all processes, through which these agree. `watchdog` learns of each
    batch.
    """

    def __init__(self, mesh: Mesh, watchdog: Watchdog):
        self.watchdog = watchdog
        self._several = jax.process_count() > 1
        self._signal = 0
        self._sharding = batch_sharding(mesh)
        self._maximum = jax.jit(jnp.max, out_shardings=replicated(mesh))
        self._answers: collections.deque[jax.Array] = collections.deque()

    def __enter__(self) -> "Preemption":
        self._before = {
            number: signal.signal(number, self._note)
            for number in _SIGNALS
            if signal.getsignal(number) != signal.SIG_IGN
        }
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def interruptible(self, batches: Iterator[T]) -> Iterator[T]:
        """Yields the same batches; every process must take the same number.

        Raises:
          Preempted: before a batch, if a process was asked to stop. A single process does not wait
            for that batch. Several do: the others have begun to use theirs.
        """
        if self._several:
            for batch in batches:
                self.check()
                self.watchdog.beat()  # whoever asks for a batch is done with the one before
                yield batch
            return
        reader = ThreadPoolExecutor(1, "batches")  # Python handles no signal inside `next`
        try:
            while True:
                taken: T | None = self.wait_for(reader.submit(next, batches, None))
                if taken is None:
                    return
                self.check()
                self.watchdog.beat()
                yield taken
        finally:
            reader.shutdown(wait=False)

    def wait_for(self, future: Future[T]) -> T:
        """Returns the result of a future.

        Raises:
          Preempted: a single process was asked to stop meanwhile.
        """
        while not self._several and not wait([future], _POLL_SECONDS).done:
            self.check()
        return future.result()

    def check(self) -> None:
        """Raises Preempted if a process was asked to stop; all must call it equally often."""
        number = self._agree() if self._several else self._signal
        if number:
            raise Preempted(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        if signal.SIGINT in self._before:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        name = signal.Signals(number).name
        text = f"\n{name}: ending as soon as the state is saved. Ctrl-C ends the program at once.\n"
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(2, text.encode())  # the signal may have interrupted a print()

    def _agree(self) -> int:
        mine = np.full(jax.local_device_count(), self._signal, np.int32)
        signals = to_global({"signals": mine}, self._sharding)["signals"]
        self._answers.append(self._maximum(signals))
        if len(self._answers) <= _BATCHES_TO_AGREE:
            return 0
        return int(self._answers.popleft())
