"""The report from constructed results, against numbers that are computed by hand."""

import csv
import dataclasses
import pathlib

import pytest
from PIL import Image

from mixer.data.vtab import GROUPS, TASKS
from mixer.vtab.plan import REPORT, SELECT, Progress, Vtab
from mixer.vtab.recipe import Recipe
from mixer.vtab.report import draw, read_summary, summarize, table, write

VTAB = Vtab(pathlib.Path("w"), "imagenet21k/Mixer-L_16", Recipe("L/16", {}), "configs/vtab.py")


def progress_with(*test: float, rate: float = 0.01) -> Progress:
    """Returns a task's progress with these scores of seeds 0, 1, ... on the test images."""
    name = f"learning_rate={rate}"
    tuned = {(name, 0): {SELECT: 0.5}}
    return Progress(tuned, rate, 0.5, {(name, i): {REPORT: top1} for i, top1 in enumerate(test)})


@pytest.fixture
def progress() -> dict[str, Progress]:
    """Scores of task i: (i - 1) / 20, i / 20 and (i + 1) / 20, i from 1 to 19."""
    return {
        task: progress_with(*((i + shift) / 20 for shift in (-1, 0, 1)))
        for i, task in enumerate(TASKS, 1)
    }


def test_the_means_and_deviations(progress):
    summary = summarize(VTAB, progress, {})
    first = summary["tasks"]["caltech101"]
    assert first["test"] == [0.0, 0.05, 0.1]
    assert (first["mean"], first["std"]) == (pytest.approx(0.05), pytest.approx(0.05))
    assert (first["state"], first["learning_rate"], first["val"]) == ("done", 0.01, 0.5)
    # Of 1 to 19 the mean is 10, of the first seven 4, of the next four 9.5, of the others 15.5.
    assert summary["mean"] == pytest.approx(10 / 20)
    assert summary["mean_of_seeds"] == pytest.approx([9 / 20, 10 / 20, 11 / 20])
    assert summary["std"] == pytest.approx(1 / 20)
    means = [summary["groups"][group]["mean"] for group in GROUPS]
    assert means == pytest.approx([4 / 20, 9.5 / 20, 15.5 / 20])
    assert (summary["done"], summary["num_tasks"]) == (19, 19)


def test_the_mean_is_of_tasks_and_not_of_groups(progress):
    summary = summarize(VTAB, progress, {})
    groups = [summary["groups"][group]["mean"] for group in GROUPS]
    assert summary["mean"] != pytest.approx(sum(groups) / 3)


def test_without_one_seed_of_one_task_there_is_no_mean(progress):
    progress["dtd"] = progress_with(0.5, 0.6)
    summary = summarize(VTAB, progress, {"dtd": "failed: w/dtd/final/x/seed=2"})
    assert (summary["mean"], summary["std"], summary["mean_of_seeds"]) == (None, None, [])
    assert summary["groups"]["natural"]["mean"] is None
    assert summary["groups"]["structured"]["mean"] == pytest.approx(15.5 / 20)
    assert summary["tasks"]["dtd"]["state"] == "not complete"
    text = table(summary)
    assert "- (18 of 19 tasks)" in text
    assert "- (6 of 7 tasks)" in text
    assert "* dtd: failed: w/dtd/final/x/seed=2" in text


def test_a_failed_seed_does_not_count(progress):
    name = "learning_rate=0.01"
    scores = {(name, 0): {REPORT: 0.5}, (name, 1): None, (name, 2): {REPORT: 0.7}}
    progress["svhn"] = Progress({(name, 0): {SELECT: 0.5}}, 0.01, 0.5, scores)
    row = summarize(VTAB, progress, {})["tasks"]["svhn"]
    assert (row["state"], row["test"], row["mean"]) == ("not complete", [0.5, 0.7], None)


def test_the_table_shows_percent(progress):
    lines = table(summarize(VTAB, progress, {})).splitlines()
    assert lines[0] == "VTAB-1k, imagenet21k/Mixer-L_16, protocol section_3"
    cells = [cell.strip() for cell in lines[4].split("|")[1:-1]]
    assert cells == ["caltech101", "natural", "0.01", "50.00%", "5.00% ± 5.00%", "3"]
    cells = [cell.strip() for cell in lines[-1].split("|")[1:-1]]
    assert cells == ["**mean, all**", "", "", "", "50.00% ± 5.00%", ""]
    assert len({len(line) for line in lines[2:]}) == 1


def test_one_seed_has_no_deviation(progress):
    one = dataclasses.replace(VTAB, seeds=(0,))
    summary = summarize(one, progress, {})
    assert (summary["mean"], summary["std"]) == (pytest.approx(9 / 20), None)
    assert "45.00% ± n/a" in table(summary)


def test_the_four_files(progress, tmp_path):
    del progress["kitti-distance"]
    summary = summarize(VTAB, progress, {"kitti-distance": "line one\nline two"})
    text = write(summary, tmp_path)
    assert (tmp_path / "vtab.md").read_text(encoding="utf-8") == text
    assert text.endswith("\n* kitti-distance: line one\n  line two\n")
    assert read_summary(tmp_path) == summary
    with (tmp_path / "vtab.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["task"] for row in rows] == [*TASKS, *["mean"] * 4]
    assert [float(rows[0][f"test seed {seed}"]) for seed in range(3)] == [0.0, 0.05, 0.1]
    assert [row["mean"] for row in rows[-2:]] == ["", ""]  # structured, all
    assert (rows[14]["task"], rows[14]["state"]) == ("kitti-distance", "not run")
    with Image.open(tmp_path / "vtab.png") as picture:
        assert picture.size == (800, 700)


def test_the_bars_are_the_means_of_the_tasks(progress):
    del progress["smallnorb-elevation"]
    (axes,) = draw(summarize(VTAB, progress, {})).axes
    widths = {round(bar.get_y() + 0.4): bar.get_width() for bar in axes.patches if bar.get_width()}
    assert [widths[18 - i] for i in range(18)] == pytest.approx([i / 20 for i in range(1, 19)])
    assert next(text.get_text() for text in axes.texts) == "not run"
    assert [label.get_text() for label in axes.get_yticklabels()] == [*TASKS][::-1]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"mean_of_seeds": null}'])
def test_a_folder_without_a_report_is_an_error(content, tmp_path):
    if content is not None:
        (tmp_path / "vtab.json").write_text(content)
    with pytest.raises(ValueError, match=r"the report of scripts/vtab\.py in .*vtab\.json; got"):
        read_summary(tmp_path)
