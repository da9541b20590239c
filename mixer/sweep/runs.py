"""Runs a sweep: one process of the program after another, each in its folder.

What is finished is read from the folders, so that a sweep goes on wherever, and by whatever
commands, its runs were made.
"""

import contextlib
import datetime
import functools
import itertools
import json
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from etils import epath

from mixer.config import count_steps, differences
from mixer.reporting.metrics import read_metrics
from mixer.sweep import report
from mixer.sweep.plan import PROGRAM, Outcomes, Run, Sweep, count_to_do, runs_to_do

LOG_NAME = "log.txt"
_LOG_LINES_SHOWN = 12
_SECONDS_TO_STOP = 60.0  # an interrupted run may be in the middle of a save
# A run that goes on may change these; runs that are compared may not.
_COMPARED_TOO = ("eval_crop", "eval_resize", "eval_splits", "init_from")


def run_sweep(sweep: Sweep, outcomes: Outcomes, *, program: Sequence[str] = PROGRAM) -> Outcomes:
    """Runs what is to be done beside those outcomes and returns all of them.

    Says what runs and writes the report (`mixer/sweep/report.py`) after each run.

    Raises:
      KeyboardInterrupt: after the run of that moment was interrupted, too.
    """
    outcomes = dict(outcomes)
    started, done = time.monotonic(), 0
    while to_do := runs_to_do(sweep, outcomes):
        run = to_do[0]
        left = count_to_do(sweep, outcomes)
        eta = ""
        if done:
            seconds = round((time.monotonic() - started) / done * left)
            eta = f", ETA {datetime.timedelta(seconds=seconds)}"
        print(f"Run {done + 1} of {done + left}{eta}: {sweep.folder(run) / LOG_NAME}", flush=True)
        outcomes[run] = _run(sweep, run, program)
        done += 1
        report.write(sweep, outcomes)
    return outcomes


def read_outcomes(sweep: Sweep) -> Outcomes:
    """Returns the outcomes of the finished runs in the folder of the sweep; writes nothing.

    Raises:
      ValueError: the folder holds other runs, or some with another config, named with what differs.
    """
    runs = list(itertools.product(sweep.combinations, sweep.seeds))
    others = set(sweep.workdir.glob("*/seed=*")) - {sweep.folder(run) for run in runs}
    if others:
        lines = "\n  ".join(sorted(str(folder.relative_to(sweep.workdir)) for folder in others))
        raise ValueError(
            f"{sweep.workdir} holds runs that are not of this sweep:\n  {lines}\nExpected the grid "
            "and the seeds as before, or more. Use another --workdir, or delete these folders."
        )
    for run in runs:
        _check_same_config(sweep, run)
    results = {run: _read_result(sweep.folder(run), sweep.run_config(run)) for run in runs}
    return {run: result for run, result in results.items() if result is not None}


def _run(sweep: Sweep, run: Run, program: Sequence[str]) -> dict[str, float] | None:
    """Returns the result of a run that is made now; None if it failed, which is shown."""
    log = sweep.folder(run) / LOG_NAME
    log.parent.mkdir(parents=True, exist_ok=True)
    start, log_start = time.monotonic(), log.stat().st_size if log.exists() else 0
    exit_code = _execute(sweep.command(run, program), log)
    result = _read_result(log.parent, sweep.run_config(run)) if exit_code == 0 else None
    if result is None:
        why = f"exit code {exit_code}" if exit_code else "no evaluation after the last step"
        text = log.read_bytes()[log_start:].decode(errors="replace")
        lines = "".join(f"\n    {line}" for line in text.splitlines()[-_LOG_LINES_SHOWN:])
        print(f"  failed, {why}:{lines}", flush=True)
        return None
    wall = datetime.timedelta(seconds=round(time.monotonic() - start))
    values = ", ".join(f"{key} {result[key]:.2%}" for key in (sweep.select, sweep.report))
    print(f"  {values}, in {wall}", flush=True)
    return result


def _execute(command: Sequence[str], log: pathlib.Path) -> int:
    """Runs a command and returns its exit code; its output is appended to the log."""
    with log.open("a") as output:
        # In a session of its own: it gets an interrupt once, from here, wherever that came from.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The run, too, ignores interrupts if this process was started that way, as by `&`.
            ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            process.send_signal(signal.SIGTERM if ignored else signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS_TO_STOP)
            raise
        finally:
            process.kill()  # does nothing to one that has ended
            process.wait()


def _read_result(folder: pathlib.Path, config: dict[str, Any]) -> dict[str, float] | None:
    """Returns the evaluation after the last step, None of a run that has not come so far."""
    lines = read_metrics(epath.Path(folder))
    evaluations = [line for line in lines if any(key.endswith("/top1") for key in line)]
    if evaluations and evaluations[-1]["step"] == count_steps(
        config, lambda: _num_examples(config)
    ):
        return evaluations[-1]
    return None


def _num_examples(config: dict[str, Any]) -> int:
    return _count_examples(
        *(config[key] for key in ("dataset", "train_split", "data_dir", "train_fraction"))
    )


@functools.cache
def _count_examples(dataset: str, split: str, data_dir: str, fraction: float) -> int:
    from mixer.data.datasets import open_dataset  # brings in TensorFlow

    return len(open_dataset(dataset, split, data_dir, fraction=fraction).records)


def _check_same_config(sweep: Sweep, run: Run) -> None:
    path = sweep.folder(run) / "config.json"
    try:
        old = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # not there, or cut short by a kill
        return
    except (ValueError, RecursionError) as error:  # no text, or nested too deep
        old = error
    if not isinstance(old, dict):
        raise ValueError(
            f"Expected the config of a run in {path}; got something else. Use another --workdir, "
            "or delete that folder."
        )
    new = sweep.run_config(run)
    changes = differences(old, new) + [
        f"{key}: {old.get(key)!r} before, {new.get(key)!r} now"
        for key in _COMPARED_TOO
        if old.get(key) != new.get(key)
    ]
    if changes:
        lines = "\n  ".join(changes)
        raise ValueError(
            f"{path.parent} was run with another config:\n  {lines}\n"
            "Expected the same for all runs that are compared. Use another --workdir."
        )
