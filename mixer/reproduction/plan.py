"""What the tables and figures need: which runs in which order, on what, for how long."""

import dataclasses
import fnmatch
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from mixer.build import build_without_data
from mixer.errors import unknown_name
from mixer.models import TITLES, title_of
from mixer.paper.graph import (
    Absent,
    CoreDays,
    Evaluation,
    Item,
    Job,
    Run,
    Throughput,
    VtabMean,
    jobs_of,
    jobs_of_items,
)
from mixer.rehearsal.table3 import best_records, read_records
from mixer.rehearsal.topology import num_cores, parse_slice
from mixer.reproduction.study import Study, data_of
from mixer.reproduction.values import evaluation_files, is_done, total_steps, value_of
from mixer.shipped import shipped

_WITHOUT_COST = ("few_shot.", "eval_", "model.permutation")  # overrides that change no step

Estimate = dict[str, Any]  # core_days, hours, perhaps `bound`: it takes longer than that
Estimator = Callable[[Run], Estimate | None]


def choose(items: Mapping[str, Item], what: str, rows: Sequence[str] = ()) -> list[Item]:
    """Returns the item of that name, "all" or several separated by commas, with some of its rows.

    A row is chosen if its name contains one of `rows`, which may have wildcards.

    Raises:
      ValueError: there is no such item or row.
    """
    all_of_paper = [name for name, item in items.items() if not item.is_extra]
    names = all_of_paper if what == "all" else what.split(",")
    for name in names:
        if name not in items:
            raise unknown_name("table or figure", name, [*items, "all"])
    chosen = [items[name] for name in names]
    known = [name for item in chosen for name in item.rows]
    for text in rows:
        if not _matching(known, [text]):
            raise unknown_name(f"row of {what}", text, dict.fromkeys(known))
    if not rows:
        return chosen
    parts = [
        dataclasses.replace(
            item, rows={name: item.rows[name] for name in _matching(item.rows, rows)}
        )
        for item in chosen
    ]
    return [item for item in parts if item.rows]


def _matching(names: Collection[str], texts: Sequence[str]) -> list[str]:
    patterns = [f"*{text.replace('/', '_')}*" for text in texts]
    return [
        name
        for name in names
        if any(fnmatch.fnmatch(name.replace("/", "_"), pattern) for pattern in patterns)
    ]


def jobs_to_do(study: Study, items: Sequence[Item]) -> list[Job]:
    """Returns what has to be executed, in order, without what is done."""
    jobs = [job for job in jobs_of_items(list(items)) if not study.is_replaced(job)]
    return [job for job in jobs if not is_finished(study, job)]


def is_finished(study: Study, job: Job) -> bool:
    if isinstance(job, Run):
        return is_done(study, job)
    if isinstance(job, Evaluation):
        files = evaluation_files(study, job)
        return bool(files) and all(path.exists() for path in files)
    if isinstance(job, VtabMean):
        return value_of(study, job) is not None
    return (study.workdir / job.name).exists()


def state(study: Study, item: Item) -> tuple[dict[str, int], list[str]]:
    """Returns the number of cells by their state, and what is missing for those that cannot run."""
    counts: dict[str, int] = {}
    reasons: dict[str, None] = {}
    for _, _, cell in item.cells():
        jobs = [job for job in jobs_of(cell.source) if not study.is_replaced(job)]
        if isinstance(cell.source, Absent):
            kind = cell.source.why
        elif value_of(study, cell.source):
            kind = "done"
        elif missing := [why for job in jobs if (why := study.missing(job))]:
            kind = "data missing"
            reasons |= dict.fromkeys(missing)
        else:
            kind = "can be run now"
        counts[kind] = counts.get(kind, 0) + 1
    return counts, list(reasons)


def recorded(study: Study, topology: str | None) -> Estimator:
    """Returns what docs/ says of a run: the rehearsal of its training step, if it is recorded.

    Otherwise three times the recorded forward pass on TPU v3, as a backward pass costs two. This is
    a lower bound, as `bound` says: the rehearsed steps take 8 to 10% longer. `topology` is of the
    slice; None: of any, and a bound has no hours.

    Raises:
      ValueError: there is no such slice.
    """
    topology = str(parse_slice(topology)) if topology else None
    rows = json.loads(shipped("docs/results.json").read_text())["rehearsed"]
    known = {row["config"]: row for row in rows if topology in (None, row["topology"])}
    cores = num_cores(topology) if topology else None
    forward = {
        (row["model"], row["image_size"]): row["images_per_s_per_core"]
        for row in best_records(read_records(shipped("docs/table3_throughput.jsonl")))
        if not topology or topology.startswith("v3-")
    }

    def estimate(run: Run) -> Estimate | None:
        changed = [key for key, _ in run.overrides if not key.startswith(_WITHOUT_COST)]
        if not changed and run.config in known:
            return known[run.config]
        options, _ = build_without_data(study.config(run))
        name, variant = options.model["name"], options.model.get("variant")
        title = title_of(name, variant) if name in TITLES and variant else ""
        if (title, options.image_size) not in forward:
            return None
        images = options.total_steps * options.batch_size
        core_days = 3 * images / forward[title, options.image_size] / 86400
        hours = core_days * 24 / cores if cores else None
        return {"core_days": core_days, "hours": hours, "bound": True}

    return estimate


