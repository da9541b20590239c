"""`kill -9` at random moments of one run: in a step, in the middle of a save, while it starts."""

import pathlib
import random
import statistics
import time
from collections.abc import Callable

from torture import runs

STEPS = 300


def torture(folder: pathlib.Path, images: pathlib.Path, kills: int) -> list[tuple[str, str, bool]]:
    """Returns (what, figure, whether it is as required) for one run that is killed so often."""
    flags = runs.small_mixer(images, folder / "xla", steps=STEPS)
    flags += ["--config.checkpoint_every=5"]
    whole, killed = folder / "whole", folder / "killed"
    runs.finish(whole, flags)
    expected = runs.losses(whole)

    rng = random.Random(0)
    shares = {"in a step": 0.6, "in a save": 0.25, "at the start": 0.15}
    counts = dict.fromkeys(shares, 0)
    seen = conflicts = in_save = 0
    restarts = []
    begin = time.monotonic()
    for number in range(kills):
        (kind,) = rng.choices(list(shares), list(shares.values()))
        before, remains = runs.newest_checkpoint(killed), unfinished_saves(killed)
        left = STEPS - 20 - before
        steps = rng.randint(1, max(1, min(left, 2 * left // (kills - number))))
        started = time.monotonic()
        (process,) = runs.start(killed, flags, output=folder / "killed.log")
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
                wait_until_logged(killed, before + steps, alive)
                time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.wait()
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
    runs.finish(killed, flags)
    seconds = time.monotonic() - begin
    same = runs.hash_of_state(killed) == runs.hash_of_state(whole)
    return [
        ("kills", f"{kills}: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()), True),
        ("left an unfinished checkpoint behind", str(in_save), in_save > 0 or kills < 10),
        ("parameters and optimizer state", "bit-identical" if same else "differ", same),
        ("logged losses that disagree", f"{conflicts} of {seen}", conflicts == 0),
        (
            "metrics.jsonl of the undisturbed run",
            "the same lines" if runs.lines(killed) == runs.lines(whole) else "other lines",
            runs.lines(killed) == runs.lines(whole),
        ),
        ("start to the first new step, median", f"{statistics.median(restarts):.1f} s", True),
        ("in all", f"{seconds:.0f} s", True),
    ]


def wait_until_logged(workdir: pathlib.Path, step: int, alive: Callable[[], bool]) -> None:
    """Waits for a step of the process that has started last, or for its end.

    What the one before has logged may be there until this one has resumed.
    """
    log = workdir.with_suffix(".log.0")
    while alive() and not (
        b"Compiled" in log.read_bytes() and max(runs.losses(workdir), default=0) >= step
    ):
        time.sleep(0.005)


def unfinished_saves(workdir: pathlib.Path) -> set[int]:
    """Returns the inodes of the checkpoints whose last file is not there yet."""
    return {
        path.stat().st_ino
        for path in (workdir / "checkpoints").glob("*")
        if not (path / "commit_success.txt").exists()
    }
