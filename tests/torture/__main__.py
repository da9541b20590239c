"""Real kills, signals and processes against real runs; the figures as a table.

    bash scripts/torture.sh [PART ...]

PART[=NUMBER] is one of
  kills      kill -9 at 50 random moments of one run, then a SIGTERM; NUMBER of them
  forks      kill -9 at 5 moments of a shorter run in forks of one process, in half a minute;
             NUMBER of them
  signals    SIGTERM in each of five phases, SIGHUP and SIGUSR1 in two, with one and two processes
  pipes      the reader of the output ends (SIGPIPE), the terminal is hung up (SIGHUP)
  stops      SIGSTOP for three times the watchdog's limit, then SIGCONT
  unreadable no permission for the checkpoints, or parts of one
  hangs      a pipe that nobody writes to, in each phase before the first step and after it
  processes  one process with two devices, two with one, and switched in the middle
  goodput    ten minutes with one kill -9 a minute; NUMBER of minutes
Without a PART all of them are run: 40 minutes on two quiet cores.
"""

import functools
import os
import pathlib
import signal
import sys
import tempfile

# NumPy's and SciPy's OpenBLAS would start a thread each, and forks of a process with threads can
# hang.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

from torture import goodput, kills, processes, signals, troubles
from torture.images import write_images


def _forks(folder: pathlib.Path, images: pathlib.Path, count: int) -> list[tuple[str, str, bool]]:
    from torture import forks  # imports the whole program

    sizes = {"hidden_dim": 16, "tokens_mlp_dim": 8, "channels_mlp_dim": 32}
    changes = [f"--config.model.{key}={value}" for key, value in sizes.items()]
    changes += ["--config.randaugment.layers=0", "--config.eval_every=1000"]
    return kills.torture(
        folder, images, count, steps=12 * count, changes=changes, start=forks.start
    )


PARTS = {
    "forks": functools.partial(_forks, count=5),  # first: others start threads in this process
    "kills": functools.partial(kills.torture, kills=50),
    "signals": signals.torture,
    "pipes": troubles.pipes,
    "stops": troubles.stops,
    "unreadable": troubles.unreadable,
    "hangs": troubles.hangs,
    "processes": processes.torture,
    "goodput": functools.partial(goodput.torture, minutes=10),
}


def main() -> int:
    table: list[tuple[str, str, str, bool]] = []
    # Under nohup this process ignores it, and so would the runs, which are to save and end.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored after `&`
    given = sorted(sys.argv[1:], key=lambda argument: not argument.startswith("forks"))
    try:
        for argument in given or PARTS:
            name, _, number = argument.partition("=")
            if name not in PARTS or (number and not isinstance(PARTS[name], functools.partial)):
                sys.exit(
                    f"error: expected any of {', '.join(PARTS)}; got {argument!r}. See --help."
                )
            part = PARTS[name]
            if number:
                (keyword,) = part.keywords
                part = functools.partial(part, **{keyword: int(number)})
            print(f"== {argument}", flush=True)
            # After an error here a run may still write into it, and the error is what must be seen.
            temporary = tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True)
            with temporary as path:
                folder = pathlib.Path(path)
                write_images(folder / "images")
                table += [(name, *row) for row in part(folder, folder / "images")]
    finally:  # also of what was done before an error
        print()
        for name, what, figure, is_good in table:
            print(f"{name:10} {what:45} {figure:45} {'ok' if is_good else 'FAILED'}")
    return int(not all(is_good for *_, is_good in table))


if __name__ == "__main__":
    sys.exit(main())
