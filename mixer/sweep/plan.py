"""Decides which runs a sweep consists of, and which come next.

Every combination of the grid is run with the first seed. The one with the best `select` metric is
then run with the other seeds, and the result is the mean and standard deviation of its `report`
metric. For the paper's four learning rates and three seeds, this takes 6 runs instead of 12, at the
price that the selection sees a single seed. `report` never influences the selection, so that its
images stay unseen. Source: section 3 (learning rates; the mean of three fine-tunings).
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
_SHOWN = 20  # combinations listed in the overview

Run = tuple[str, int]  # name of a combination, seed
# The last evaluation of each run, or None if it failed. Runs without an entry are pending.
Outcomes = dict[Run, dict[str, float] | None]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A validated sweep; made by `create_sweep`."""

    config_file: str  # FILE[:SIZE]
    overrides: Overrides  # applied to every run
    config: dict[str, Any]  # JSON-compatible, with these overrides applied
    combinations: dict[str, Overrides]  # by name
    seeds: tuple[int, ...]  # the first one is used for the selection
    workdir: pathlib.Path
    select: str  # selection metric, such as "minival/top1"
    report: str  # reported metric, such as "test/top1"

    def folder(self, run: Run) -> pathlib.Path:
        """Returns the workdir of a run."""
        name, seed = run
        return self.workdir / name / f"seed={seed}"

    def command(self, run: Run, program: Sequence[str] = PROGRAM) -> list[str]:
        """Returns the command line of a run, as a list of arguments."""
        name, seed = run
        overrides = {**self.overrides, **self.combinations[name], "seed": seed}
        return [
            *(*program, f"--config={self.config_file}", f"--workdir={self.folder(run)}"),
            *(f"--config.{key}={value}" for key, value in overrides.items()),
        ]

    def run_config(self, run: Run) -> dict[str, Any]:
        """Returns the config that a run writes to `config.json`."""
        name, seed = run
        config = copy.deepcopy(self.config)
        for key, value in {**self.combinations[name], "seed": seed}.items():
            section, last = find_value(config, key)
            section[last] = json.loads(json.dumps(value))  # converts tuples to lists
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
    """Returns a validated sweep, without touching the disk. See `Sweep` for the arguments.

    Raises:
      ValueError: a key is unknown or set twice, two combinations are equal, or a metric does not
        exist or is not suitable for selection.
    """
    if not combinations or not all(combinations):
        raise ValueError("Expected at least one value to vary; got an empty grid.")
    if "seed" in overrides:
        raise ValueError("Expected seeds as --seeds=0,1,2; got --config.seed.")
    for key in {key: None for combination in combinations for key in combination}:
        find_value(config, key)
        if key in overrides or key == "seed":
            flag = "--seeds" if key == "seed" else f"--config.{key}"
            raise ValueError(f"Both the grid and {flag} set {key!r}. Keep one of them.")
    names = combination_names(combinations)
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"Expected distinct combinations; got {name} twice.")
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
    """Returns the combination with the best `select` metric for the first seed.

    Ties go to the earlier combination, and a combination with a failed run cannot win. Returns None
    while a combination has not been run with the first seed, or if all have failed.
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
    """Returns the pending runs: the grid with the first seed, then the best with the other seeds.

    The list is empty once the sweep is complete.
    """
    best = winner(sweep, outcomes)
    if best is None:
        runs = [(name, sweep.seeds[0]) for name in sweep.combinations]
    else:
        runs = [(best, seed) for seed in sweep.seeds]
    return [run for run in runs if run not in outcomes]


def count_to_do(sweep: Sweep, outcomes: Outcomes) -> int:
    """Returns the number of runs left, assuming none fails and the best needs all other seeds."""
    now = runs_to_do(sweep, outcomes)
    seeds_follow = now and winner(sweep, outcomes) is None
    return len(now) + (len(sweep.seeds) - 1 if seeds_follow else 0)


def overview(sweep: Sweep, outcomes: Outcomes) -> str:
    """Returns a summary of the sweep and its remaining runs, to print before it starts."""
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
                "To add one, pass --config.eval_splits.NAME=SPLIT."
            )
    chosen_by, reported = (eval_splits[key.partition("/")[0]] for key in (select, report))
    if select.startswith("test") or chosen_by in (reported, train_split):
        raise ValueError(
            "Expected a selection metric on images that are neither trained on nor reported, such "
            f"as a 'minival' split; got --select={select} ({chosen_by}), --report={report} "
            f"({reported}), trained on {train_split}. Selecting on the reported images would bias "
            "the result."
        )
