"""The report of VTAB-1k: `vtab.md`, `vtab.csv`, `vtab.json` and `vtab.png` in its folder."""

import csv
import io
import json
import pathlib
import statistics
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mixer.data.vtab import GROUPS, TASKS
from mixer.runtime.naming import naming
from mixer.vtab.plan import Progress, Vtab

_COLOURS = dict(zip(GROUPS, ("#0072b2", "#009e73", "#d55e00"), strict=True))
SUMMARY_NAME = "vtab.json"
_COLUMNS = ("task", "group", "learning rate", "val200", "test", "seeds")


def summarize(
    vtab: Vtab, progress: Mapping[str, Progress], problems: Mapping[str, str]
) -> dict[str, Any]:
    """Returns all results as JSON holds them. Scores are fractions in [0, 1].

    Args:
      vtab: what was run.
      progress: of tasks; of those that are not in it nothing is there.
      problems: task -> why it is not done, in one or more lines.

    Each task has a `state`: "done", "not run", or "not complete" if some seeds are missing. `mean`
    and `std` of all tasks, over the seeds of a task those of its test scores, are None until
    every task is done; those of a group likewise. `std` is the sample standard deviation over the
    seeds: of a mean, over the means of each seed.
    """
    tasks = {}
    for name in vtab.counted:
        task = TASKS[name]
        done = progress.get(name) or Progress({}, None, None, {})
        scores = [done.test[seed] for seed in vtab.seeds if seed in done.test]
        is_done = len(scores) == len(vtab.seeds)
        state = "done" if is_done else "not complete" if done.tuned else "not run"
        tasks[name] = {
            "group": task.group,
            "state": state,
            "problem": "" if is_done else problems.get(name, ""),
            "learning_rate": done.learning_rate,
            "val": done.val,
            "test": scores,
            **_statistics(scores if is_done else []),
        }
    means = {
        group: _mean_of([row for row in tasks.values() if group in ("all", row["group"])])
        for group in (*GROUPS, "all")
    }
    return {
        "weights": vtab.weights,
        "protocol": vtab.option or "section_3",
        "seeds": list(vtab.seeds),
        "tasks": tasks,
        "groups": {group: means[group] for group in GROUPS},
        **means["all"],
    }


def _mean_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the unweighted mean over tasks, for each seed and of all seeds."""
    done = [row for row in rows if row["state"] == "done"]
    counts = {"done": len(done), "num_tasks": len(rows)}
    scores = zip(*(row["test"] for row in done), strict=True) if len(done) == len(rows) else ()
    of_seeds = [statistics.fmean(seed) for seed in scores]
    return {**counts, "mean_of_seeds": of_seeds, **_statistics(of_seeds)}


def _statistics(scores: list[float]) -> dict[str, float | None]:
    return {
        "mean": statistics.fmean(scores) if scores else None,
        "std": statistics.stdev(scores) if len(scores) > 1 else None,
    }


def read_summary(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the summary in the folder of a VTAB-1k, as `summarize` makes it.

    `mean_of_seeds` are the means over all tasks; it is empty until every task is done.

    Raises:
      ValueError: there is none, or it is damaged.
    """
    path = workdir / SUMMARY_NAME
    try:
        summary = json.loads(path.read_text())
        if not isinstance(summary["mean_of_seeds"], list):
            raise KeyError("mean_of_seeds")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"Expected the report of scripts/vtab.py in {path}; got none that can be read. Run the "
            "same command again, which writes it."
        ) from error
    return summary


def write(summary: dict[str, Any], workdir: pathlib.Path, *, picture: bool = True) -> str:
    """Writes the four files, or three without the picture; returns the text of `vtab.md`."""
    text = table(summary)
    with naming(workdir):
        (workdir / "vtab.md").write_text(text, encoding="utf-8")
        (workdir / "vtab.csv").write_text(table_csv(summary), encoding="utf-8")
        temporary = workdir / f"{SUMMARY_NAME}.tmp"
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
        temporary.replace(workdir / SUMMARY_NAME)
        if picture:
            draw(summary).savefig(workdir / "vtab.png", dpi=100)
    return text


