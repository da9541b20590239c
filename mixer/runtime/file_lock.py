"""An exclusive lock between processes, which the system releases when its holder ends."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def file_lock(path: pathlib.Path, on_conflict: Callable[[], object]) -> Iterator[None]:
    """Holds the lock on a local file or folder until the context or the process ends.

    A killed process loses its lock too. Only processes that also use this function are kept out.

    Args:
      path: an existing folder, or a file, which is created if it does not exist.
      on_conflict: called when another process holds the lock. It raises an error, or returns to
        wait for that process.
    """
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDONLY | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_conflict()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
