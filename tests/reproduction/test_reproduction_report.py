"""Tables and figures from constructed metrics: values, deviations, and what is not there."""

import csv
import dataclasses
import json
import statistics

import pytest

from mixer.paper.graph import Evaluation, Item, Mean, Run, Score, jobs_of_items
from mixer.paper.items import all_items
from mixer.reproduction import plan, report
from mixer.reproduction.figures import draw
from mixer.reproduction.values import evaluation_files, value_of
from tests.reproduction.conftest import WHERE

ITEMS = all_items()
ROW = "imagenet/Mixer-B_16-300ep-224"
TOP1 = {"imagenet": (0.76, 0.77, 0.765), "cifar10": (0.96, 0.97, 0.98)}


@pytest.fixture
def row() -> Item:
    return plan.choose(ITEMS, "table3", [ROW])[0]


@pytest.fixture
def finished_row(study, finish, row) -> Item:
    """All runs of the row, apart from Flowers; ReaL; no throughput."""
    for job in jobs_of_items([row]):
        if isinstance(job, Evaluation):
            for seed, path in enumerate(evaluation_files(study, job)):
                path.write_text(json.dumps({"top1": 0.82 + 0.01 * seed, **WHERE}))
        elif isinstance(job, Run) and job.seeds == 1:
            finish(job, **{"minival/top1": 0.7, "core_days": 11.5})
        elif isinstance(job, Run) and not job.name.endswith("flowers"):
            finish(job, *TOP1.get(job.name.rpartition("/")[2], (0.9, 0.9, 0.9)))
    return row


def test_the_values_of_a_row(study, finished_row):
    top1, real, five, speed, days = (
        value_of(study, cell.source) for cell in finished_row.rows[ROW]
    )
    assert top1.of_seeds == pytest.approx((76, 77, 76.5))  # of the best rate by minival
    assert (top1.mean, top1.deviation) == pytest.approx((76.5, 0.5))
    assert top1.origins[0] == ("8 x TPU v3", "abc1234", "2026-11-26")
    assert real.of_seeds == pytest.approx((82, 83, 84))
    assert five is None  # Flowers has not run
    assert speed is None
    assert (days.of_seeds, days.deviation) == ((11.5,), None)


def test_the_mean_of_five_is_taken_seed_by_seed(study, finish, finished_row):
    (cell,) = (c for _, column, c in finished_row.cells() if column == "mean of five")
    assert isinstance(cell.source, Mean)
    finish(cell.source.scores[-1].run, 0.8, 0.9, 1.0)
    value = value_of(study, cell.source)
    expected = [(76 + 96 + 90 + 90 + 80) / 5, (77 + 97 + 90 + 90 + 90) / 5]
    expected.append((76.5 + 98 + 90 + 90 + 100) / 5)
    assert value.of_seeds == pytest.approx(expected)
    assert value.deviation == pytest.approx(statistics.stdev(expected))


def test_a_sweep_without_its_seeds_is_not_done(study, finish, row):
    source = row.rows[ROW][0].source
    finish(source.run, 0.76, 0.77, 0.765)
    folder = next(study.folder(source.run).glob("*0.01/seed=2"))
    (folder / "metrics.jsonl").rename(folder / "elsewhere")
    assert value_of(study, source) is None
    assert source.run in plan.jobs_to_do(study, [row])


def test_early_stopping_takes_the_probe_at_the_best_validation(study, finish):
    cell = ITEMS["figure2right"].rows["Mixer-B/32"][0]
    assert isinstance(cell.source, Score)
    lines = [
        {"step": 5000 * n, "minival/top1": up, "few_shot/top1": probe}
        for n, up, probe in ((1, 0.2, 0.3), (2, 0.6, 0.4), (3, 0.5, 0.9))
    ]
    scores = {"minival/top1": 0.4, "few_shot/top1": 0.8}
    finish(cell.source.run, lines=lines, **scores)
    assert value_of(study, cell.source).of_seeds == pytest.approx((40.0,))
    last = dataclasses.replace(cell.source, best_by="")
    assert value_of(study, last).of_seeds == pytest.approx((80.0,))


def test_markdown(study, finished_row):
    report.write_report(study, [finished_row])
    text = (study.workdir / "report/table3.md").read_text()
    assert text == (
        "# table3: Mixer, ViT and BiT over data and scale\n\n"
        "|  | ImageNet | ReaL | mean of five | images/s/core | core-days |\n"
        "|---|---|---|---|---|---|\n"
        f"| {ROW} | 76.44; 76.50 ± 0.50 (+0.06) | 82.36; 83.00 ± 1.00 (+0.64) | 88.33; not run | "
        "1,384; not run | 10; 11.5 (+1.5) |\n\n"
        "In each cell: the paper's number; ours ± standard deviation (difference).\n"
        "Seeds: 1, 3.\n* 8 x TPU v3, commit abc1234, 2026-11-26\n"
    )


