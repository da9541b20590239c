"""Writes the results of a sweep to `sweep.md`, `sweep.json` and `sweep.png` in its folder."""

import json
import statistics
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from mixer.runtime.naming import naming
from mixer.sweep.plan import Outcomes, Sweep, winner

# For the selection and the reported metric; the markers differ for greyscale prints.
_STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#0072b2", "marker": "o"},
    {"color": "#d55e00", "marker": "s"},
)


def write(sweep: Sweep, outcomes: Outcomes, *, picture: bool = True) -> str:
    """Writes the three files, or two without the picture; returns the text of `sweep.md`."""
    summary = summarize(sweep, outcomes)
    text = table(summary)
    with naming(sweep.workdir):
        (sweep.workdir / "sweep.md").write_text(text, encoding="utf-8")
        (sweep.workdir / "sweep.json").write_text(json.dumps(summary, indent=2) + "\n")
        if picture:
            draw(summary).savefig(sweep.workdir / "sweep.png", dpi=100)
    return text


def summarize(sweep: Sweep, outcomes: Outcomes) -> dict[str, Any]:
    """Returns the results of the sweep as a JSON-compatible dict.

    Each combination has the two metrics for the first seed, `first_seed`, and their `mean` and
    sample standard deviation `std` over its finished seeds (`std` is None for one seed). All are
    fractions in [0, 1], and are missing if the first seed has not finished.
    """
    best = winner(sweep, outcomes)
    metrics = (sweep.select, sweep.report)
    rows = []
    for name, overrides in sweep.combinations.items():
        seeds = [seed for seed in sweep.seeds if outcomes.get((name, seed))]
        failed = [seed for seed in sweep.seeds if outcomes.get((name, seed), {}) is None]
        row = {
            "name": name,
            "overrides": overrides,
            "chosen": name == best,
            "seeds": seeds,
            "failed_seeds": failed,
        }
        results = [outcome for seed in seeds if (outcome := outcomes[name, seed])]
        if sweep.seeds[0] in seeds:
            values = {key: [result[key] for result in results] for key in metrics}
            row["first_seed"] = {key: values[key][0] for key in metrics}
            row["mean"] = {key: statistics.fmean(values[key]) for key in metrics}
            row["std"] = {
                key: statistics.stdev(values[key]) if len(seeds) > 1 else None for key in metrics
            }
        rows.append(row)
    return {
        "config": sweep.config_file,
        "overrides": sweep.overrides,
        "select": sweep.select,
        "report": sweep.report,
        "seeds": list(sweep.seeds),
        "chosen": best,
        "combinations": rows,
    }


def table(summary: dict[str, Any]) -> str:
    """Returns a Markdown table, aligned for a terminal, followed by the result in one sentence."""
    select, report, first = summary["select"], summary["report"], summary["seeds"][0]
    header = ["combination", f"{select}, seed {first}", f"{report}, mean ± std", "seeds", ""]
    lines = [header, *(_cells(row, select, report) for row in summary["combinations"])]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    text = "".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |\n"
        for line in lines
    )
    for row in summary["combinations"]:
        if row["chosen"]:
            text += f"\n{_result(summary, row)}\n"
    return text


def _result(summary: dict[str, Any], row: dict[str, Any]) -> str:
    """Returns the sentence about the chosen combination."""
    select, report, name = summary["select"], summary["report"], row["name"]
    chosen = f"Chosen by {select} with seed {summary['seeds'][0]}: {name}."
    if select == report and len(summary["combinations"]) > 1:
        return chosen
    mean = (
        f"{report}: {_mean(row, report)} (mean ± standard deviation over {len(row['seeds'])} of "
        f"{len(summary['seeds'])} seeds)."
    )
    return f"{name}, {mean}" if select == report else f"{chosen} Its {mean}"


def _cells(row: dict[str, Any], select: str, report: str) -> list[str]:
    notes = ["**chosen**"] if row["chosen"] else []
    notes += [f"failed: seed {seed}" for seed in row["failed_seeds"]]
    if "mean" not in row:
        values = ["-", "-"]
    else:
        values = [f"{row['first_seed'][select]:.2%}", _mean(row, report)]
    seeds = ", ".join(str(seed) for seed in row["seeds"])
    return [row["name"], *values, seeds or "-", ", ".join(notes)]


