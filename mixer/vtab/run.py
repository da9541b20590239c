"""Runs everything of VTAB-1k that is not done, one task after the other."""

import datetime
import pathlib
import time
from collections.abc import Mapping, Sequence

from mixer.config import base_config
from mixer.data.vtab import TASKS
from mixer.runtime.workdir_lock import folder_lock
from mixer.sweep import here
from mixer.sweep.plan import Outcomes, Run, Sweep, count_to_do
from mixer.sweep.runs import Train, run_sweep
from mixer.vtab.plan import Progress, Vtab, missing_data, progress_of, with_final
from mixer.vtab.report import summarize, write


def train_run_here(sweep: Sweep, run: Run, log: pathlib.Path) -> int:
    """Trains in this process; returns an exit code."""
    config = base_config()
    config.update(sweep.run_config(run))
    return here.train_here(config, sweep.folder(run), log)


def read_all(vtab: Vtab) -> dict[str, Progress]:
    """Returns what is done of every task that has begun.

    Raises:
      ValueError: the folder is of something else, or holds runs of another config.
    """
    vtab.check_workdir()
    begun = [task for task in TASKS if (vtab.workdir / task).exists()]
    return {task: progress_of(vtab, task) for task in begun}


def find_missing(vtab: Vtab, progress: Mapping[str, Progress]) -> dict[str, str]:
    """Returns the tasks that are to be run and have no data, each with what is missing.

    Raises:
      ValueError: no task has its data.
    """
    to_do = [task for task in vtab.tasks if not is_done(vtab, progress.get(task))]
    missing = {task: why for task in to_do if (why := missing_data(vtab, task))}
    if missing and len(missing) == len(to_do) == len(vtab.tasks):
        task, why = next(iter(missing.items()))
        raise ValueError(
            f"Expected the data of at least one of {len(missing)} tasks; got none. The first, "
            f"{task}: {why}"
        )
    return missing


def is_done(vtab: Vtab, progress: Progress | None) -> bool:
    """True if a task has its result."""
    return progress is not None and len(progress.test) == len(vtab.seeds)


def overview(vtab: Vtab, progress: Mapping[str, Progress], missing: Mapping[str, str]) -> str:
    """Returns what will be run, to print before it starts."""
    done = [task for task in vtab.tasks if is_done(vtab, progress.get(task))]
    runs = sum(
        _count_to_do(vtab, task, progress.get(task)) for task in vtab.tasks if task not in missing
    )
    size = "" if vtab.recipe.own_pixels else f", {vtab.recipe.size},"
    lines = [
        f"VTAB-1k of {vtab.weights}{size} in {vtab.workdir}: {len(vtab.tasks)} tasks, {len(done)} "
        f"done, {runs} runs to do.",
        *(f"Not run: {task}: {why}" for task, why in missing.items()),
    ]
    return "\n".join(lines)


def go_on(vtab: Vtab, trainer: Train | None = None) -> dict[str, str]:
    """Says what is done and what is missing, then does as `run_all`."""
    progress = read_all(vtab)
    missing = find_missing(vtab, progress)
    print(overview(vtab, progress, missing), flush=True)
    return run_all(vtab, progress, missing, trainer=trainer)


def run_all(
    vtab: Vtab,
    progress: Mapping[str, Progress],
    missing: Mapping[str, str],
    *,
    trainer: Train | None = None,
) -> dict[str, str]:
    """Runs what is left, writes the report after every task, and returns task -> why it failed.

    A task that fails does not stop the others. Without `trainer`, every run is a process.

    Raises:
      ValueError: another program is at work in the folder.
      KeyboardInterrupt: on an interrupt, after the current run has been stopped.
    """
    progress, problems = dict(progress), dict(missing)
    clock = _Clock(vtab, [task for task in vtab.tasks if task not in missing], progress)
    with folder_lock(vtab.workdir, "run"):
        for task in clock.tasks:
            if not is_done(vtab, progress.get(task)):
                print(clock.say(task), flush=True)
                problems.pop(task, None)
                try:
                    progress[task] = _run_task(vtab, task, trainer)
                    problems |= _failed(vtab, task, progress[task])
                except ValueError as error:  # no run of it could begin
                    problems[task] = str(error)
                    print(f"  {error}", flush=True)
                clock.finished(task)
                write(summarize(vtab, progress, problems), vtab.workdir, picture=False)
        print(f"\n{write(summarize(vtab, progress, problems), vtab.workdir)}", end="")
    return {task: why for task, why in problems.items() if task not in missing}


def _run_task(vtab: Vtab, task: str, trainer: Train | None) -> Progress:
    tuning = vtab.tuning(task)
    tuned = run_sweep(tuning, progress_of(vtab, task).tuned, train=trainer)
    progress = with_final(vtab, task, tuning, tuned)
    if progress.learning_rate is None:
        return progress
    final = vtab.final(task, progress.learning_rate)
    outcomes = run_sweep(final, progress.final, train=trainer)
    return Progress(tuned, progress.learning_rate, progress.val, outcomes)


def _failed(vtab: Vtab, task: str, progress: Progress) -> dict[str, str]:
    folder = vtab.workdir / task
    outcomes: Sequence[tuple[str, Outcomes]] = [
        ("tune", progress.tuned),
        ("final", progress.final),
    ]
    runs = [
        str(folder / part / name / f"seed={seed}")
        for part, found in outcomes
        for (name, seed), scores in found.items()
        if scores is None
    ]
    return {task: f"failed: {', '.join(runs)}"} if runs else {}


def _count_to_do(vtab: Vtab, task: str, progress: Progress | None) -> int:
    """Returns the number of runs of a task that are left."""
    progress = progress or Progress({}, None, None, {})
    return count_to_do(vtab.tuning(task), progress.tuned) + len(vtab.seeds) - len(progress.test)


class _Clock:
    """Says how long what is left takes: the cost of a run grows with the area of its images."""

    def __init__(self, vtab: Vtab, tasks: Sequence[str], progress: Mapping[str, Progress]):
        self.tasks = [task for task in tasks if not is_done(vtab, progress.get(task))]
        self._started = time.monotonic()
        self._costs = {
            task: _count_to_do(vtab, task, progress.get(task)) * _cost_of_run(vtab, task)
            for task in self.tasks
        }
        self._done: list[str] = []

    def say(self, task: str) -> str:
        """Returns a line about a task that begins: when it will be done, and when all will be."""
        line = f"[{len(self._done) + 1} of {len(self.tasks)}] {task}"
        cost = sum(self._costs[task] for task in self._done)
        if not cost:
            return line
        seconds = (time.monotonic() - self._started) / cost
        left = sum(self._costs.values()) - cost
        own, total = (
            datetime.timedelta(seconds=round(seconds * part)) for part in (self._costs[task], left)
        )
        return f"{line}, about {own}; {total} left for all"

    def finished(self, task: str) -> None:
        self._done.append(task)


def _cost_of_run(vtab: Vtab, task: str) -> float:
    config = vtab.tuning(task).config
    return config["image_size"] ** 2 * config["num_steps"] * config["batch_size"]
