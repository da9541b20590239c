"""The pictures of a run say what they show: names of classes, percent, test loss, plain numbers."""

import json
import pathlib

import numpy as np
import pytest
from etils import epath
from matplotlib.figure import Figure

from mixer.reporting.pictures import draw_curves, draw_images


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Collects the figures that are drawn."""
    drawn: list[Figure] = []
    save = Figure.savefig

    def collect(figure: Figure, *args: object, **kwargs: object) -> None:
        save(figure, *args, **kwargs)
        drawn.append(figure)

    monkeypatch.setattr(Figure, "savefig", collect)
    return drawn


def tick_labels(axis: object) -> list[str]:
    labels = [*axis.get_ticklabels(which="major"), *axis.get_ticklabels(which="minor")]
    return [label.get_text() for label in labels if label.get_text()]


def test_curves(tmp_path: pathlib.Path, figures: list[Figure]) -> None:
    lines = [
        {"step": 50_000, "loss": 3.1, "learning_rate": 3e-3, "images_per_second_per_core": 12e3},
        {"step": 100_000, "loss": 0.42, "learning_rate": 3e-5, "images_per_second_per_core": 13e3},
        {"step": 50_000, "test/top1": 0.41, "test/loss": 2.5, "minival/top1": 0.5},
        {"step": 100_000, "test/top1": 0.625, "test/loss": 1.5, "minival/loss": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw_curves(epath.Path(tmp_path))
    (figure,) = figures
    loss, accuracy, *_ = figure.axes
    curves = {line.get_label(): line.get_ydata().tolist() for line in loss.lines}
    assert curves == {"training": [3.1, 0.42], "test": [2.5, 1.5], "minival": [1.0]}
    assert loss.get_legend() is not None
    assert {"0.5", "1", "2"} <= set(tick_labels(loss.yaxis))
    percents = tick_labels(accuracy.yaxis)
    assert len(percents) > 2
    assert all(label.endswith("%") for label in percents)
    assert "60,000" in tick_labels(loss.xaxis)
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            assert axis.get_offset_text().get_text() == ""
            for label in tick_labels(axis):  # numbers in digits
                float(label.replace(",", "").replace("%", "").replace("\u2212", "-"))
                assert "e" not in label


def test_images_bear_the_names_of_their_classes(tmp_path: pathlib.Path, figures: list) -> None:
    names = ("ant", "n01440764", "a $formula$ and\x1b a long name")
    labels = np.array([[0, -1], [1, 0], [2, -1], [-1, -1]])
    images = np.zeros((4, 8, 8, 3), np.uint8)
    draw_images(images, labels, epath.Path(tmp_path / "i.png"), names)
    titles = [axes.get_title() for axes in figures[0].axes[:4]]
    assert titles == ["ant", "tench, ant", "a $formula$ and\\x1b…", ""]
    assert (tmp_path / "i.png").read_bytes().startswith(b"\x89PNG")
