"""One run at a time in a workdir: two would overwrite each other's checkpoints and metrics."""

import contextlib
import os
import pathlib
import socket
from collections.abc import Iterator

import jax
from etils import epath

from mixer.runtime.file_lock import file_lock


@contextlib.contextmanager
def workdir_lock(workdir: epath.Path) -> Iterator[None]:
    """Holds the lock `WORKDIR/lock` for a run until the context or the process ends.

    The first process of a run holds it for all of them. A bucket has no locks; a printed line says
    so.

    Raises:
      ValueError: another run holds the lock.
    """
    if jax.process_index() != 0:
        yield
        return
    if "://" in os.fspath(workdir):
        print(f"Nothing guards {workdir} against a second run in it: start only one.", flush=True)
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    path = pathlib.Path(workdir, "lock")

    def refuse() -> None:
        raise ValueError(
            f"Another run is at work in {workdir}: {path.read_text() or 'unknown'}. Wait for it, "
            "end it, or use another --workdir."
        ) from None

    with file_lock(path, refuse):
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
