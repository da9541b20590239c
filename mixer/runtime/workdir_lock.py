"""One run at a time in a workdir: two would overwrite each other's checkpoints and metrics."""

import contextlib
import os
import pathlib
import socket
from collections.abc import Iterator

import jax
from etils import epath

from mixer.runtime.file_lock import file_lock
from mixer.runtime.naming import naming

LOCK_NAME = "lock"
_HOLDER = "process "


@contextlib.contextmanager
def workdir_lock(workdir: epath.Path) -> Iterator[None]:
    """Holds the lock `WORKDIR/lock` for a run until the context or the process ends.

    The first process of a run holds it for all of them. A bucket has no locks; a printed line says
    so.

    Raises:
      ValueError: another run holds the lock, or the file is something else.
    """
    if jax.process_index() != 0:
        yield
        return
    if "://" in os.fspath(workdir):
        print(f"Nothing guards {workdir} against a second run in it: start only one.", flush=True)
        yield
        return
    with folder_lock(pathlib.Path(workdir), "run"):
        yield


@contextlib.contextmanager
def folder_lock(folder: pathlib.Path, what: str) -> Iterator[None]:
    """Holds the lock of a local folder, which is made if there is none; asks JAX nothing.

    Args:
      folder: the workdir of a run, or of a sweep.
      what: "run" or "sweep".

    Raises:
      ValueError: as `workdir_lock`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_NAME
    if path.exists() and not is_lock_of_run(path):
        raise ValueError(
            f"Expected {path} to be the lock of a {what}; got something else, which the {what} "
            "would overwrite. Use another --workdir."
        )

    def refuse() -> None:
        raise ValueError(
            f"Another {what} is at work in {folder}: {path.read_text() or 'unknown'}. Wait for it, "
            "end it, or use another --workdir."
        ) from None

    with file_lock(path, refuse):
        with naming(path):
            path.write_text(f"{_HOLDER}{os.getpid()} on {socket.gethostname()}")
        yield


def is_lock_of_run(path: epath.Path | pathlib.Path) -> bool:
    """Returns whether a file is the lock of a run; a full disk leaves an empty one."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_HOLDER)) in (b"", _HOLDER.encode())
