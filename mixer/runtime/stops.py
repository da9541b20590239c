"""How a program that starts others one after the other is stopped, and started again."""

import contextlib
import signal
import sys
from collections.abc import Iterator

from mixer.runtime.output import lasting_output

_STOPS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """Turns the signals that ask a program to stop into an interrupt, and ends with code 130.

    So the run that is going on is stopped, too, with its state saved. Signals that are ignored
    stay so.
    """
    for number in _STOPS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        with lasting_output():
            yield
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command again to resume.", file=sys.stderr)
        sys.exit(130)
