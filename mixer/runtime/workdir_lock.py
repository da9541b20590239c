"""One run at a time in a workdir: two would overwrite each other's checkpoints and metrics."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator

import jax
from etils import epath


@contextlib.contextmanager
def workdir_lock(workdir: epath.Path) -> Iterator[None]:
    """Holds `WORKDIR/lock` in the name of a run, until the context or its process ends.

    The system drops the lock of a process that was killed. A bucket has no locks: a line says so.

    Raises:
      ValueError: another run holds it.
    """
    if jax.process_index() != 0:  # of the processes of one run the first holds it for all
        yield
        return
    if "://" in os.fspath(workdir):
        print(f"Nothing guards {workdir} against a second run in it: start only one.", flush=True)
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / "lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"Another run is at work in {workdir}: {file.read() or 'unknown'}. Wait for it, "
                "end it, or use another --workdir."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
