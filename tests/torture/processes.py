"""The same devices in one process and in two, and a run that changes from one to the other."""

import pathlib
import signal
import time

from torture import runs

STEPS = 100


def torture(folder: pathlib.Path, images: pathlib.Path) -> list[tuple[str, str, bool]]:
    """Returns (what, figure, whether it is as required)."""
    flags = runs.small_mixer(images, folder / "xla", steps=STEPS)
    one, two, switched = (folder / name for name in ("one", "two", "switched"))
    runs.finish(one, flags, processes=1, devices=2)
    runs.finish(two, flags, processes=2, devices=1)
    running = runs.start(switched, flags, processes=2, devices=1)
    while max(runs.losses(switched), default=0) < STEPS // 2:
        time.sleep(0.01)
    running[1].send_signal(signal.SIGTERM)
    codes = [process.wait() for process in running]
    stopped_at = runs.newest_checkpoint(switched)
    runs.finish(switched, flags, processes=1, devices=2)

    rows = []
    for name, workdir in (("two processes", two), (f"switched at {stopped_at}", switched)):
        same = runs.hash_of_state(workdir) == runs.hash_of_state(one)
        same = same and runs.lines(workdir) == runs.lines(one)
        same = same and codes == [0, 0] and 0 < stopped_at < STEPS
        rows.append((f"{STEPS} steps of {name}", "bit-identical" if same else "differ", same))
    return rows
