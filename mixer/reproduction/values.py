"""The numbers of cells, from what runs have written and from nothing else."""

import dataclasses
import functools
import math
import pathlib
import statistics
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from mixer.build import build_without_data
from mixer.config import differences, to_plain
from mixer.models import build_model
from mixer.models.mixer import VARIANTS
from mixer.paper.graph import (
    Absent,
    CoreDays,
    Evaluation,
    Mean,
    Picture,
    Run,
    Score,
    Setting,
    Size,
    Source,
    Throughput,
    VtabMean,
)
from mixer.reporting import environment
from mixer.reporting.metrics import is_evaluation, read_metrics
from mixer.reproduction.study import Study, read_config, read_json
from mixer.sweep.plan import runs_to_do, winner
from mixer.sweep.runs import read_outcomes
from mixer.vtab.report import SUMMARY_NAME


@dataclasses.dataclass(frozen=True)
class Value:
    """Our number of a cell."""

    of_seeds: tuple[float, ...]
    origins: tuple[tuple[str, str, str], ...] = ()  # hardware, commit and date of each run

    @property
    def mean(self) -> float:
        return statistics.fmean(self.of_seeds)

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation over the seeds, None for one."""
        return statistics.stdev(self.of_seeds) if len(self.of_seeds) > 1 else None


def value_of(study: Study, source: Source) -> Value | None:
    """Returns the value of a cell, in the paper's unit; None if it is not there.

    Raises:
      ValueError: a folder holds runs of another config.
    """
    match source:
        case Absent():
            return None
        case Size():
            return Value((_size(source.variant, source.field),))
        case Setting():
            return Value((_setting(source.config, source.key),))
        case Mean():
            return _mean([value_of(study, score) for score in source.scores])
        case Score():
            return _score(study, source)
        case Throughput():
            found = read_json(study.workdir / source.name)
            return Value((found["value"],), (origin(found),)) if found else None
        case VtabMean():
            found = read_json(study.folder(source) / SUMMARY_NAME)
            means = [100 * mean for mean in found.get("mean_of_seeds", ())]
            return Value(tuple(means), _origins_of_vtab(study, source)) if means else None
        case Evaluation():
            files = [read_json(path) for path in evaluation_files(study, source)]
            if not files or not all(files):
                return None
            return Value(tuple(100 * f["top1"] for f in files), tuple(map(origin, files)))
        case Picture() if study.is_replaced(source.run):
            return Value((0.0,))  # published weights; a picture has no number
        case CoreDays() | Picture():
            lines = finished_lines(study, source.run)
            days = [line["core_days"] for line in lines if "core_days" in line]
            where = origin(read_json(study.folder(source.run) / environment.FILE_NAME))
            number = days[-1:] if isinstance(source, CoreDays) else [0.0] * bool(lines)
            return Value(tuple(number), (where,)) if number else None


def is_done(study: Study, run: Run) -> bool:
    """True if a run, or a sweep with all that belongs to it, has finished."""
    return bool(seed_folders(study, run))


def seed_folders(study: Study, run: Run) -> list[pathlib.Path]:
    """Returns the folder of a finished run, or those of the seeds of a sweep's best; or none."""
    if run.seeds == 1:
        return [study.folder(run)] if finished_lines(study, run) else []
    if not study.folder(run).exists():
        return []
    sweep = study.sweep(run)
    outcomes = read_outcomes(sweep)
    best = winner(sweep, outcomes)
    if best is None or runs_to_do(sweep, outcomes):
        return []
    return [sweep.folder((best, seed)) for seed in sweep.seeds]


def finished_lines(study: Study, run: Run) -> list[dict[str, Any]]:
    """Returns the metrics of a run of one seed; none if it has not finished.

    Raises:
      ValueError: the folder holds a run of another config.
    """
    old = read_json(study.folder(run) / "config.json")
    changes = differences(old, to_plain(study.config(run))) if old else []
    if changes:
        lines = "\n  ".join(changes)
        raise ValueError(
            f"{study.folder(run)} was run with another config:\n  {lines}\nUse another --workdir."
        )
    metrics = read_metrics(epath.Path(study.folder(run)))
    evaluations = [line for line in metrics if is_evaluation(line)]
    if evaluations and evaluations[-1]["step"] == total_steps(study, run):
        return metrics
    return []


def total_steps(study: Study, run: Run) -> int:
    return build_without_data(study.config(run))[0].total_steps


def evaluation_files(study: Study, job: Evaluation) -> list[pathlib.Path]:
    """Returns where the evaluation of each seed is recorded; none before these have finished."""
    name = f"evaluation-{job.dataset or 'own'}-{job.split or 'test'}-{job.crop}.json"
    return [folder / name for folder in seed_folders(study, job.run)]


def origin(found: dict[str, Any]) -> tuple[str, str, str]:
    return found.get("hardware", ""), found.get("commit", ""), found.get("date", "")


def _origins_of_vtab(study: Study, job: VtabMean) -> tuple[tuple[str, str, str], ...]:
    paths = study.folder(job).glob(f"*/final/*/*/{environment.FILE_NAME}")
    return tuple(dict.fromkeys(origin(read_json(path)) for path in sorted(paths)))


def _score(study: Study, score: Score) -> Value | None:
    values, origins = [], []
    for folder in seed_folders(study, score.run):
        lines = [line for line in read_metrics(epath.Path(folder)) if score.metric in line]
        if not lines:
            return None
        best = max(lines, key=lambda line: line[score.best_by]) if score.best_by else lines[-1]
        values.append(100 * best[score.metric])
        origins.append(origin(read_json(folder / environment.FILE_NAME)))
    return Value(tuple(values), tuple(origins)) if values else None


def _mean(found: list[Value | None]) -> Value | None:
    """Returns the mean of several values, seed by seed."""
    values = [value for value in found if value is not None]
    if not values or len(values) < len(found):
        return None
    seeds = zip(*(value.of_seeds for value in values), strict=True)
    origins = dict.fromkeys(origin for value in values for origin in value.origins)
    return Value(tuple(statistics.fmean(seed) for seed in seeds), tuple(origins))


@functools.cache
def _size(variant: str, field: str) -> float:
    fields = VARIANTS[variant]
    if field == "sequence_length":
        return (224 // fields["patch_size"]) ** 2
    if field != "params_millions":
        return fields[field]
    model = build_model("mixer", variant, num_classes=0)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    return round(sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) / 1e6)


def _setting(config: str, key: str) -> float:
    found = read_config(config)
    for part in key.split("."):
        found = found[part]
    return float(found)
