"""Runs a sweep: one training process after another, each in its own folder.

Finished runs are recognised by the contents of their folders, so a sweep resumes no matter where or
how its runs were made.
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
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from mixer.config import count_steps, differences
from mixer.reporting.metrics import is_evaluation, read_metrics
from mixer.runtime.file_lock import file_lock
from mixer.runtime.workdir_lock import LOCK_NAME, folder_lock
from mixer.sweep import report
from mixer.sweep.plan import PROGRAM, Outcomes, Run, Sweep, count_to_do, runs_to_do

LOG_NAME = "log.txt"
_LOG_LINES_SHOWN = 12
_SECONDS_TO_STOP = 60.0  # an interrupted run may be saving a checkpoint
# A resumed run may change these keys, but the runs of one sweep must agree on them.
_COMPARED_TOO = ("eval_crop", "eval_resize", "eval_splits", "init_from")


# Trains one run of a sweep, with its output in a log; returns the exit code.
Train = Callable[[Sweep, Run, pathlib.Path], int]


def run_sweep(
    sweep: Sweep,
    outcomes: Outcomes,
    *,
    program: Sequence[str] = PROGRAM,
    train: Train | None = None,
) -> Outcomes:
    """Runs everything that is still pending, and returns all outcomes.

    Prints progress, and writes the report (`mixer/sweep/report.py`) after each run. Each run is a
    process of `program`, unless there is a `train`.

    Raises:
      ValueError: another sweep is at work in the folder; or the first run did not begin, so that no
        other is started.
      KeyboardInterrupt: on an interrupt, after the current run has been stopped.
    """
    with folder_lock(sweep.workdir, "sweep"):
        return _run_all(sweep, dict(outcomes), train or _process_of(program))


def _process_of(program: Sequence[str]) -> Train:
    def train(sweep: Sweep, run: Run, log: pathlib.Path) -> int:
        return execute(sweep.command(run, program), log)

    return train


def _run_all(sweep: Sweep, outcomes: Outcomes, train: Train) -> Outcomes:
    started, done = time.monotonic(), 0
    while to_do := runs_to_do(sweep, outcomes):
        run = to_do[0]
        left = count_to_do(sweep, outcomes)
        eta = ""
        if done:
            seconds = round((time.monotonic() - started) / done * left)
            eta = f", ETA {datetime.timedelta(seconds=seconds)}"
        print(f"Run {done + 1} of {done + left}{eta}: {sweep.folder(run) / LOG_NAME}", flush=True)
        began = time.monotonic()
        outcomes[run] = _run(sweep, run, train)
        if not any(outcomes.values()) and not (sweep.folder(run) / "config.json").exists():
            others = count_to_do(sweep, outcomes)
            raise ValueError(
                f"The run ended before its first step, and nothing here has worked yet, so the "
                f"other {others} runs are not started. Correct what {sweep.folder(run) / LOG_NAME} "
                "says, then run the same command again."
            )
        done += 1
        # After a short run, the picture would take a good part of its time.
        is_last = not runs_to_do(sweep, outcomes)
        report.write(sweep, outcomes, picture=is_last or time.monotonic() - began > 60)
    return outcomes


def read_outcomes(sweep: Sweep) -> Outcomes:
    """Returns the outcomes of the finished runs in the sweep's folder.

    Raises:
      ValueError: the folder contains runs of another sweep, or runs with another config; the
        message lists the differences.
    """
    runs = list(itertools.product(sweep.combinations, sweep.seeds))
    others = set(sweep.workdir.glob("*/seed=*")) - {sweep.folder(run) for run in runs}
    if others:
        lines = "\n  ".join(sorted(str(folder.relative_to(sweep.workdir)) for folder in others))
        raise ValueError(
            f"{sweep.workdir} contains runs that are not part of this sweep:\n  {lines}\nExpected "
            "the same grid and seeds as before, or more. Use another --workdir, or delete these "
            "folders."
        )
    for run in runs:
        _check_same_config(sweep, run)
    results = {run: _read_result(sweep.folder(run), sweep.run_config(run)) for run in runs}
    return {run: result for run, result in results.items() if result is not None}


def _run(sweep: Sweep, run: Run, train: Train) -> dict[str, float] | None:
    """Runs the program and returns its result; if it fails, prints why and returns None."""
    log = sweep.folder(run) / LOG_NAME
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    while True:
        _wait_for_other_program(log.parent)
        log_start = log.stat().st_size if log.exists() else 0
        exit_code = train(sweep, run, log)
        if exit_code == 0 or not _is_at_work(log.parent):
            break
    result = _read_result(log.parent, sweep.run_config(run)) if exit_code == 0 else None
    if result is None:
        why = f"exit code {exit_code}" if exit_code else "no evaluation after the last step"
        print(f"  failed, {why}:{end_of_log(log, log_start)}", flush=True)
        return None
    wall = datetime.timedelta(seconds=round(time.monotonic() - start))
    values = ", ".join(f"{key} {result[key]:.2%}" for key in {sweep.select: 0, sweep.report: 0})
    print(f"  {values}, in {wall}", flush=True)
    return result


def end_of_log(log: pathlib.Path, start: int = 0) -> str:
    """Returns the last lines of a log, from a byte on, each after a line break and indented."""
    text = log.read_bytes()[start:].decode(errors="replace")
    return "".join(f"\n    {line}" for line in text.splitlines()[-_LOG_LINES_SHOWN:])


def _wait_for_other_program(folder: pathlib.Path) -> None:
    """Waits while the run is at work elsewhere: started by hand, or on another machine."""

    def say() -> None:
        print(f"  at work elsewhere ({(folder / LOCK_NAME).read_text()}): waiting", flush=True)

    if (folder / LOCK_NAME).exists():
        with file_lock(folder / LOCK_NAME, say):
            pass


def _is_at_work(folder: pathlib.Path) -> bool:
    """Returns whether a program holds the lock of a run."""
    lock = folder / LOCK_NAME
    try:
        with file_lock(lock, _refuse) if lock.exists() else contextlib.nullcontext():
            return False
    except BlockingIOError:
        return True


def _refuse() -> None:
    raise BlockingIOError


def execute(command: Sequence[str], log: pathlib.Path) -> int:
    """Runs a command and returns its exit code; its output is appended to the log."""
    with log.open("a") as output:
        # In its own session, so that it receives each interrupt exactly once, from here.
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
            # A background process (`&`) ignores SIGINT, and so does its child.
            ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            process.send_signal(signal.SIGTERM if ignored else signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS_TO_STOP)
            raise
        finally:
            process.kill()  # no effect if it has exited
            process.wait()


def _read_result(folder: pathlib.Path, config: dict[str, Any]) -> dict[str, float] | None:
    """Returns the evaluation after the last step, or None if the run has not finished."""
    lines = read_metrics(epath.Path(folder))
    evaluations = [line for line in lines if is_evaluation(line)]
    if evaluations and evaluations[-1]["step"] == count_steps(
        config, lambda: _num_examples(config)
    ):
        return evaluations[-1]
    return None


def _num_examples(config: dict[str, Any]) -> int:
    keys = ("dataset", "train_split", "data_dir", "train_fraction", "label_key")
    return _count_examples(*(config[key] for key in keys))


@functools.cache
def _count_examples(
    dataset: str, split: str, data_dir: str, fraction: float, label_key: str
) -> int:
    from mixer.data.datasets import open_dataset  # imports TensorFlow

    opened = open_dataset(dataset, split, data_dir, fraction=fraction, label_key=label_key)
    return len(opened.records)


def _check_same_config(sweep: Sweep, run: Run) -> None:
    path = sweep.folder(run) / "config.json"
    try:
        old = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # missing, or truncated by a kill
        return
    except (ValueError, RecursionError) as error:  # not text, or nested too deeply
        old = error
    if not isinstance(old, dict):
        raise ValueError(
            f"Expected {path} to be the config of a run; got something else. Use another "
            "--workdir, or delete that folder."
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
            "Expected the same config for all runs of a sweep. Use another --workdir."
        )
