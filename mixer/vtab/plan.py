"""The runs of VTAB-1k: two sweeps of each task.

`TASK/tune` trains on 800 images with every learning rate and evaluates on the other 200 alone;
`TASK/final` trains on all 1,000 with the best of these and several seeds, and evaluates on the test
images. Source: section 3 of the paper and its Appendix C; the BiT paper's Appendix A, which trains
again on both parts.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mixer.config import to_plain
from mixer.config.keys import find_key
from mixer.data.vtab import TASKS
from mixer.runtime.command import load_config_file
from mixer.runtime.workdir_lock import LOCK_NAME
from mixer.sweep.grid import Overrides, combinations_of, parse_grid
from mixer.sweep.plan import Outcomes, Sweep, create_sweep, winner
from mixer.sweep.runs import read_outcomes
from mixer.vtab.recipe import Recipe

SELECT, REPORT = "val200/top1", "test/top1"
RATE = "optimizer.learning_rate"
_FLAGS = ("init_from", "data_dir")  # keys that have a flag of their own
REPORT_NAMES = ("vtab.md", "vtab.csv", "vtab.json", "vtab.png")


@dataclasses.dataclass(frozen=True)
class Vtab:
    """What is run where; nothing of it is read or written yet."""

    workdir: pathlib.Path
    weights: str  # as `load_weights` takes them
    recipe: Recipe
    config_file: str  # configs/vtab.py
    tasks: tuple[str, ...] = tuple(TASKS)  # that are to be run
    counted: tuple[str, ...] = tuple(TASKS)  # whose mean is reported
    seeds: tuple[int, ...] = (0, 1, 2)  # of the results; the learning rate is chosen with the first
    option: str = ""  # of the config: "appendix_c"
    changes: Overrides = dataclasses.field(default_factory=dict)  # of all runs
    learning_rates: tuple[float, ...] = ()  # (): those of the config
    splits: Mapping[str, str] = dataclasses.field(default_factory=dict)  # in place of named splits

    def check_workdir(self) -> None:
        """Raises ValueError if the folder holds something else."""
        own = {*TASKS, *REPORT_NAMES, "vtab.json.tmp", LOCK_NAME, "mock"}
        if found := {path.name for path in self.workdir.glob("*")} - own:
            raise ValueError(
                "Expected a new folder as --workdir, or that of scripts/vtab.py; "
                f"{self.workdir} holds {', '.join(sorted(found)[:5])} of something else. Use "
                "another --workdir."
            )

    def tuning(self, task: str) -> Sweep:
        """Returns the sweep that chooses the learning rate of a task."""
        grid = {RATE: self.learning_rates} if self.learning_rates else self._module.SWEEP
        return self._sweep(
            task,
            "tune",
            combinations=combinations_of(grid),
            seeds=self.seeds[:1],
            select=SELECT,
            report=None,
        )

    def final(self, task: str, learning_rate: float) -> Sweep:
        """Returns the sweep of one combination that gives the result of a task."""
        return self._sweep(
            task,
            "final",
            combinations=[{RATE: learning_rate}],
            seeds=self.seeds,
            select=None,
            report=REPORT,
        )

    @property
    def _module(self) -> Any:
        return _load(self.config_file)

    def _sweep(self, task: str, part: str, **arguments: Any) -> Sweep:
        options = [*filter(None, [self.option]), *["tune"] * (part == "tune")]
        argument = ",".join([self.recipe.size, task, *options])
        config = self._module.get_config(argument)
        overrides = {
            "init_from": self.weights,
            **self.recipe.overrides(TASKS[task]),
            **self.changes,
        }
        if self.splits:
            overrides["train_split"] = self.splits[config.train_split]
            for name, split in config.eval_splits.items():
                overrides[f"eval_splits.{name}"] = self.splits[split]
        config.update_from_flattened_dict(overrides)
        return create_sweep(
            config_file=f"{self.config_file}:{argument}",
            overrides=overrides,
            config=to_plain(config),
            workdir=self.workdir / task / part,
            **arguments,
        )


def parse_changes(texts: Sequence[str], config_file: str) -> Overrides:
    """Returns overrides of all runs from texts such as "accumulation_steps=8".

    Raises:
      ValueError: a key is not one that leaves the protocol as it is, those marked free in
        docs/configs.md, or has a flag of its own; or a value is not of the key's type.
    """
    for text in texts:
        name = text.partition("=")[0]
        key = find_key(name)
        if key is None or not key.is_free or name in _FLAGS:
            raise ValueError(
                "Expected --set to name a config key that is marked free in docs/configs.md, as in "
                f"--set=accumulation_steps=8, and has no flag of its own; got {text!r}."
            )
    combinations = parse_grid(texts, to_plain(_load(config_file).get_config()))
    if len(combinations) > 1:
        raise ValueError(f"Expected one value for each --set; got {', '.join(texts)}.")
    return combinations[0]


@functools.cache
def _load(config_file: str) -> Any:
    return load_config_file(config_file)


@dataclasses.dataclass(frozen=True)
class Progress:
    """What is done of a task."""

    tuned: Outcomes
    learning_rate: float | None  # the chosen one; None until all were tried, or if all failed
    val: float | None  # its top-1 on val200
    final: Outcomes

    @property
    def test(self) -> dict[int, float]:
        """Returns seed -> top-1 on the test images, of the runs that are finished."""
        return {seed: scores[REPORT] for (_, seed), scores in self.final.items() if scores}


def progress_of(vtab: Vtab, task: str) -> Progress:
    """Returns what is done of a task.

    Raises:
      ValueError: a folder holds runs of another config; the message lists the differences.
    """
    tuning = vtab.tuning(task)
    tuned = read_outcomes(tuning)
    return with_final(vtab, task, tuning, tuned)


def with_final(vtab: Vtab, task: str, tuning: Sweep, tuned: Outcomes) -> Progress:
    """Returns the same, where the outcomes of the first sweep are known; some may have failed."""
    best = winner(tuning, tuned)
    if best is None:
        return Progress(tuned, None, None, {})
    rate = tuning.combinations[best][RATE]
    scores = tuned[best, tuning.seeds[0]] or {}
    return Progress(tuned, rate, scores[SELECT], read_outcomes(vtab.final(task, rate)))


def missing_data(vtab: Vtab, task: str) -> str:
    """Returns what is not there of a task's data, and how to get it; "" if nothing."""
    from mixer.data.datasets import why_missing  # imports TensorFlow

    configs = [sweep.config for sweep in (vtab.tuning(task), vtab.final(task, 1.0))]
    found = (
        why_missing(config["dataset"], split, config["data_dir"])
        for config in configs
        for split in (config["train_split"], *config["eval_splits"].values())
    )
    return next(filter(None, found), "")
