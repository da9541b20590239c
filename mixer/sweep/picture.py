"""The picture of a sweep: both metrics over the grid, and the spread over the seeds of the best."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

# Of the metrics that are chosen by and reported: told apart in grey, too.
_STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#0072b2", "marker": "o"},
    {"color": "#d55e00", "marker": "s"},
)


def draw(summary: dict[str, Any]) -> Figure:
    """Returns the picture of a summary (`mixer/sweep/report.py`).

    For one key with numbers the metrics are drawn over its values, on a log axis if they are all
    positive; otherwise each combination has a line of its own, the best at the top.
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
    entries = dict(zip(labels, handles, strict=True))  # one for several failed ones
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
    """Draws rows at positions, along x if upright, otherwise along y."""
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
                    position += 0.15 - 0.3 * number  # beside each other
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
