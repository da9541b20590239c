"""Means, standard deviations, the table and the picture, by hand."""

import json

import pytest

from mixer.sweep import report

LOW, HIGH, WILD = (f"learning_rate={rate}" for rate in (0.003, 0.01, 10))


def result(select: float, tested: float) -> dict[str, float]:
    return {"step": 4, "minival/top1": select, "test/top1": tested}


OUTCOMES = {
    (LOW, 0): result(0.75, 0.9),
    (HIGH, 0): result(0.8, 0.5),
    (HIGH, 1): result(0.5, 0.6),
    (HIGH, 2): result(0.5, 0.4),
    (WILD, 0): None,
}

TEXT = """\
| combination         | minival/top1, seed 0 | test/top1, mean ± std | seeds   |                |
| ------------------- | -------------------- | --------------------- | ------- | -------------- |
| learning_rate=0.003 | 75.00%               | 90.00% ± n/a          | 0       |                |
| learning_rate=0.01  | 80.00%               | 50.00% ± 10.00%       | 0, 1, 2 | **chosen**     |
| learning_rate=10    | -                    | -                     | -       | failed: seed 0 |

Chosen by minival/top1 with seed 0: learning_rate=0.01. Its test/top1: 50.00% ± 10.00% \
(mean ± standard deviation over 3 of 3 seeds).
"""


def test_mean_and_standard_deviation_over_the_seeds(make_sweep):
    summary = report.summarize(make_sweep(0.003, 0.01, 10), OUTCOMES)
    low, high, wild = summary["combinations"]
    assert summary["chosen"] == high["name"] == HIGH
    assert [row["chosen"] for row in (low, high, wild)] == [False, True, False]
    assert high["first_seed"] == {"minival/top1": 0.8, "test/top1": 0.5}
    # 0.3, of which the deviations are 0.2, -0.1, -0.1: sqrt(0.06 / 2)
    assert high["mean"] == pytest.approx({"minival/top1": 0.6, "test/top1": 0.5})
    assert high["std"] == pytest.approx({"minival/top1": 0.03**0.5, "test/top1": 0.1})
    assert high["seeds"] == [0, 1, 2]
    assert low["mean"]["test/top1"] == 0.9
    assert low["std"] == {"minival/top1": None, "test/top1": None}
    assert wild["failed_seeds"] == [0]
    assert "mean" not in wild


def test_the_report_in_text(make_sweep):
    sweep = make_sweep(0.003, 0.01, 10)
    sweep.workdir.mkdir()
    text = report.write(sweep, OUTCOMES)
    assert text == TEXT
    assert (sweep.workdir / "sweep.md").read_text() == text
    summary = json.loads((sweep.workdir / "sweep.json").read_text())
    assert summary == report.summarize(sweep, OUTCOMES)
    assert (sweep.workdir / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_learning_rates_are_drawn_on_a_log_axis(make_sweep):
    figure = report.draw(report.summarize(make_sweep(0.01, 0.003, 10), OUTCOMES))
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.01", "0.003", "10"]
    lines = {line.get_label(): line for line in axes.lines}
    select, tested = lines["minival/top1, seed 0"], lines["test/top1, seed 0"]
    assert select.get_xydata().tolist() == [[0.003, 0.75], [0.01, 0.8]]
    assert tested.get_xydata().tolist() == [[0.003, 0.9], [0.01, 0.5]]
    assert lines["chosen"].get_xdata() == [0.01, 0.01]
    assert lines["failed"].get_xdata() == [10, 10]
    _, bars = axes.containers
    ((_, low), (_, high)) = bars.lines[2][0].get_segments()[0]
    assert (low, high) == pytest.approx((0.4, 0.6))


def test_other_grids_are_drawn_by_name_the_best_at_the_top(make_sweep):
    combinations = [{"init_from": name, "flip": flip} for name in "ab" for flip in (True, False)]
    sweep = make_sweep(combinations=combinations)
    names = list(sweep.combinations)
    outcomes = {(names[0], 0): result(0.3, 0.1), (names[1], 0): result(0.4, 0.2)}
    outcomes |= {(names[2], 0): result(0.2, 0.3), (names[3], 0): None}
    (axes,) = report.draw(report.summarize(sweep, outcomes)).axes
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    assert ticks == [names[3], names[2], names[0], names[1]]
    lines = {line.get_label(): line for line in axes.lines}
    points = lines["minival/top1, seed 0"].get_xydata().tolist()
    assert points == [[0.2, 1.0], [0.3, 2.0], [0.4, 3.0]]
    assert lines["chosen"].get_ydata() == [3, 3]


def test_nothing_finished_is_drawn_too(make_sweep):
    summary = report.summarize(make_sweep(0.003, 0.01), {})
    assert "Chosen" not in report.table(summary)
    assert report.draw(summary).axes[0].lines[:] == []
