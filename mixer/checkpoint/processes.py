"""How the processes of a run agree on checkpoints: only one of them may see a full disk."""

from typing import Any

import jax
import numpy as np
from jax._src import distributed  # the only way to JAX's key-value store, also for Orbax
from jax.experimental import multihost_utils

_WAITS_FOR = "mixer/saving/waits_for"


class FailedElsewhere(OSError):
    """Another process could not write its part of a checkpoint."""


def barrier(*, key: str, timeout_ms: int) -> None:
    """Waits until all processes wait for the same `key`; Orbax calls it from its threads.

    With Orbax's own barrier, a process that could not write its part never arrives, and the others
    wait for 20 minutes. With this one, each process tells the others what it waits for.

    Raises:
      FailedElsewhere: another process gave up the save that this one waits for.
    """
    client: Any = distributed.global_state.client
    while True:
        client.key_value_set(f"{_WAITS_FOR}/{jax.process_index()}", key, allow_overwrite=True)
        client.wait_at_barrier("mixer/saving/told", timeout_ms)
        keys = {waits_for for _, waits_for in client.key_value_dir_get(_WAITS_FOR)}
        client.wait_at_barrier("mixer/saving/heard", timeout_ms)
        if keys == {key}:
            return
        # Orbax's keys that a failed process never reaches; all processes reach the final one.
        if "async_write_complete" in key or "async_commit_complete" in key:
            raise FailedElsewhere("another process could not write its part")


def first_problem(mine: str) -> str:
    """Returns the problem of the first process that has one, or "".

    All processes must call this with their own problem, or ""; 500 bytes of it are shared.
    """
    if jax.process_count() == 1:
        return mine
    text = mine.encode()[:500].ljust(500, b"\0")
    for theirs in np.reshape(
        multihost_utils.process_allgather(np.frombuffer(text, np.uint8)), (-1, 500)
    ):
        if theirs.any():
            return bytes(theirs).rstrip(b"\0").decode(errors="replace")
    return ""


def say(text: str) -> None:
    """Prints a line on process 0: the log opens only after the checkpoint has been chosen."""
    if jax.process_index() == 0:
        print(text, flush=True)
