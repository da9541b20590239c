"""A picture of predictions: each image next to its most probable classes."""

import io
import pathlib
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from mixer.evaluation.prediction import MAX_DRAWN, Prediction, accuracy_of
from mixer.evaluation.prediction_table import printable, replace_file

_FULL_PICTURE = 5  # number of bars whose total height equals that of the image
_TEXT, _BEST, _WRONG, _OTHER = "#222222", "#8fbcdb", "#e8a598", "#dfe6ec"


def draw_predictions(predictions: Sequence[Prediction], output: pathlib.Path) -> None:
    """Writes a PNG of the first `MAX_DRAWN` images, each next to a bar chart of its classes.

    Above an image stand its file and its true class, if that is known; above all the accuracy. An
    existing file is replaced only once the picture is complete.
    """
    drawn = predictions[:MAX_DRAWN]
    columns = min(2, len(drawn))
    rows = -(-len(drawn) // columns)
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.1)
    height = 0.46 * max(len(drawn[0].classes), _FULL_PICTURE)  # inches
    figure = Figure(figsize=(5.6 * columns, height * rows), layout=layout)
    grid = figure.subplots(rows, 2 * columns, squeeze=False, width_ratios=[1.0, 1.5] * columns)
    for axes in grid.flat:
        axes.axis("off")
    for prediction, (left, right) in zip(drawn, grid.reshape(-1, 2), strict=False):
        assert prediction.image is not None  # it is among the first
        left.imshow(prediction.image)
        left.set_title(_title(prediction), fontsize=9, color=_TEXT, parse_math=False)
        _draw_bars(right, prediction)
    if accuracy := accuracy_of(predictions):
        figure.suptitle(accuracy, fontsize=10, color=_TEXT)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    replace_file(output, png.getvalue())


def _draw_bars(axes: Axes, prediction: Prediction) -> None:
    places = range(len(prediction.classes))
    colours = [_WRONG if prediction.is_correct is False else _BEST]
    colours += [_OTHER] * (len(prediction.classes) - 1)
    axes.barh(places, prediction.probabilities, height=0.8, color=colours)
    axes.set_xlim(0, 1.18)  # leaves room for the percentages
    axes.set_ylim(max(len(places), _FULL_PICTURE) - 0.5, -0.5)  # most probable class on top
    for place in places:
        name = shortened(prediction.classes[place], 32)
        axes.text(0.02, place, name, va="center", fontsize=9, color=_TEXT, parse_math=False)
        percent = f"{prediction.probabilities[place]:.1%}"
        axes.text(1.18, place, percent, va="center", ha="right", fontsize=9, color=_TEXT)


def _title(prediction: Prediction) -> str:
    name = shortened(prediction.path.name, 24)
    true = prediction.true_class
    return name if true is None else f"{name}\ntrue: {shortened(true, 24)}"


def shortened(text: str, length: int) -> str:
    """Returns the text on one line, its end cut off if it is longer than `length` characters."""
    text = printable(text)
    return text if len(text) <= length else text[: length - 1] + "…"
