"""Tells a checkpoint that cannot be read now from one that is damaged.

No permission, a failing disk, a network that is away or too many open files say nothing about the
bits on the disk. Only missing parts, truncated files and other bits than were saved are damage.
"""

import contextlib
import errno
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from mixer.checkpoint.folder import exists

# A part is not there, or a folder is in the place of a file.
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
# TensorStore reports errors of the system as text, after one of these codes or as the system does.
_CODES = (
    *("PERMISSION_DENIED", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"),
    *("DEADLINE_EXCEEDED", "ABORTED", "CANCELLED"),
)
_ERRNOS = (
    *(errno.EACCES, errno.EPERM, errno.EIO, errno.EREMOTEIO, errno.EMFILE, errno.ENFILE),
    *(errno.ENOMEM, errno.EBUSY, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOTCONN),
    *(errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
)
_UNREADABLE = re.compile("|".join([*_CODES, *(re.escape(os.strerror(n)) for n in _ERRNOS)]))
_BLOCK = 1 << 24  # bytes


class DamagedCheckpoint(ValueError):
    """A checkpoint is not what was saved. The message begins with a word for what is wrong."""


@contextlib.contextmanager
def damage(step: epath.Path, what: str) -> Iterator[None]:
    """Raises DamagedCheckpoint for any error inside, as the libraries raise many types.

    Args:
      step: the folder that is read inside.
      what: the beginning of the message.

    Raises:
      OSError, MemoryError: in its place, if it is no damage.
    """
    hook = sys.unraisablehook
    # Each read that is pending when another one fails prints this, some time later: it stays.
    sys.unraisablehook = functools.partial(_all_but, "Event loop is closed", hook)
    try:
        yield
        sys.unraisablehook = hook
    except Exception as error:
        _check_readable(step, error)
        lines = str(error).strip().splitlines() or [""]
        raise DamagedCheckpoint(f"{what} ({type(error).__name__}: {lines[0][:200]})") from error


def unreadable(path: epath.Path, reason: object) -> OSError:
    """Returns the error to raise for a checkpoint, or a folder of them, that cannot be read now."""
    return OSError(
        f"{path} cannot be read now: {reason}. That is not damage: nothing was renamed, and the "
        "run does not go on from an older checkpoint. Make it readable (permissions, mounts, "
        "network, `ulimit -n`), then run the same command again."
    )


@contextlib.contextmanager
def readable(path: epath.Path) -> Iterator[None]:
    """Raises the error of `unreadable` for any OSError inside."""
    try:
        yield
    except OSError as error:
        raise unreadable(path, error) from error


def _all_but(noise: str, hook: Callable[[Any], object], unraisable: Any) -> None:
    if str(unraisable.exc_value) != noise:
        hook(unraisable)


def _check_readable(step: epath.Path, error: Exception) -> None:
    """Returns if what failed while a complete step was read is damage.

    Raises:
      OSError: the step cannot be read now: the error says so, or reading every byte does.
      MemoryError: there was not enough memory.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            raise cause
        if isinstance(cause, OSError) and cause.errno and cause.errno not in _MISSING:
            raise unreadable(step, cause) from error
        if match := _UNREADABLE.search(str(cause)):
            raise unreadable(step, match[0]) from error
        cause = cause.__cause__ or cause.__context__
    with readable(step):
        if not exists(step):
            raise unreadable(step, "it has disappeared")
        _read_all(step)


def _read_all(folder: epath.Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            _read_all(path)
        elif path.is_file():
            with path.open("rb") as file:
                while file.read(_BLOCK):
                    pass
