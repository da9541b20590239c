"""How the processes of a run agree on checkpoints: one alone may see a full or damaged disk."""

from typing import Any

import jax
import numpy as np
from jax._src import distributed  # the only way to its store of keys and values, Orbax's too
from jax.experimental import multihost_utils

_WAITS_FOR = "mixer/saving/waits_for"


class FailedElsewhere(OSError):
    """Another process could not write its part of a checkpoint."""


def barrier(*, key: str, timeout_ms: int) -> None:
    """Waits until all processes wait for the same thing; Orbax calls it in its threads.

    Orbax's own barrier knows nothing of a process that could not write its part and will never
    come: the others wait for 20 minutes. This one tells everybody what all wait for.

    Raises:
      FailedElsewhere: another process has given up the save that this one waits for.
    """
    client: Any = distributed.global_state.client
    while True:
        client.key_value_set(f"{_WAITS_FOR}/{jax.process_index()}", key, allow_overwrite=True)
        client.wait_at_barrier("mixer/saving/told", timeout_ms)
        keys = {waits_for for _, waits_for in client.key_value_dir_get(_WAITS_FOR)}
        client.wait_at_barrier("mixer/saving/heard", timeout_ms)
        if keys == {key}:
            return
        # Orbax's names. For these a process that fails does not come; at the end of a save all do.
        if "async_write_complete" in key or "async_commit_complete" in key:
            raise FailedElsewhere("another process could not write its part")


def first_problem(mine: str) -> str:
    """Returns what is wrong as the first process that sees anything wrong tells it, or "".

    All processes must call it, with what they see themselves, of which 500 bytes are told.
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
    """Prints a line; the log of the run begins only when it is known where it goes on."""
    if jax.process_index() == 0:
        print(text, flush=True)
