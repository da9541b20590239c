"""Runs in forks of this process, which has the program imported: a start without its imports.

Each is a process of its own, so a `kill -9` is a real one. JAX must not have started here.
"""

import multiprocessing.context
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

# What the program imports only after its flags, or with its first batch.
import tensorboard.summary  # noqa: F401

import mixer.data.datasets
import mixer.data.input_pipeline
import mixer.train_loop  # noqa: F401
from mixer import main
from mixer.runtime import command


class Fork(multiprocessing.context.ForkProcess):
    """A process with the methods of `subprocess.Popen` that are used here."""

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.join(timeout)
        if self.exitcode is None:
            raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout)
        return self.exitcode


def start(workdir: pathlib.Path, flags: Sequence[str], *, output: pathlib.Path) -> list[Fork]:
    """Starts a run on one CPU device, as `runs.start` does; returns its only process."""
    if len(threads := os.listdir("/proc/self/task")) > 1:
        raise RuntimeError(f"Expected one thread, as a fork could hang; got {len(threads)}.")
    pathlib.Path(f"{output}.0").unlink(missing_ok=True)  # or that of the run before is read
    fork = Fork(target=_run, args=([f"--workdir={workdir}", *flags], f"{output}.0"))
    fork.daemon = True  # ends with this process
    fork.start()
    return [fork]


def _run(arguments: list[str], output: str) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    sys.argv = ["mixer.main", *arguments]
    command.run(main.main)
