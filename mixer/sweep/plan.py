"""Decides which runs a sweep consists of, and which come next.

Every combination of the grid is run with the first seed. The one with the best `select` metric is
then run with the other seeds, and the result is the mean and standard deviation of its `report`
metric. For the paper's four learning rates and three seeds, this takes 6 runs instead of 12, at the
price that the selection sees a single seed. `report` never influences the selection, so that its
images stay unseen. Source: section 3 (learning rates; the mean of three fine-tunings).
"""

import copy
import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from mixer.config import check_config, plain_overrides
from mixer.data.overlap import Piece, count_shared
from mixer.data.table import DATASETS, find_pieces
from mixer.sweep.grid import Overrides, combination_names, find_value, with_length

PROGRAM = (sys.executable, "-m", "mixer.main")
_LENGTHS = {"num_steps": "num_epochs", "num_epochs": "num_steps"}  # a config has one of them
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
    report: str  # reported metric, such as "test/top1"; `select` if the sweep does only one of both

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
    select: str | None,
    report: str | None,
) -> Sweep:
    """Returns a validated sweep, without writing anything. See `Sweep` for the arguments.

    Without `select`, there is one combination, of which nothing is selected. Without `report`, the
    sweep only selects, and its runs need not evaluate any other images.

    Raises:
      ValueError: a key is unknown or set twice, two combinations are equal, the config of one is
        not valid, or a metric does not exist or is not suitable for selection.
    """
    if not combinations or not all(combinations):
        raise ValueError("Expected at least one value to vary; got an empty grid.")
    if "seed" in overrides:
        raise ValueError("Expected seeds as --seeds=0,1,2; got --config.seed.")
    overrides = plain_overrides(overrides)
    keys = {key: None for combination in combinations for key in combination}
    config = with_length(config, keys)
    for key in keys:
        find_value(config, key)
        other = _LENGTHS.get(key, key)
        if key in overrides or other in overrides or key == "seed":
            given = key if key in overrides else other
            flag = "--seeds" if key == "seed" else f"--config.{given}"
            raise ValueError(f"Both the grid and {flag} set {key!r}. Keep one of them.")
    names = combination_names(combinations)
    if select is None and len(combinations) > 1:
        raise ValueError(f"Expected a metric to select one of {', '.join(names)}; got none.")
    for name, combination in zip(names, combinations, strict=True):
        if names.count(name) > 1 or combinations.count(combination) > 1:
            raise ValueError(f"Expected distinct combinations; got {name} twice.")
    sweep = Sweep(
        config_file=config_file,
        overrides=overrides,
        config=config,
        combinations=dict(zip(names, combinations, strict=True)),
        seeds=seeds,
        workdir=workdir,
        select=select or report or "",
        report=report or select or "",
    )
    for name in names:
        run_config = sweep.run_config((name, seeds[0]))
        check_config(run_config)
        _check_metrics(select, report, run_config)
    return sweep


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


def _check_metrics(select: str | None, report: str | None, config: dict[str, Any]) -> None:
    splits, trained = config["eval_splits"], config["train_split"]
    for flag, metric in (("--select", select), ("--report", report)):
        split, _, name = (metric or "").partition("/")
        if metric is not None and (split not in splits or name != "top1"):
            known = ", ".join(f"{split}/top1" for split in splits)
            raise ValueError(
                f"Expected {flag} to be one of the config's eval_splits, {known}; got {metric!r}. "
                "To add one, pass --config.eval_splits.NAME=SPLIT."
            )
    if select is None:
        return
    data = tuple(config[key] for key in ("dataset", "data_dir", "label_key"))
    chosen_by = splits[select.partition("/")[0]]
    reported = splits[report.partition("/")[0]] if report else ""
    with_report, with_training = (
        count_shared(_find_pieces(*data, chosen_by), _find_pieces(*data, other)) if other else 0
        for other in (reported, trained)
    )
    if select.startswith("test") or with_report or with_training:
        raise ValueError(
            "Expected a selection metric on images that are neither trained on nor reported, such "
            f"as a 'minival' split; got --select={select} ({chosen_by}), which shares "
            f"{with_report:,} images of {data[0]} with --report={report} ({reported}) and "
            f"{with_training:,} with train_split ({trained}). Selecting on them would bias the "
            "result. Hold out images for it: --config.train_split='train[:90%]' "
            "--config.eval_splits.minival='train[90%:]' --select=minival/top1."
        )


@functools.cache
def _find_pieces(dataset: str, data_dir: str, label_key: str, split: str) -> tuple[Piece, ...]:
    """Returns which examples a split consists of, from the table of datasets or from the disk."""
    if dataset.partition(":")[0] in DATASETS:
        return tuple(find_pieces(dataset, split))
    from mixer.data.datasets import open_dataset  # imports TensorFlow

    return open_dataset(dataset, split, data_dir, label_key=label_key).pieces