def table(summary: dict[str, Any]) -> str:
    """Returns a Markdown table, aligned for a terminal, with what is missing below it."""
    lines = [list(_COLUMNS), *_task_cells(summary), *_mean_cells(summary)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    lines.insert(1, ["-" * width for width in widths])
    text = "".join(
        f"| {' | '.join(c.ljust(width) for c, width in zip(line, widths, strict=True))} |\n"
        for line in lines
    )
    text = f"VTAB-1k, {summary['weights']}, protocol {summary['protocol']}\n\n{text}"
    problems = {name: row["problem"] for name, row in summary["tasks"].items() if row["problem"]}
    for name, problem in problems.items():
        text += f"\n* {name}: " + problem.replace("\n", "\n  ")
    return text + "\n" * bool(problems)


def _task_cells(summary: dict[str, Any]) -> list[list[str]]:
    return [
        [
            *(name, row["group"]),
            "-" if row["learning_rate"] is None else f"{row['learning_rate']:g}",
            "-" if row["val"] is None else f"{row['val']:.2%}",
            _mean_text(row) if row["state"] == "done" else row["state"],
            str(len(row["test"])) if row["test"] else "-",
        ]
        for name, row in summary["tasks"].items()
    ]


def _mean_cells(summary: dict[str, Any]) -> list[list[str]]:
    return [
        [
            *(f"**mean, {name}**", "", "", ""),
            f"- ({row['done']} of {row['num_tasks']} tasks)"
            if row["mean"] is None
            else _mean_text(row),
            "",
        ]
        for name, row in {**summary["groups"], "all": summary}.items()
    ]


def _mean_text(row: dict[str, Any]) -> str:
    return f"{row['mean']:.2%} ± " + ("n/a" if row["std"] is None else f"{row['std']:.2%}")


def table_csv(summary: dict[str, Any]) -> str:
    """Returns the same as CSV, with scores as fractions and one column for each seed."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    seeds = [f"test seed {seed}" for seed in summary["seeds"]]
    writer.writerow(["task", "group", "state", "learning rate", "val200", "mean", "std", *seeds])
    for name, row in summary["tasks"].items():
        known = [row[key] for key in ("learning_rate", "val", "mean", "std")]
        scores = row["test"] if row["state"] == "done" else [""] * len(seeds)
        writer.writerow([name, row["group"], row["state"], *known, *scores])
    for name, row in {**summary["groups"], "all": summary}.items():
        state = "not complete" if row["mean"] is None else "done"
        scores = row["mean_of_seeds"] or [""] * len(seeds)
        writer.writerow(["mean", name, state, "", "", row["mean"], row["std"], *scores])
    return file.getvalue()


def draw(summary: dict[str, Any]) -> Figure:
    """Returns a bar chart of the tasks, with the deviations over the seeds."""
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplots()
    names = list(summary["tasks"])[::-1]  # the first on top
    for place, name in enumerate(names):
        row = summary["tasks"][name]
        if row["mean"] is None:
            axes.text(0.01, place, row["state"], va="center", color="grey", fontsize=8)
            continue
        axes.barh(place, row["mean"], xerr=row["std"], color=_COLOURS[row["group"]], capsize=3)
        axes.text(1.01, place, f"{row['mean']:.1%}", va="center", fontsize=8)
    for group in GROUPS:
        mean = summary["groups"][group]["mean"]
        label = group if mean is None else f"{group}, mean {mean:.1%}"
        axes.barh(0, 0, color=_COLOURS[group], label=label)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 1)
    axes.set_xlabel("top-1 accuracy on the test images")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    mean = summary["mean"]
    title = (
        "not all tasks are done"
        if mean is None
        else f"mean of {summary['num_tasks']} tasks {mean:.2%}"
    )
    figure.suptitle(f"VTAB-1k, {summary['weights']}: {title}", fontsize=11)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return figure
