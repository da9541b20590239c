"""Signals that ask a run to stop, in each of its phases, to one process or to one of two."""

import os
import pathlib
import re
import time

from torture import runs
from torture.asked import PHASES

STEPS = 100
ASKED = [("SIGTERM", phase) for phase in PHASES]
ASKED += [(name, phase) for name in ("SIGHUP", "SIGUSR1") for phase in ("step", "save")]


def torture(folder: pathlib.Path, images: pathlib.Path) -> list[tuple[str, str, bool]]:
    """Returns (what, figure, whether it is as required)."""
    flags = runs.small_mixer(images, folder / "xla", steps=STEPS)
    whole = folder / "whole"
    runs.finish(whole, flags, devices=2)
    rows = []
    for processes, devices in ((1, 2), (2, 1)):
        workdir = folder / f"asked{processes}"
        for name, phase in ASKED:
            os.environ["SIGNAL"], os.environ["PHASE"] = name, phase
            output = folder / f"{processes}-{name}-{phase}.log"
            before = runs.newest_checkpoint(workdir)
            running = runs.start(
                workdir,
                flags,
                processes=processes,
                devices=devices,
                program=("-m", "torture.asked"),
                output=output,
            )
            codes = [process.wait() for process in running]
            ended = time.time()
            shown = [pathlib.Path(f"{output}.{number}").read_text() for number in range(processes)]
            asked = float(re.findall("^asked ([0-9.]+)", shown[-1], re.MULTILINE)[-1])
            done = max(
                map(int, re.findall("^did ([0-9]+)", shown[0], re.MULTILINE)), default=before
            )
            saved = runs.newest_checkpoint(workdir)
            seconds = ended - asked
            figure = f"exit {codes} after {seconds:.1f} s, step {saved}, lost {done - saved}"
            is_good = not any(codes) and saved == done and seconds <= 5 and f"{name}: " in shown[0]
            rows.append((f"{name}, {phase}, {processes} process(es)", figure, is_good))
            print(*rows[-1], flush=True)
        runs.finish(workdir, flags, processes=processes, devices=devices)
        same = runs.hash_of_state(workdir) == runs.hash_of_state(whole)
        same = same and runs.lines(workdir) == runs.lines(whole)
        figure = "bit-identical, same metrics.jsonl" if same else "differs"
        rows.append((f"then to the end, {processes} process(es)", figure, same))
    return rows
