"""`kill -9` at random moments of one run: in a step, in the middle of a save, while it starts."""

import os
import pathlib
import random
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torture import runs


def torture(
    folder: pathlib.Path,
    images: pathlib.Path,
    kills: int,
    *,
    steps: int = 300,
    changes: Sequence[str] = (),
    start: Callable[..., list[Any]] = runs.start,
) -> list[tuple[str, str, bool]]:
    """Returns (what, figure, whether it is as required) for one run that is killed so often.

    Then it is stopped once by SIGTERM, and run to its end.
    """
    flags = runs.small_mixer(images, folder / "xla", steps=steps)
    flags += ["--config.checkpoint_every=5", *changes]
    whole, killed = folder / "whole", folder / "killed"
    runs.finish(whole, flags, start=start)
    expected = runs.losses(whole)

    rng = random.Random(0)
    shares = {"in a step": 0.6, "in a save": 0.25, "at the start": 0.15}
    counts = dict.fromkeys(shares, 0)
    seen = conflicts = in_save = too_late = 0
    restarts = []
    begin = time.monotonic()
    for number in range(kills):
        (kind,) = rng.choices(list(shares), list(shares.values()))
        before, remains = runs.newest_checkpoint(killed), unfinished_saves(killed)
        left = steps - 20 - before
        more = rng.randint(1, max(1, min(left, 2 * left // (kills - number))))
        started = time.monotonic()
        (process,) = start(killed, flags, output=folder / "killed.log")
        alive = lambda process=process: process.poll() is None  # noqa: E731
        if kind == "at the start":
            time.sleep(rng.uniform(0, 4))
        else:
            wait_until_logged(killed, before + 1, alive)
            restarts.append(time.monotonic() - started)
            if kind == "in a save":
                while not unfinished_saves(killed) - remains and alive():
                    time.sleep(0.001)
            else:
                wait_until_logged(killed, before + more, alive)
                time.sleep(rng.uniform(0, 0.1))
        process.kill()
        too_late += process.wait(timeout=60) != -signal.SIGKILL
        counts[kind] += 1
        in_save += bool(unfinished_saves(killed) - remains)
        logged = runs.losses(killed)
        seen += len(logged)
        conflicts += sum(loss != expected[step] for step, loss in logged.items())
        print(
            f"kill {number + 1:3} {kind:12} after {time.monotonic() - started:5.1f} s, checkpoint "
            f"{before:3} -> {runs.newest_checkpoint(killed):3}, "
            f"logged {max(logged, default=0):3}",
            flush=True,
        )
    stopped, is_stopped = stop(killed, flags, start)
    runs.finish(killed, flags, start=start)
    is_stopped &= f"Resuming {killed} at step {stopped}." in output_of(killed)
    seconds = time.monotonic() - begin
    same = runs.hash_of_state(killed) == runs.hash_of_state(whole)
    return [
        ("kills", f"{kills}: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()), True),
        ("of which came after the end", str(too_late), too_late == 0),
        ("left an unfinished checkpoint behind", str(in_save), in_save > 0 or kills < 10),
        ("parameters and optimizer state", "bit-identical" if same else "differ", same),
        ("logged losses that disagree", f"{conflicts} of {seen}", conflicts == 0),
        (
            "metrics.jsonl of the undisturbed run",
            "the same lines" if runs.lines(killed) == runs.lines(whole) else "other lines",
            runs.lines(killed) == runs.lines(whole),
        ),
        ("then SIGTERM", f"all of step {stopped} saved, exit code 0", is_stopped),
        (
            "every step is in TensorBoard",
            "yes" if steps_in_tensorboard(killed) >= set(expected) else "no",
            steps_in_tensorboard(killed) >= set(range(1, steps + 1)),
        ),
        ("start to the first new step, median", f"{statistics.median(restarts):.1f} s", True),
        ("in all", f"{seconds:.0f} s", True),
    ]


def wait_until_logged(workdir: pathlib.Path, step: int, alive: Callable[[], bool]) -> None:
    """Waits for a step of the process that has started last, or for its end.

    What the one before has logged may be there until this one has resumed.

    Raises:
      TimeoutError: neither has come in ten minutes; holds what it has printed.
    """
    deadline = time.monotonic() + 600
    while alive() and not (
        "Compiled" in output_of(workdir) and max(runs.losses(workdir), default=0) >= step
    ):
        time.sleep(0.005)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{workdir} has not logged step {step}:\n{output_of(workdir)}")


def output_of(workdir: pathlib.Path) -> str:
    """Returns what the process that has started last has printed; it may not have begun."""
    log = workdir.with_suffix(".log.0")
    return log.read_text() if log.exists() else ""


def stop(
    workdir: pathlib.Path, flags: list[str], start: Callable[..., list[Any]]
) -> tuple[int, bool]:
    """Goes on for 3 steps or more, then sends SIGTERM; returns the step saved and if all is."""
    before = runs.newest_checkpoint(workdir)
    (process,) = start(workdir, flags, output=workdir.with_suffix(".log"))
    wait_until_logged(workdir, before + 3, lambda: process.poll() is None)
    process.terminate()
    code, saved, output = (
        process.wait(timeout=600),
        runs.newest_checkpoint(workdir),
        output_of(workdir),
    )
    said = any(f"SIGTERM: {what}" in output for what in (f"saving step {saved:,}", "nothing to"))
    logged = max(runs.losses(workdir), default=0)
    return saved, code == 0 and said and logged == saved and f"step {saved}/" in output


def steps_in_tensorboard(workdir: pathlib.Path) -> set[int]:
    return {
        event.step
        for path in workdir.glob("events.out.tfevents.*")
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tag == "loss"
    }


def unfinished_saves(workdir: pathlib.Path) -> set[int]:
    """Returns the inodes of the checkpoints whose last file is not there yet."""
    checkpoints = workdir / "checkpoints"
    if not checkpoints.is_dir():
        return set()
    # An entry knows its inode even where the run has just renamed or removed it.
    with os.scandir(checkpoints) as entries:
        return {
            entry.inode()
            for entry in entries
            if not os.path.exists(os.path.join(entry.path, "commit_success.txt"))
        }
