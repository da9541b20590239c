"""Draws accuracy against minutes of wall time: python docs/draw_accuracy.py LABEL=DIR[,DIR...] ...

Each DIR is the workdir of a run. Those of one LABEL, such as its seeds, have one colour. --table
also prints the top-1 of each at --minutes, interpolated linearly between evaluations, and the last.
"""

import pathlib
from collections.abc import Iterable, Sequence

import matplotlib

matplotlib.use("Agg")
import numpy as np
from absl import app, flags
from etils import epath
from matplotlib import pyplot as plt
from matplotlib.ticker import PercentFormatter

from mixer.reporting.metrics import read_metrics
from mixer.runtime import command

_SPLIT = flags.DEFINE_string("split", "test", "Split of eval_splits whose top-1 is drawn.")
_MINUTES = flags.DEFINE_list("minutes", ["10", "20", "40"], "Where to draw marks; of the table.")
_OUTPUT = command.path_flag("output", "accuracy.png", "PNG to write.")
_TABLE = flags.DEFINE_bool("table", False, "Also print a Markdown table of top-1 at --minutes.")

Curve = list[tuple[float, float]]  # minutes, top-1 in [0, 1]; ascending


def read_curve(workdir: pathlib.Path, split: str) -> Curve:
    """Returns the evaluations of a run.

    Raises:
      ValueError: it has none of that split, or they have no wall clock.
    """
    key = f"{split}/top1"
    lines = [line for line in read_metrics(epath.Path(workdir)) if key in line]
    if not lines or not all("wall_seconds" in line for line in lines):
        found = "no clock: an older version wrote them" if lines else "none"
        raise ValueError(
            f"Expected {workdir / 'metrics.jsonl'} to have {key} with wall_seconds; got {found}."
        )
    return [(line["wall_seconds"] / 60, line[key]) for line in lines]


def read_labels(arguments: Iterable[str], split: str) -> dict[str, list[Curve]]:
    """Returns the curves of each label of "LABEL=DIR[,DIR...]"."""
    labels = {}
    for argument in arguments:
        label, _, folders = argument.rpartition("=")
        if not label or not folders or label in labels:
            raise ValueError(f"Expected LABEL=DIR[,DIR...], each label once; got {argument!r}.")
        labels[label] = [read_curve(pathlib.Path(x), split) for x in folders.split(",")]
    return labels


def top1_at(curve: Curve, minutes: int) -> float | None:
    """Returns the top-1 then, interpolated linearly, None before the first and after the last."""
    passed, top1 = zip(*curve, strict=True)
    return float(np.interp(minutes, passed, top1)) if passed[0] <= minutes <= passed[-1] else None


def table(labels: dict[str, list[Curve]], minutes: Sequence[int]) -> str:
    """Returns top-1 in % as Markdown: a row per label, its runs in the order given."""

    def cell(curves: list[Curve], minute: int) -> str:
        scores = [top1_at(curve, minute) for curve in curves]
        return ", ".join("-" if score is None else f"{100 * score:.2f}" for score in scores)

    head = ["top-1, %", *(f"{minute} min" for minute in minutes), "last"]
    rows = [
        [label, *(cell(curves, m) for m in minutes), ", ".join(map(_last, curves))]
        for label, curves in labels.items()
    ]
    rows = [head, ["---"] + ["---:"] * (len(minutes) + 1), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _last(curve: Curve) -> str:
    minutes, top1 = curve[-1]
    return f"{100 * top1:.2f} ({minutes:.1f} min)"


def draw(
    labels: dict[str, list[Curve]], minutes: Sequence[int], split: str, output: pathlib.Path
) -> None:
    """Writes the picture as a PNG."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for number, (label, curves) in enumerate(labels.items()):
        for i, curve in enumerate(curves):
            name = label if i == 0 else None
            axes.plot(*zip(*curve, strict=True), ".-", lw=1, color=f"C{number}", label=name)
    for minute in minutes:
        axes.axvline(minute, color="grey", lw=0.8, ls="--", zorder=0)
    axes.set_xlim(0, None)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("minutes of wall time, from the start of the program")
    axes.set_ylabel(f"{split} top-1")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(output, dpi=120, facecolor="white")
    plt.close(figure)


def main(arguments: list[str]) -> None:
    if not arguments:
        raise app.UsageError("Expected one LABEL=DIR[,DIR...] or more; got none.")
    minutes = command.positive_integers(_MINUTES)
    labels = read_labels(arguments, _SPLIT.value)
    draw(labels, minutes, _SPLIT.value, pathlib.Path(_OUTPUT.value))
    if _TABLE.value:
        print(table(labels, minutes))


if __name__ == "__main__":
    command.run(main, takes_arguments=True)
