"""Lets a program outlive its terminal, and write to one that lacks characters."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Lets `print` and progress lines fail at nothing inside the context.

    Characters that the terminal's encoding lacks become escapes. Once the reader of a pipe has
    ended, or the terminal is closed, the output goes nowhere; a line on stderr says so.
    """
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Lasting(sys.stdout, "stdout"), _Lasting(sys.stderr, "stderr")
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


class _Lasting:
    """A text stream whose `write` and `flush` always succeed; otherwise the stream given."""

    def __init__(self, stream: Any, name: str):
        # Python has None where the program was started with the descriptor closed.
        self._stream = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self._go_nowhere(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._go_nowhere(error)

    def _go_nowhere(self, error: OSError) -> None:
        """Connects the descriptor to nothing, for what other libraries write and what is left."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        text = f"{self._name} is closed ({error}): the program goes on without it.\n"
        with contextlib.suppress(OSError):
            os.write(2, text.encode())
