"""A study: the folder that the runs of tables and figures share, their configs and their commands.

`Run.name` is the folder of a run in it. A run with several seeds is a sweep.
"""

import contextlib
import copy
import dataclasses
import functools
import json
import pathlib
from typing import Any

from mixer.config import to_plain
from mixer.data.vtab import TASKS
from mixer.paper.graph import Evaluation, Job, Run, Throughput, VtabMean
from mixer.paper.reference import FINETUNING
from mixer.runtime.command import load_config_file
from mixer.runtime.workdir_lock import LOCK_NAME
from mixer.sweep import grid, plan

_SELECT, _REPORT = "minival/top1", "test/top1"
_LENGTHS = ("num_steps", "num_epochs")  # a config has one of them
_PRIVATE = ("jft300m",)
VTAB_CONFIG = "configs/vtab.py"
SETTINGS_NAME = "study.json"
_OWN = {SETTINGS_NAME, LOCK_NAME, "pretrain", "finetune", "vtab", "throughput", "report", "xla"}


@dataclasses.dataclass(frozen=True)
class Study:
    """Where the runs are, and what they start from."""

    workdir: pathlib.Path
    published: bool = False  # start from published weights where there are some
    data_dir: str = ""  # of TFDS; "": its default
    miniature: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """Returns what all runs of a folder have in common; `study.json` records it."""
        pretrained = "published" if self.published else "own"
        return {"miniature": self.miniature, "pretrained": pretrained}

    def check_workdir(self) -> None:
        """Raises ValueError if the folder is of something else, or has runs of other settings."""
        if self.workdir.exists() and not self.workdir.is_dir():
            raise ValueError(f"Expected a folder as --workdir; got the file {self.workdir}.")
        found = {path.name for path in self.workdir.glob("*")} - _OWN
        if found:
            raise ValueError(
                f"Expected a new folder as --workdir, or that of scripts/reproduce.py; "
                f"{self.workdir} holds {', '.join(sorted(found)[:5])} of something else. Use "
                "another --workdir."
            )
        before = read_json(self.workdir / SETTINGS_NAME)
        if before and before != self.settings:
            old, new = (
                " ".join(f"--{name}={value}" for name, value in settings.items())
                for settings in (before, self.settings)
            )
            raise ValueError(
                f"Expected {old}, as {self.workdir} holds runs of these; got {new}. Use another "
                "--workdir, or these flags."
            )

    def folder(self, job: Run | VtabMean) -> pathlib.Path:
        return self.workdir / job.name

    def needs(self, job: Job) -> Run | None:
        """Returns the run that has to be finished before a job, None if there is none."""
        if isinstance(job, Evaluation):
            return job.run
        if isinstance(job, Throughput):
            return None
        start = job.run if isinstance(job, VtabMean) else job.start
        return None if start and self.is_replaced(start) else start

    def is_replaced(self, job: Job) -> bool:
        """True for a pre-training whose weights are taken from the catalogue."""
        return self.published and isinstance(job, Run) and bool(job.published)

    def weights(self, run: Run) -> str:
        """Returns where the weights of a run are found: a name of the catalogue, or its folder."""
        return run.published if self.is_replaced(run) else str(self.folder(run))

    def overrides(self, run: Run) -> dict[str, Any]:
        """Returns what is changed in the run's config: its own, and where things are."""
        changes = dict(run.overrides)
        if run.start:
            changes["init_from"] = self.weights(run.start)
        if self.data_dir:
            changes["data_dir"] = self.data_dir
        return changes

    def config(self, run: Run) -> Any:
        """Returns the ConfigDict of a run, of its first seed in a sweep."""
        return with_overrides(read_config(run.config), self.overrides(run))

    def sweep(self, run: Run) -> plan.Sweep:
        """Returns the sweep of a run with several seeds."""
        return plan.create_sweep(
            config_file=run.config,
            overrides=self.overrides(run),
            config=to_plain(self.config(run)),
            combinations=grid.combinations_of(self._grid(run)),
            seeds=tuple(range(run.seeds)),
            workdir=self.folder(run),
            select=_SELECT,
            report=_REPORT,
        )

    def count(self, job: Run | VtabMean) -> int:
        """Returns the number of trainings: of each combination, and of the best with more seeds.

        Those of VTAB-1k choose the learning rate on a part of the images.
        """
        if isinstance(job, VtabMean):
            (rates,) = load_config_file(VTAB_CONFIG).SWEEP.values()
            return len(TASKS) * (len(rates) + FINETUNING.seeds)
        return 1 if job.seeds == 1 else len(self.sweep(job).combinations) + job.seeds - 1

    def _grid(self, run: Run) -> dict[str, Any]:
        if run.swept:
            return dict(load_config_file(run.config.partition(":")[0]).SWEEP)
        return {"optimizer.learning_rate": [self.config(run).optimizer.learning_rate]}

    def command(self, run: Run | VtabMean) -> list[str]:
        """Returns the command line of a run; of a sweep, that of `scripts/sweep.py`."""
        if isinstance(run, VtabMean):
            what = [f"--weights={self.weights(run.run)}", f"--workdir={self.folder(run)}"]
            what += [f"--data_dir={self.data_dir}"] * bool(self.data_dir)
            return ["python", "scripts/vtab.py", *what]
        changes = [f"--config.{key}={value}" for key, value in self.overrides(run).items()]
        what = [f"--config={run.config}", f"--workdir={self.folder(run)}", *changes]
        if run.seeds == 1:
            return ["python", "-m", "mixer.main", *what]
        if not run.swept:
            what += [f"--grid={key}={values[0]}" for key, values in self._grid(run).items()]
        seeds = ",".join(map(str, range(run.seeds)))
        return ["python", "scripts/sweep.py", *what, f"--seeds={seeds}"]

    def missing(self, job: Job) -> str:
        """Returns what is not there that a job needs, and how to get it; "" if nothing."""
        found = (_missing_data(*data, self.data_dir) for data in self._data(job))
        return next(filter(None, found), "")

    def _data(self, job: Job) -> list[tuple[str, str]]:
        """Returns the datasets and splits that a job reads."""
        if isinstance(job, Throughput) or (self.miniature and isinstance(job, VtabMean)):
            return []  # a miniature makes the images of VTAB-1k
        if isinstance(job, VtabMean):
            return [(f"vtab/{task}", name) for task in TASKS for name in ("train800val200", "test")]
        if isinstance(job, Evaluation):
            return [(job.dataset, job.split)] if job.dataset else []  # "": those of its run
        config = self.config(job)
        few_shot = config.few_shot
        probes = (few_shot.train_split, few_shot.test_split) if few_shot.dataset else ()
        return [
            *(
                (config.dataset, split)
                for split in (config.train_split, *config.eval_splits.values())
            ),
            *((few_shot.dataset, split) for split in probes),
        ]


