"""What a sweep runs, what it chooses by, and what comes next.

Every combination of the grid is run with the first seed, the best by `select` is chosen, and it
alone is run with the other seeds, whose mean and standard deviation of `report` are the result. For
the paper's four learning rates and three seeds that is 6 runs instead of 12; the price is that the
choice sees one seed. Nothing is chosen by `report`: its images would no longer be unseen.
Source: section 3 (learning rates; the mean of three fine-tunings).
"""

import copy
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from mixer.sweep.grid import Overrides, combination_names, find_value

PROGRAM = (sys.executable, "-m", "mixer.main")
_SHOWN = 20  # combinations in the overview

Run = tuple[str, int]  # name of a combination, seed
# The last evaluation of a run, None if it failed; a run without an outcome is still to be done.
Outcomes = dict[Run, dict[str, float] | None]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A checked sweep: see `create_sweep`."""

    config_file: str  # FILE[:SIZE]
    overrides: Overrides  # of every run
    config: dict[str, Any]  # with these overrides, as JSON holds it
    combinations: dict[str, Overrides]  # by name
    seeds: tuple[int, ...]
    workdir: pathlib.Path
    select: str  # "minival/top1"
    report: str  # "test/top1"

    def folder(self, run: Run) -> pathlib.Path:
        name, seed = run
        return self.workdir / name / f"seed={seed}"

    def command(self, run: Run, program: Sequence[str] = PROGRAM) -> list[str]:
        name, seed = run
        overrides = {**self.overrides, **self.combinations[name], "seed": seed}
        return [
            *(*program, f"--config={self.config_file}", f"--workdir={self.folder(run)}"),
            *(f"--config.{key}={value}" for key, value in overrides.items()),
        ]

    def run_config(self, run: Run) -> dict[str, Any]:
        """Returns what the program writes to `config.json`."""
        name, seed = run
        config = copy.deepcopy(self.config)
        for key, value in {**self.combinations[name], "seed": seed}.items():
            section, last = find_value(config, key)
            section[last] = json.loads(json.dumps(value))  # lists for tuples
        return config


def create_sweep(
    *,
    config_file: str,
    overrides: Overrides,
    config: dict[str, Any],
    combinations: Sequence[Overrides],
    seeds: tuple[int, ...],
    workdir: pathlib.Path,
    select: str,
    report: str,
) -> Sweep:
    """Returns the sweep; reads and writes nothing.

    Raises:
      ValueError: an unknown key, one that is given twice, two equal combinations, metrics that the
        runs will not have or that must not be chosen by.
    """
    if not combinations or not all(combinations):
        raise ValueError("Expected at least one value to vary; got an empty grid.")
    if "seed" in overrides:
        raise ValueError("Expected the seeds as --seeds=0,1,2; got --config.seed.")
    for key in {key: None for combination in combinations for key in combination}:
        find_value(config, key)
        if key in overrides or key == "seed":
            flag = "--seeds" if key == "seed" else f"--config.{key}"
            raise ValueError(f"Both the grid and {flag} set {key!r}. Keep one of them.")
    names = combination_names(combinations)
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"Expected different combinations; got {name} twice.")
    _check_metrics(select, report, config["eval_splits"], config["train_split"])
    return Sweep(
        config_file=config_file,
        overrides=overrides,
        config=config,
        combinations=dict(zip(names, combinations, strict=True)),
        seeds=seeds,
        workdir=workdir,
        select=select,
        report=report,
    )


def winner(sweep: Sweep, outcomes: Outcomes) -> str | None:
    """Returns the combination with the best `select` of the first seed; the earlier one of equals.

    None while a combination has yet to be run with that seed, and if none is left: one of which any
    run failed cannot win.
    """
    first = {name: (name, sweep.seeds[0]) for name in sweep.combinations}
    if not all(run in outcomes for run in first.values()):
        return None
    failed = {name for (name, _), outcome in outcomes.items() if outcome is None}
    scores = {
        name: outcome[sweep.select]
        for name, run in first.items()
        if (outcome := outcomes[run]) is not None and name not in failed
    }
    return max(scores, key=lambda name: scores[name], default=None)


def runs_to_do(sweep: Sweep, outcomes: Outcomes) -> list[Run]:
    """Returns what can be run now: the grid with the first seed, then the best with the others.

    None are left when the sweep has ended.
    """
    best = winner(sweep, outcomes)
    if best is None:
        runs = [(name, sweep.seeds[0]) for name in sweep.combinations]
    else:
        runs = [(best, seed) for seed in sweep.seeds]
    return [run for run in runs if run not in outcomes]


def count_to_do(sweep: Sweep, outcomes: Outcomes) -> int:
    """Returns how many runs are left, if none fails and a new best has none of its seeds yet."""
    now = runs_to_do(sweep, outcomes)
    comes_later = now and winner(sweep, outcomes) is None
    return len(now) + (len(sweep.seeds) - 1 if comes_later else 0)


def overview(sweep: Sweep, outcomes: Outcomes) -> str:
    """Returns what the sweep is and how much of it is left, to be shown before anything runs."""
    first, *others = sweep.seeds
    then = f", then the best with {', '.join(map(str, others))}" if others else ""
    lines = [f"Sweep of {sweep.config_file} in {sweep.workdir} with seed {first}{then}:"]
    for name in list(sweep.combinations)[:_SHOWN]:
        outcome = outcomes.get((name, first))
        lines.append(
            f"  {name}" + (f": {sweep.select} {outcome[sweep.select]:.2%}" if outcome else "")
        )
    if len(sweep.combinations) > _SHOWN:
        lines.append(f"  ... and {len(sweep.combinations) - _SHOWN} more")
    lines.append(
        f"Chosen by {sweep.select}, reported: {sweep.report}. Runs finished: {len(outcomes)}, "
        f"to do: {count_to_do(sweep, outcomes)}."
    )
    return "\n".join(lines)


def _check_metrics(select: str, report: str, eval_splits: dict[str, str], train_split: str) -> None:
    for flag, metric in (("--select", select), ("--report", report)):
        split, _, name = metric.partition("/")
        if split not in eval_splits or name != "top1":
            known = ", ".join(f"{split}/top1" for split in eval_splits)
            raise ValueError(
                f"Expected {flag} to be one of the config's eval_splits, {known}; got {metric!r}. "
                "Another one is added by --config.eval_splits.NAME=SPLIT."
            )
    chosen_by, reported = (eval_splits[key.partition("/")[0]] for key in (select, report))
    if select.startswith("test") or chosen_by in (reported, train_split):
        raise ValueError(
            "Expected to choose by images that are neither trained on nor reported, as those of a "
            f"split 'minival'; got --select={select} ({chosen_by}), --report={report} "
            f"({reported}), trained on {train_split}. Chosen by the reported images, the best is "
            "better on these than on any others."
        )
