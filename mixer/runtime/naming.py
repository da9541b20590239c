"""Errors of the system with the path that they are about."""

import contextlib
import os
from collections.abc import Iterator

from etils import epath


@contextlib.contextmanager
def naming(path: epath.PathLike) -> Iterator[None]:
    """Adds the path to an OSError that lacks it: those of writing to an open file do."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise
