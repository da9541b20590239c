"""A picture of a confusion matrix, beside the mistakes that the model was surest of."""

import io
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixer.evaluation.confusion import MAX_MISTAKES, Confusion
from mixer.evaluation.prediction_picture import shortened

_MAX_CLASSES = 30  # whose names fit beside the matrix
_MAX_COUNTED = 20  # with so many, the counts fit into the cells
_TEXT, _COLUMNS = "#222222", 3


def draw_confusion(confusion: Confusion, title: str) -> bytes:
    """Returns a PNG: the matrix, each row as fractions of a true class, and the mistakes.

    Of more than 30 classes, the matrix shows those that take part in most mistakes.
    """
    figure = Figure(figsize=(15, 8.5), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=[1.25, 1.0])
    left, right = halves
    labels = confusion.most_confused(_MAX_CLASSES)
    _draw_matrix(left.subplots(), confusion, labels)
    figure.suptitle(title, fontsize=11, color=_TEXT, parse_math=False)
    right.suptitle("The most confident mistakes", fontsize=10, color=_TEXT)
    places = right.subplots(MAX_MISTAKES // _COLUMNS, _COLUMNS).flat
    for axes in places:
        axes.axis("off")
    for axes, mistake in zip(right.axes, confusion.mistakes, strict=False):
        axes.imshow(mistake.image)
        true, predicted = (
            shortened(confusion.class_names[label], 22)
            for label in (mistake.true, mistake.predicted)
        )
        text = f"{true}\ntaken for {predicted}, {mistake.probability:.1%}"
        axes.set_title(text, fontsize=8, color=_TEXT, parse_math=False)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return png.getvalue()


def _draw_matrix(axes: Axes, confusion: Confusion, labels: list[int]) -> None:
    counts = confusion.matrix(labels)
    images = [sum(n for (true, _), n in confusion.counts.items() if true == row) for row in labels]
    fractions = counts / np.maximum(images, 1)[:, None]
    axes.imshow(fractions, cmap="Blues", vmin=0.0, vmax=1.0)
    names = [shortened(confusion.class_names[label], 22) for label in labels]
    axes.set_xticks(range(len(labels)), names, rotation=90, fontsize=8, parse_math=False)
    axes.set_yticks(range(len(labels)), names, fontsize=8, parse_math=False)
    axes.set_xlabel("predicted", color=_TEXT)
    axes.set_ylabel("true", color=_TEXT)
    title = "Images of each true class, by prediction"
    if len(labels) < len(confusion.class_names):
        title += (
            f": {len(labels)} of {len(confusion.class_names):,} classes, those with most mistakes"
        )
    axes.set_title(title, fontsize=10, color=_TEXT)
    if len(labels) > _MAX_COUNTED:
        return
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if fractions[row, column] > 0.5 else _TEXT
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