def _mean(row: dict[str, Any], metric: str) -> str:
    std = row["std"][metric]
    return f"{row['mean'][metric]:.2%} ± " + ("n/a" if std is None else f"{std:.2%}")


def draw(summary: dict[str, Any]) -> Figure:
    """Returns a figure of both metrics over the grid, with the spread over seeds of the best.

    `summary` comes from `summarize`. If the grid has a single numeric key, its values are on the x
    axis, logarithmic if all are positive; otherwise each combination has a row, the best on top.
    """
    rows = summary["combinations"]
    keys = {key for row in rows for key in row["overrides"]}
    values = [value for row in rows for value in row["overrides"].values()]
    if len(keys) == 1 and all(type(value) in (int, float) for value in values):
        figure = Figure(figsize=(7, 5), layout="constrained")
        axes = figure.subplots()
        pairs = sorted(zip(values, rows, strict=True), key=lambda pair: pair[0])
        _draw_metrics(axes, summary, pairs, upright=True)
        axes.set_xlabel(keys.pop())
        axes.set_xscale("log" if min(values) > 0 else "linear")
        axes.set_xticks(values, [str(value) for value in values])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.1)
        axes.set_ylabel("top-1 accuracy")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    else:
        figure = Figure(figsize=(8, 2 + 0.3 * len(rows)), layout="constrained")
        axes = figure.subplots()
        rows = sorted(rows, key=lambda row: (_score(row, summary["select"]), row["chosen"]))
        _draw_metrics(axes, summary, list(enumerate(rows)), upright=False)
        axes.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8)
        axes.set_ylim(-0.7, len(rows) - 0.3)
        axes.set_xlabel("top-1 accuracy")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    title = f"\nchosen: {summary['chosen']}" if summary["chosen"] else ""
    figure.suptitle(summary["config"] + title, fontsize=11)
    handles, labels = axes.get_legend_handles_labels()
    entries = dict(zip(labels, handles, strict=True))  # merges repeated labels
    if entries:
        figure.legend(
            entries.values(), entries.keys(), loc="outside lower center", ncols=2, fontsize=9
        )
    return figure


def _score(row: dict[str, Any], metric: str) -> float:
    return row["first_seed"][metric] if "first_seed" in row else -1.0


def _draw_metrics(
    axes: Axes, summary: dict[str, Any], pairs: list[tuple[float, dict[str, Any]]], *, upright: bool
) -> None:
    """Draws (position, row) pairs, with positions along x if `upright`, otherwise along y."""
    first = summary["seeds"][0]
    finished = [(position, row) for position, row in pairs if "mean" in row]
    for number, metric in enumerate((summary["select"], summary["report"])):
        style = _STYLES[number]
        points = [(position, row["first_seed"][metric]) for position, row in finished]
        if points:
            points = points if upright else [(value, position) for position, value in points]
            axes.plot(
                *zip(*points, strict=True),
                **style,
                linestyle="-" if upright else "none",
                alpha=0.6,
                label=f"{metric}, seed {first}",
            )
        for position, row in finished:
            if row["std"][metric] is not None:
                mean, std = row["mean"][metric], row["std"][metric]
                if not upright:
                    position += 0.15 - 0.3 * number  # avoids overlap
                axes.errorbar(
                    x=position if upright else mean,
                    y=mean if upright else position,
                    xerr=None if upright else std,
                    yerr=std if upright else None,
                    **style,
                    markersize=9,
                    markerfacecolor="white",
                    markeredgewidth=1.5,
                    capsize=5,
                    linestyle="none",
                    label=f"{metric}, mean ± std of {len(row['seeds'])} seeds",
                )
    for position, row in pairs:
        line = axes.axvline if upright else axes.axhline
        if row["chosen"]:
            line(position, color="black", linewidth=1, linestyle=":", zorder=0, label="chosen")
        if row["failed_seeds"]:
            line(position, color="red", linewidth=1, linestyle=":", zorder=0, label="failed")
