"""Accuracy against wall time, from metrics whose numbers are known."""

import json
import pathlib

import pytest
from matplotlib import pyplot as plt
from PIL import Image

SCRIPT = "../docs/draw_accuracy.py"


def write_run(folder: pathlib.Path, evaluations: list[tuple[float, float]]) -> str:
    """Writes a run with these (minutes, test top-1), among lines of other kinds."""
    folder.mkdir()
    lines = [{"step": 1, "loss": 2.0, "train_seconds": 1.0, "wall_seconds": 9.0}]
    for minutes, top1 in evaluations:
        line = {"step": len(lines) + 1, "wall_seconds": 60 * minutes}
        lines.append(line | {"val/top1": 0.5, "test/top1": top1, "test/count": 4})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


@pytest.fixture
def runs(tmp_path: pathlib.Path) -> list[str]:
    first = write_run(tmp_path / "a", [(5, 0.3), (10, 0.4), (30, 0.6), (45, 0.7)])
    second = write_run(tmp_path / "b", [(12, 0.41256), (30, 0.6)])
    other = write_run(tmp_path / "c", [(11, 0.2)])
    return [f"ours={first},{second}", f"timm, eager={other}"]


def test_the_table_interpolates_between_evaluations(call, runs, tmp_path):
    output = tmp_path / "accuracy.png"
    assert call(SCRIPT, *runs, "--table", f"--output={output}").splitlines() == [
        "| top-1, % | 10 min | 20 min | 40 min | last |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| ours | 40.00, - | 50.00, 49.59 | 66.67, - | 70.00 (45.0 min), 60.00 (30.0 min) |",
        "| timm, eager | - | - | - | 20.00 (11.0 min) |",
    ]
    with Image.open(output) as image:
        assert image.size == (960, 540)


def test_each_label_has_one_colour_and_each_minute_a_mark(call, runs, tmp_path, monkeypatch):
    drawn = []
    with monkeypatch.context() as patch:
        patch.setattr(plt, "close", drawn.append)
        assert not call(SCRIPT, *runs, "--minutes=10,20", f"--output={tmp_path / 'accuracy.png'}")
    (figure,) = drawn
    (axes,) = figure.axes
    lines = [(line.get_color(), line.get_xydata().tolist()) for line in axes.lines]
    assert lines == [
        ("C0", [[5, 0.3], [10, 0.4], [30, 0.6], [45, 0.7]]),
        ("C0", [[12, 0.41256], [30, 0.6]]),
        ("C1", [[11, 0.2]]),
        ("grey", [[10, 0], [10, 1]]),
        ("grey", [[20, 0], [20, 1]]),
    ]
    assert [text.get_text() for text in axes.get_legend().texts] == ["ours", "timm, eager"]
    plt.close(figure)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{a}"], r"Expected LABEL=DIR\[,DIR...\].*; got '"),
        (["ours="], r"Expected LABEL=DIR\[,DIR...\].*; got 'ours='"),
        (["ours={a}", "ours={a}"], r"Expected LABEL=DIR\[,DIR...\], each label once"),
        (["ours={a}", "--split=tests"], r"a/metrics.jsonl to have tests/top1 .*; got none"),
        (["ours={a}/b"], r"a/b/metrics.jsonl to have test/top1 with wall_seconds; got none"),
        (["ours={old}"], r"old/metrics.jsonl to have test/top1 .*; got no clock"),
        (["ours={a}", "--minutes=0"], "Expected --minutes to be positive integers; got"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, tmp_path, arguments, message):
    a, old, output = tmp_path / "a", tmp_path / "old", tmp_path / "accuracy.png"
    write_run(a, [(1, 0.5)])
    old.mkdir()
    (old / "metrics.jsonl").write_text('{"step": 1, "test/top1": 0.5}\n')
    with pytest.raises(ValueError, match=message):
        call(SCRIPT, *(x.format(a=a, old=old) for x in arguments), f"--output={output}")
    assert not output.exists()
