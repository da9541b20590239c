"""Figures from the values of their cells: ours filled, the paper's hollow."""

import math
from collections.abc import Mapping
from typing import Any

from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixer.paper import weight_pictures
from mixer.paper.graph import Item, Picture, Run, Score
from mixer.reporting.metrics import read_metrics
from mixer.reproduction.study import Study
from mixer.reproduction.values import Value, seed_folders
from mixer.weights.load import load_weights

Values = Mapping[tuple[str, str], Value | None]  # by row and column

_WIDTH, _HEIGHT = 3.3, 2.9  # inches: a column of a paper
_SMALL = 7  # points
# Colours that also differ in greyscale; solid, dashed and dotted as in the paper.
_FAMILIES: dict[str, dict[str, Any]] = {
    "Mixer": {"color": "#d55e00", "linestyle": "-"},
    "ViT": {"color": "#0072b2", "linestyle": "--"},
    "BiT": {"color": "#009e73", "linestyle": ":"},
    "others": {"color": "#7f7f7f", "linestyle": "-."},
}
_CURVES = (("-", "#000000"), ("--", "#0072b2"), (":", "#d55e00"))
_MARKERS = "osD^vP*"


def draw(study: Study, item: Item, values: Values) -> list[tuple[str, Figure]]:
    """Returns the figures of an item with their file names, without suffix."""
    if any(isinstance(cell.source, Picture) for _, _, cell in item.cells()):
        return _draw_weights(study, item, values)
    if item.name.startswith("figure2right"):
        return [(item.name, _draw_fractions(item, values))]
    if item.name == "figure4":
        return [(item.name, _draw_curves(study, item))]
    return [(item.name, _draw_costs(item, values))]


def family(row: str) -> str:
    """Returns the family of a row: "Mixer" of "jft300m/Mixer-B_16-7ep-224"."""
    return next((name for name in _FAMILIES if f"{name}-" in f"{row}-"), "others")


def _axes(panels: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(_WIDTH * panels, _HEIGHT), layout="constrained")
    axes = list(figure.subplots(1, panels, squeeze=False).flat)
    for one in axes:
        one.tick_params(labelsize=_SMALL)
        one.grid(alpha=0.3, linewidth=0.5)
    return figure, axes


def _label(axes: Axes, across: str, up: str, title: str = "") -> None:
    axes.set_xlabel(across, fontsize=_SMALL + 1)
    axes.set_ylabel(up, fontsize=_SMALL + 1)
    axes.set_title(title, fontsize=_SMALL + 1)
    if not axes.get_legend_handles_labels()[1]:
        axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center")


def _legend(figure: Figure) -> Figure:
    """Adds one legend for all panels, below them."""
    entries: dict[Any, Any] = {}  # merges repeated labels
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    if entries:
        figure.legend(
            list(entries.values()),
            list(entries),
            loc="outside lower center",
            ncols=3 * len(figure.axes),
            fontsize=_SMALL,
            frameon=False,
        )
    return figure


def _draw_costs(item: Item, values: Values) -> Figure:
    """Accuracy against each of the other columns, on a logarithmic axis."""
    top1, *costs = item.columns
    figure, panels = _axes(len(costs))
    for axes, cost in zip(panels, costs, strict=True):
        axes.set_xscale("log")
        for row, cells in item.rows.items():
            paper = dict(zip(item.columns, (cell.paper for cell in cells), strict=True))
            style = {"color": _FAMILIES[family(row)]["color"], "markersize": 4, "linestyle": "none"}
            across, up = paper[cost], paper[top1]
            if across is not None and up is not None:
                label = f"{family(row)}, paper"
                axes.plot(across, up, "o", mfc="none", label=label, **style)
            found, spent = values[row, top1], values[row, cost]
            if found and spent:
                label = f"{family(row)}, ours"
                error = found.deviation
                axes.errorbar(
                    spent.mean, found.mean, error, fmt="s", capsize=2, label=label, **style
                )
        _label(axes, f"{cost} (log)", "ImageNet top-1 (%)")
    return _legend(figure)


def _draw_fractions(item: Item, values: Values) -> Figure:
    figure, (axes,) = _axes()
    axes.set_xscale("log")
    places = [float(column.rstrip("%")) for column in item.columns]
    for number, row in enumerate(item.rows):
        found = [
            (place, value.mean, math.nan if value.deviation is None else value.deviation)
            for place, column in zip(places, item.columns, strict=True)
            if (value := values[row, column])
        ]
        if found:
            style = _FAMILIES[family(row)] | {"markersize": 4, "capsize": 2}
            marker = _MARKERS[number % len(_MARKERS)]
            across, up, error = zip(*found, strict=True)
            axes.errorbar(across, up, error, marker=marker, label=row, **style)
    axes.set_xticks(places, item.columns)
    axes.minorticks_off()
    if item.is_extra:
        _label(axes, "part of CIFAR-10 (log)", "test top-1 (%)")
    else:
        _label(axes, "part of JFT-300M (log)", "5-shot ImageNet top-1 (%)")
    return _legend(figure)


def _draw_curves(study: Study, item: Item) -> Figure:
    """Few-shot accuracy along training, a panel for each model."""
    figure, panels = _axes(len(item.rows))
    for axes, (row, cells) in zip(panels, item.rows.items(), strict=True):
        for column, cell, (line, colour) in zip(item.columns, cells, _CURVES, strict=True):
            assert isinstance(cell.source, Score)
            for folder in seed_folders(study, cell.source.run):
                metric = cell.source.metric
                lines = [one for one in read_metrics(epath.Path(folder)) if metric in one]
                points = [(one["step"], 100 * one[metric]) for one in lines]
                marker = "." if len(points) < 30 else None
                axes.plot(
                    *zip(*points, strict=True), line, color=colour, marker=marker, label=column
                )
        _label(axes, "step", "5-shot ImageNet top-1 (%)", row)
    return _legend(figure)


def _draw_weights(study: Study, item: Item, values: Values) -> list[tuple[str, Figure]]:
    figures = []
    for row, (cell,) in item.rows.items():
        if not values[row, item.columns[0]]:
            continue
        assert isinstance(cell.source, Picture)
        params = load_weights(_source(study, cell.source.run)).params
        blocks = sum(name.startswith("MixerBlock_") for name in params)
        if item.name == "figure7":
            figure = weight_pictures.draw_stem(params)
        elif item.name == "figure6":
            figure = weight_pictures.draw_token_units(params, min(2, blocks), None)
        else:
            figure = weight_pictures.draw_token_units(params, min(3, blocks), 64)
        figures.append((f"{item.name}-{row.replace('/', '-')}", figure))
    return figures


def _source(study: Study, run: Run) -> str:
    return run.published if study.is_replaced(run) else str(study.folder(run))