def rehearsed(study: Study, topology: str) -> Estimator:
    """Returns what rehearses each run on a slice, which takes about a minute each."""
    from mixer.rehearsal.rehearse import rehearse_training

    def estimate(run: Run) -> Estimate | None:
        report = rehearse_training(study.config(run), topology)
        return report if report["fits"] else None

    return estimate


@dataclasses.dataclass(frozen=True)
class Planned:
    """A line of a plan."""

    job: Job
    data: str = ""
    steps: int = 0
    trainings: int = 0
    estimate: Estimate | None = None  # of one training
    paper_core_days: float | None = None

    @property
    def core_days(self) -> float | None:
        return self._of_all("core_days")

    @property
    def hours(self) -> float | None:
        return self._of_all("hours")

    @property
    def is_bound(self) -> bool:
        return bool(self.estimate and self.estimate.get("bound"))

    def _of_all(self, name: str) -> float | None:
        of_one = (self.estimate or {}).get(name)
        return None if of_one is None else of_one * self.trainings


def make_plan(study: Study, items: Sequence[Item], estimate: Estimator) -> list[Planned]:
    """Returns a line for each job that is not done, in the order of their execution."""
    paper = {
        cell.source.run: cell.paper
        for item in items
        for _, _, cell in item.cells()
        if isinstance(cell.source, CoreDays)
    }
    lines = []
    for job in jobs_to_do(study, items):
        if isinstance(job, VtabMean):
            lines.append(Planned(job, "19 tasks of 1,000 images", trainings=study.count(job)))
            continue
        if not isinstance(job, Run):
            lines.append(Planned(job))
            continue
        lines.append(
            Planned(
                job,
                data_of(study.config(job)),
                total_steps(study, job),
                study.count(job),
                estimate(job),
                paper.get(job),
            )
        )
    return lines


def summary(lines: Sequence[Planned]) -> str:
    """Returns the sum of the planned core-days of pre-training beside the paper's."""
    printed = [line for line in lines if line.paper_core_days is not None]
    known = [line for line in printed if line.core_days is not None]
    trainings = sum(line.trainings for line in lines)
    text = f"{len(lines)} jobs to do, {trainings} trainings."
    if not printed:
        return text
    ours = sum(line.core_days or 0 for line in known)
    beside = sum(line.paper_core_days or 0 for line in known)
    total = sum(line.paper_core_days or 0 for line in printed)
    is_bound = any(line.is_bound for line in known)
    return (
        f"{text}\nPre-training, estimated for {len(known)} of {len(printed)} runs: "
        f"{_number(ours, is_bound)} core-days; the paper prints {_number(beside)} for these, "
        f"{_number(total)} for all." + "\n> is a lower bound: three forward passes." * is_bound
    )


def _number(value: float | None, is_bound: bool = False) -> str:
    """Returns a number with four digits, or all before the point; "-" for None."""
    if value is None:
        return "-"
    return ">" * is_bound + format(value, ",.0f" if value >= 1000 else ".4g")


def plan_table(lines: Sequence[Planned]) -> str:
    """Returns the plan as lines of text."""
    header = ("job", "data", "steps", "trainings", "hours", "core-days", "paper")
    rows = [header] + [
        (
            job_name(line.job),
            line.data or "-",
            f"{line.steps:,}" if line.steps else "-",
            str(line.trainings or "-"),
            _number(line.hours, line.is_bound),
            _number(line.core_days, line.is_bound),
            _number(line.paper_core_days),
        )
        for line in lines
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def job_name(job: Job) -> str:
    """Returns the name of a job for display."""
    if isinstance(job, Throughput):
        return job.name.removesuffix(".json")
    if isinstance(job, Evaluation):
        return f"{job.run.name} on {job.dataset or 'its test images'}, {job.crop}"
    return job.name
