"""Runs the programs of a report one after the other, each with a time limit."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mixer.benchmark.timing import is_out_of_memory

_ROOT = pathlib.Path(__file__).parent.parent.parent
_SHOWN = 80  # characters of an error in a cell of the table


class NotMeasuredError(Exception):
    """Why a program has no result, in a few words for a cell of the table."""


def run_json(
    arguments: Sequence[str], environment: Mapping[str, str], seconds: float
) -> dict[str, Any]:
    """Returns the JSON object that a Python program of this project prints.

    Raises:
      NotMeasuredError: it was not done in time, ran out of memory or failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        output, errors = pathlib.Path(folder, "output"), pathlib.Path(folder, "errors")
        with _started(arguments, environment, output, errors) as process:
            try:
                process.wait(max(0.0, seconds))
            except subprocess.TimeoutExpired:
                raise NotMeasuredError("no time") from None
        for line in output.read_text(errors="replace").splitlines():
            if line.startswith("{"):  # printed even where nothing fits, which ends with an error
                with contextlib.suppress(ValueError):  # not ours
                    return dict(json.loads(line))
        raise NotMeasuredError(_reason(errors.read_text(errors="replace"), process.returncode))


def minutes_to_accuracy(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    seconds: float,
    *,
    accuracy: float,
    on_progress: Callable[[str], None],
) -> str:
    """Trains until the test top-1 reaches `accuracy`, a fraction; returns a cell of the table.

    Without it by the end of the run or of `seconds`, the cell has the best accuracy and, of a run
    that was stopped, an estimate of the minutes of training that the whole run takes.

    Raises:
      NotMeasuredError: the run failed or was stopped before its first evaluation.
    """
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        output, errors = pathlib.Path(folder, "output"), pathlib.Path(folder, "errors")
        workdir = pathlib.Path(folder, "run")
        evaluations: list[dict[str, float]] = []
        with _started([*arguments, f"--workdir={workdir}"], environment, output, errors) as process:
            ended, stopped = False, False
            while not (ended or stopped):
                ended = process.poll() is not None
                read = read_evaluations(workdir / "metrics.jsonl")
                for evaluation in read[len(evaluations) :]:
                    on_progress(
                        f"step {evaluation['step']:,.0f}, {evaluation['train_seconds'] / 60:.1f} "
                        f"min of training: test top-1 {evaluation['top1']:.2%}"
                    )
                evaluations = read
                stopped = _reached(evaluations, accuracy) is not None
                stopped |= time.monotonic() >= deadline
                time.sleep(0 if ended or stopped else 1)
        failed = ended and process.returncode != 0
        if failed and _reached(evaluations, accuracy) is None:
            raise NotMeasuredError(_reason(errors.read_text(errors="replace"), process.returncode))
        shown = output.read_text(errors="replace") + errors.read_text(errors="replace")
        totals = re.findall(r"step [\d,]+/([\d,]+)", shown)
        total = int(totals[-1].replace(",", "")) if totals and not ended else None
        return accuracy_cell(evaluations, accuracy, total)


def read_evaluations(path: pathlib.Path) -> list[dict[str, float]]:
    """Returns `step`, `top1` on the test images and `train_seconds` of each evaluation so far.

    The time of an evaluation is that of the last training metrics before it.
    """
    found: list[dict[str, float]] = []
    train_seconds = 0.0
    for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
        if not line.endswith("\n"):  # still being written
            break
        metrics = json.loads(line)
        train_seconds = metrics.get("train_seconds", train_seconds)
        if "test/top1" in metrics:
            found.append(
                {
                    "step": metrics["step"],
                    "top1": metrics["test/top1"],
                    "train_seconds": train_seconds,
                }
            )
    return found


def accuracy_cell(
    evaluations: Sequence[Mapping[str, float]], accuracy: float, total_steps: int | None
) -> str:
    """Returns the minutes to the accuracy, or how far the run came; see `minutes_to_accuracy`.

    `total_steps` is the length of a run that was stopped, None for one that has ended.
    """
    if reached := _reached(evaluations, accuracy):
        return f"{reached['train_seconds'] / 60:.1f} min ({reached['top1']:.2%})"
    if not evaluations:
        raise NotMeasuredError("no time for the first evaluation")
    best = max(evaluations, key=lambda evaluation: evaluation["top1"])
    last = evaluations[-1]
    cell = (
        f"not reached in {last['train_seconds'] / 60:.1f} min (best {best['top1']:.2%}, step "
        f"{best['step']:,.0f})"
    )
    if total_steps and last["train_seconds"]:
        minutes = last["train_seconds"] / last["step"] * total_steps / 60
        cell += f"; all {total_steps:,} steps: about {minutes:.0f} min"
    return cell


def _reached(
    evaluations: Sequence[Mapping[str, float]], accuracy: float
) -> Mapping[str, float] | None:
    return next((found for found in evaluations if found["top1"] >= accuracy), None)


@contextlib.contextmanager
def _started(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    output: pathlib.Path,
    errors: pathlib.Path,
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a Python program; in the end, kills it and all that it has started."""
    with output.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=_ROOT,
            env={**os.environ, **environment, "PYTHONPATH": str(_ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _reason(errors: str, exit_code: int) -> str:
    """Returns why a program failed, from what it has printed."""
    if is_out_of_memory(RuntimeError(errors)):
        return "out of memory"
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("error: ")] or lines[-1:]
    return f"failed: {said[0].removeprefix('error: ')[:_SHOWN]}" if said else f"exit {exit_code}"
