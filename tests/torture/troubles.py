"""A run whose reader goes, that is stopped for long, may not read its checkpoints, or hangs."""

import ctypes
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import time

from torture import runs
from torture.hung import PHASES
from torture.kills import output_of, wait_until_logged

STEPS = 100

Rows = list[tuple[str, str, bool]]


def pipes(folder: pathlib.Path, images: pathlib.Path) -> Rows:
    """Ends what reads the output, as `| head -1` does; hangs up a terminal, as ssh does."""
    flags = runs.small_mixer(images, folder / "xla", steps=STEPS)
    whole, piped, hung_up = (folder / name for name in ("whole", "piped", "hung up"))
    runs.finish(whole, flags)
    (process,) = runs.start(piped, flags, output=subprocess.PIPE)
    first = process.stdout.readline()
    process.stdout.close()
    code = process.wait()
    same = code == 0 and first != b"" and _same(piped, whole)
    rows = [("reader of its output ends (SIGPIPE)", _in_words(code, piped, same), same)]

    master, slave = pty.openpty()
    (process,) = runs.start(hung_up, flags, output=slave)
    os.close(slave)
    while max(runs.losses(hung_up), default=0) < STEPS // 4 and process.poll() is None:
        os.read(master, 1 << 16)
    os.close(master)  # from now on, every write fails
    process.send_signal(signal.SIGHUP)
    code, stopped_at = process.wait(), runs.newest_checkpoint(hung_up)
    lost = max(runs.losses(hung_up)) - stopped_at
    is_saved = code == 0 and lost == 0 and 0 < stopped_at < STEPS
    rows.append(
        ("terminal hung up (SIGHUP)", f"exit {code}, step {stopped_at}, lost {lost}", is_saved)
    )
    runs.finish(hung_up, flags)
    same = _same(hung_up, whole)
    rows.append(("then to the end", "bit-identical" if same else "differs", same))
    return rows


def stops(folder: pathlib.Path, images: pathlib.Path) -> Rows:
    """Stops a run for three times its watchdog's limit, then lets it go on."""
    flags = runs.small_mixer(images, folder / "xla", steps=STEPS)
    whole, stopped = folder / "whole", folder / "stopped"
    runs.finish(whole, flags)
    limit = 10
    flags += [f"--config.watchdog_seconds={limit}"]
    (process,) = runs.start(stopped, flags, output=folder / "stopped.log")
    wait_until_logged(stopped, STEPS // 4, lambda: process.poll() is None)
    process.send_signal(signal.SIGSTOP)
    time.sleep(3 * limit)
    process.send_signal(signal.SIGCONT)
    code = process.wait()
    same = code == 0 and _same(stopped, whole)
    what = f"SIGSTOP for {3 * limit} s, watchdog of {limit} s"
    return [(what, _in_words(code, stopped, same), same)]


def unreadable(folder: pathlib.Path, images: pathlib.Path) -> Rows:
    """Takes the permission to read parts of a checkpoint; root loses its right to do without."""
    flags = runs.small_mixer(images, folder / "xla", steps=STEPS)
    whole, stopped = folder / "whole", folder / "stopped"
    runs.finish(whole, flags)
    (process,) = runs.start(stopped, flags, output=folder / "stopped.log")
    wait_until_logged(stopped, STEPS // 2, lambda: process.poll() is None)
    process.kill()
    process.wait()
    newest = stopped / "checkpoints" / str(runs.newest_checkpoint(stopped))
    rows: Rows = []
    arrays = max((newest / "state").rglob("d/*"), key=lambda path: path.stat().st_size)
    for path in (newest.parent, newest, newest / "meta" / "metadata", arrays):
        before, mode = sorted(stopped.rglob("*")), path.stat().st_mode
        path.chmod(0)
        shown = _without_rights(stopped, flags)
        path.chmod(mode)
        is_kept = sorted(stopped.rglob("*")) == before
        is_named = "cannot be read now: " in shown.stdout and "ermission" in shown.stdout
        is_good = shown.returncode == 1 and is_kept and is_named
        figure = f"exit {shown.returncode}, {'nothing changed' if is_kept else 'CHANGED'}"
        what = {newest.parent: "the folder", newest: "a step", arrays: "an array"}
        rows.append((f"no permission for {what.get(path, 'a metadata file')}", figure, is_good))
        print(*rows[-1], flush=True)
    shown = _without_rights(stopped, flags)
    same = f"at step {newest.name}." in shown.stdout and _same(stopped, whole)
    rows.append(("then, readable again", _in_words(shown.returncode, stopped, same), same))
    return rows


def hangs(folder: pathlib.Path, images: pathlib.Path) -> Rows:
    """Reads from a pipe that nobody writes to, in each phase of a run."""
    flags = runs.small_mixer(images, folder / "xla", steps=STEPS)
    whole, hung = folder / "whole", folder / "hung"
    runs.finish(whole, flags)
    os.mkfifo(folder / "pipe")
    os.environ["PIPE"] = str(folder / "pipe")
    rows: Rows = []
    for phase in PHASES:
        os.environ["PHASE"] = phase
        start = time.monotonic()
        (process,) = runs.start(
            hung,
            [*flags, "--config.watchdog_seconds=3"],
            program=("-m", "torture.hung"),
            output=folder / "hung.log",
        )
        code, seconds = process.wait(), time.monotonic() - start
        said = re.search(
            r"Nothing was finished for 3 s .* while (.*): the run ends", output_of(hung)
        )
        is_good = code == 70 and said is not None and said[1] == phase
        rows.append((f"hangs while {phase}", f"exit {code} after {seconds:.0f} s, named", is_good))
        print(*rows[-1], flush=True)
    runs.finish(hung, flags)
    same = _same(hung, whole)
    rows.append(("then to the end", "bit-identical" if same else "differs", same))
    return rows


def _without_rights(workdir: pathlib.Path, flags: list[str]) -> subprocess.CompletedProcess:
    """Runs the program without the capabilities that let root read every file."""

    def drop() -> None:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP

    return subprocess.run(
        [sys.executable, "-u", *runs.PROGRAM, f"--workdir={workdir}", *flags],
        cwd=runs.ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "NPROC": "16"},
        preexec_fn=drop,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _same(workdir: pathlib.Path, whole: pathlib.Path) -> bool:
    return runs.hash_of_state(workdir) == runs.hash_of_state(whole) and (
        runs.lines(workdir) == runs.lines(whole)
    )


def _in_words(code: int, workdir: pathlib.Path, same: bool) -> str:
    step = runs.newest_checkpoint(workdir)
    return f"exit {code}, step {step}, {'bit-identical' if same else 'differs'}"
