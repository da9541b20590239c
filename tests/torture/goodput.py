"""A run that is killed once a minute: how much of the time is kept as training."""

import json
import pathlib
import statistics
import time

from torture import kills, runs

SECONDS_BETWEEN_KILLS = 60


def torture(
    folder: pathlib.Path, images: pathlib.Path, minutes: int
) -> list[tuple[str, str, bool]]:
    """Returns (what, figure, whether it is as required) for a run of so many minutes.

    What is kept is the training time that the newest checkpoint holds at the end: without
    evaluations, saves and start-ups, and without the steps that were done again.
    """
    flags = runs.small_mixer(images, folder / "xla", steps=100_000)
    flags += ["--config.checkpoint_every=50", "--config.eval_every=100000", "--config.log_every=10"]
    killed = folder / "killed"
    runs.finish(folder / "warm", [*flags, "--config.num_epochs=4"])  # fills the cache
    restarts = []
    begin = time.monotonic()
    for _ in range(minutes):
        started = time.monotonic()
        before = runs.newest_checkpoint(killed)
        (process,) = runs.start(killed, flags, output=folder / "killed.log")
        kills.wait_until_logged(killed, before + 1, lambda process=process: process.poll() is None)
        restarts.append(time.monotonic() - started)
        time.sleep(max(0.0, started + SECONDS_BETWEEN_KILLS - time.monotonic()))
        process.kill()
        process.wait()
    seconds = time.monotonic() - begin
    newest = killed / "checkpoints" / str(runs.newest_checkpoint(killed))
    (meta,) = (newest / "meta").glob("metadata")
    kept = json.loads(meta.read_text())["log"]["train_seconds"]
    restart = statistics.median(restarts)
    return [
        (
            "kept as training steps, one kill a minute",
            f"{kept / seconds:.1%}",
            kept >= 0.8 * seconds,
        ),
        ("restart to first steps, warm cache, median", f"{restart:.1f} s", restart <= 6),
    ]
