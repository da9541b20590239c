"""The place a dataset is written to: by one process at a time, never over another dataset."""

import contextlib
import fcntl
import os
import pathlib
import resource
import shutil
from collections.abc import Iterator

import tensorflow_datasets as tfds

# TFDS sorts what does not fit into memory through a thousand files that are open together.
_OPEN_FILES = 4096


def local_folder(data_dir: str) -> pathlib.Path:
    if "://" in data_dir:
        raise ValueError(
            f"Expected a local data_dir, as ArrayRecord files are written to disk; got {data_dir}. "
            "Write them to disk and copy the folder afterwards."
        )
    folder = data_dir or tfds.core.constants.get_default_data_dir()
    return pathlib.Path(folder).expanduser().absolute()


def refuse_existing(folder: pathlib.Path) -> None:
    found = [p for p in folder.glob("*") if not p.name.startswith("incomplete.")]
    if found:
        raise ValueError(
            f"Expected no dataset in {folder}; found {found[0]}. A dataset is never overwritten: "
            "choose another name, or delete that folder first."
        )


@contextlib.contextmanager
def write_alone(folder: pathlib.Path) -> Iterator[None]:
    """Locks `folder`, and removes what a killed process has left there.

    Raises:
      ValueError: another process writes there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"Expected to write {folder} alone; another process does so now. Wait for its end."
            ) from error
        for leftover in folder.glob("incomplete.*"):
            shutil.rmtree(leftover)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()  # if nothing was written
    finally:
        os.close(handle)  # ends the lock, as the end of the process does


def check_disk(root: pathlib.Path, num_bytes: int) -> None:
    # Sorting removes a temporary file for each that it has written, so there is no second copy.
    needed, free = int(1.05 * num_bytes), shutil.disk_usage(root).free
    if free < needed:
        raise ValueError(
            f"Expected {needed / 2**30:,.1f} GiB free in {root}; got {free / 2**30:,.1f} GiB. "
            "Free some, or choose another data_dir."
        )


def allow_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