def test_csv_and_latex(study, finished_row):
    small = dataclasses.replace(study, miniature=True)
    report.write_report(small, [finished_row])
    folder = study.workdir / "report"
    with (folder / "table3.csv").open() as file:
        first, _, third, *_ = csv.DictReader(file)
    assert float(first["ours"]) == pytest.approx(76.5)
    assert float(first["difference"]) == pytest.approx(0.06)
    assert (first["paper"], first["seeds"], first["state"]) == ("76.44", "3", "done")
    assert (first["hardware"], first["commit"]) == ("8 x TPU v3", "abc1234")
    assert (third["ours"], third["state"]) == ("", "not run")
    text = (folder / "table3.tex").read_text()
    assert r"imagenet/Mixer-B\_16-300ep-224 & \shortstack[r]{76.44\\76.50 $\pm$ 0.50}" in text
    assert "cannot be compared" in text.splitlines()[0]


def test_quoted_and_computed_cells(study):
    report.write_report(study, [ITEMS["table1"], ITEMS["table2"], ITEMS["table4"]])
    texts = [(study.workdir / f"report/table{n}.md").read_text() for n in (1, 2, 4)]
    expected = "| B/16 | 12; 12 (+0) | 16; 16 (+0) | 768; 768 (+0) | 196; 196 (+0) "
    assert f"{expected}| 3,072; 3,072 (+0) | 384; 384 (+0) | 59; 59 (+0) |" in texts[0]
    assert texts[0].count("(+0)") == 49  # all that Table 1 prints is computed alike
    assert "| *85.80* (quoted) | - | - | - | *120* (quoted) | *100* (quoted) |" in texts[1]
    assert texts[2].count("(+0)") == 63  # and all of Table 4 is what the configs set


def test_figures_are_drawn_from_values(study, finish):
    (figure2,) = plan.choose(ITEMS, "figure2right", ["Mixer-B/32", "ViT-B/32"])
    for percent, (row, _, cell) in enumerate(figure2.cells()):
        if row == "Mixer-B/32":
            scores = {"minival/top1": 0.4, "few_shot/top1": 0.1 * percent}
            finish(cell.source.run, **scores)
    values = {(r, c): value_of(study, cell.source) for r, c, cell in figure2.cells()}
    ((name, figure),) = draw(study, figure2, values)
    (curve,) = figure.axes[0].containers
    line, _, (bars,) = curve.lines
    assert not any(len(points) for points in bars.get_segments())  # one seed has no deviation
    assert (name, curve.get_label(), line.get_linestyle()) == ("figure2right", "Mixer-B/32", "-")
    assert line.get_xdata().tolist() == [3, 10, 30, 100]
    assert line.get_ydata() == pytest.approx([0, 10, 20, 30])


def test_the_papers_points_are_told_from_ours(study, finish):
    (figure3,) = plan.choose(ITEMS, "figure3", ["Mixer-B_16", "ViT-H"])
    run = figure3.rows["jft300m/Mixer-B_16-7ep-224"][0].source.run
    finish(run, 0.79, 0.8, 0.81)
    finish(run.start, **{"minival/top1": 0.4, "core_days": 70.0})
    values = {(r, c): value_of(study, cell.source) for r, c, cell in figure3.cells()}
    ((_, figure),) = draw(study, figure3, values)
    cost, speed = figure.axes
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(labels) == ["Mixer, ours", "Mixer, paper", "ViT, paper"]
    paper = {line.get_label(): line for line in cost.lines}["Mixer, paper"]
    assert paper.get_xydata().tolist() == [[80, 80.0]]
    assert paper.get_markerfacecolor() == "none"
    ((low, high),) = cost.containers[0].lines[2][0].get_segments()
    assert (*low, *high) == pytest.approx((70, 79, 70, 81))  # the deviation of 79, 80, 81 is 1
    assert len(speed.containers) == 0


def test_figures_are_written_as_png_and_pdf(study):
    written = report.write_report(study, [ITEMS["figure3"], ITEMS["figure4"]])
    for name in ("figure3", "figure4"):
        png, pdf = (study.workdir / f"report/{name}.{suffix}" for suffix in ("png", "pdf"))
        assert {png, pdf} <= set(written)
        assert png.read_bytes().startswith(b"\x89PNG")
        assert pdf.read_bytes().startswith(b"%PDF")


def test_a_folder_with_other_runs_is_refused(study, finish, row):
    source = row.rows[ROW][0].source
    finish(source.run, 0.76, 0.77, 0.765)
    path = next(study.folder(source.run).glob("*0.01/seed=2")) / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"batch_size": 7}))
    with pytest.raises(ValueError, match="run with another config:\n  batch_size: 7 before, 512"):
        report.write_report(study, [row])
    assert not (study.workdir / "report").exists()


def test_so_is_a_folder_with_another_pretraining(study, finish, row):
    source = row.rows[ROW][-1].source
    finish(source.run, **{"minival/top1": 0.7, "core_days": 11.5})
    path = study.folder(source.run) / "config.json"
    path.write_text(path.read_text().replace('"mixup_alpha": 0.5', '"mixup_alpha": 0.1'))
    with pytest.raises(ValueError, match="another config:\n  mixup_alpha: 0.1 before, 0.5 now"):
        plan.jobs_to_do(study, [row])