def read_config(config: str) -> Any:
    """Returns the ConfigDict of "FILE[:ARGUMENT]"; ValueError if there is none."""
    return copy.deepcopy(_read_config(config))


@functools.cache
def _read_config(config: str) -> Any:
    path, _, argument = config.partition(":")
    return load_config_file(path).get_config(*[argument] if argument else [])


def with_overrides(config: Any, changes: dict[str, Any]) -> Any:
    """Returns the config with dotted keys set, as on the command line."""
    for name, other in (_LENGTHS, _LENGTHS[::-1]):
        if name in changes and other in config:
            del config[other]
    for key, value in changes.items():
        *path, last = key.split(".")
        section = functools.reduce(lambda inner, part: inner[part], path, config)
        section[last] = value
    return config


@functools.cache
def _missing_data(dataset: str, split: str, data_dir: str) -> str:
    from mixer.data.datasets import why_missing  # imports TensorFlow

    why = why_missing(dataset, split, data_dir)
    return f"private data set: {why}" if why and dataset in _PRIVATE else why


def data_of(config: Any) -> str:
    """Returns which images a config trains on: "imagenet2012 train[:99%]"."""
    fraction = f", {config.train_fraction:.0%} of them" if config.train_fraction < 1 else ""
    return f"{config.dataset} {config.train_split}{fraction}"


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns a JSON object from a file; {} if there is none, or a kill has cut it short."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_text())
        return content if isinstance(content, dict) else {}
    return {}
