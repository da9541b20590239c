"""The graph of the paper's tables and figures: complete, shared, and made of configs that build."""

import pathlib
import sys

import jax
import pytest
from absl import flags
from ml_collections import ConfigDict

from mixer.build import build_without_data
from mixer.config import to_plain
from mixer.data.table import num_examples
from mixer.models import build_model
from mixer.paper import reference
from mixer.paper.graph import (
    FRACTION_STEPS,
    Absent,
    Evaluation,
    Mean,
    Run,
    Score,
    Throughput,
    VtabMean,
    jobs_of,
    jobs_of_items,
    pretraining,
)
from mixer.paper.items import FRACTIONS, all_items, fraction_run
from mixer.reproduction.study import Study, read_config
from mixer.runtime.command import config_flag
from mixer.weights.published import CATALOGUE

ITEMS = all_items()
STUDY = Study(pathlib.Path("runs/paper"))
RUNS = [job for job in jobs_of_items(list(ITEMS.values())) if isinstance(job, Run)]


def test_all_tables_and_figures_are_there():
    figures = ["2left", "2right", "3", "4", "5", "6", "7"]
    expected = [f"table{n}" for n in range(1, 5)] + [f"figure{n}" for n in figures]
    assert list(ITEMS) == [*expected, "appendixA1", "appendixA2"]
    # Table 1: 7 sizes; Table 2: 10 rows; Table 3: 26; Table 4: 8, of which one has two lengths.
    assert [len(ITEMS[f"table{n}"].rows) for n in range(1, 5)] == [7, 10, 26, 9]


def test_tables_2_and_3_have_the_numbers_of_the_paper():
    for number, rows in ((2, reference.table2_rows()), (3, reference.table3_rows())):
        found = [[cell.paper for cell in cells] for cells in ITEMS[f"table{number}"].rows.values()]
        expected = []
        for row in rows:
            vtab = [row.vtab1k_19] if number == 2 else []
            top1 = [row.imagenet_top1, row.real_top1, row.avg5_top1]
            expected.append([*top1, *vtab, row.img_per_sec_per_core, row.tpu_v3_core_days])
        assert found == expected


@pytest.mark.parametrize("name", ["table2", "table3"])
def test_every_cell_that_is_not_quoted_comes_from_runs(name):
    for row, column, cell in ITEMS[name].cells():
        if isinstance(cell.source, Absent):
            assert cell.source.why in ("quoted", "not printed")
            continue
        jobs = jobs_of(cell.source)
        assert jobs, (row, column)
        if column == "mean of five":
            assert isinstance(cell.source, Mean)
            assert len(cell.source.scores) == 5
        if column == "VTAB-1k":
            assert isinstance(cell.source, VtabMean)
            assert jobs == [cell.source.run, cell.source]
        if column == "ReaL":
            *_, pretrained, tuned, last = jobs
            assert isinstance(last, Evaluation)
            assert last.run == tuned
            assert tuned.start == pretrained
        if column == "images/s/core":
            assert isinstance(cell.source, Throughput)
    quoted = [row for row in ITEMS["table2"].rows if row.count("/") == 1 and "ep" not in row]
    assert [row.partition("/")[2] for row in quoted] == ["HaloNet", "NFNet-F4+", "MPL", "ALIGN"]


def test_runs_are_named_once_and_come_after_what_they_start_from():
    assert len({run.name for run in RUNS}) == len(RUNS) == 197
    for number, run in enumerate(RUNS):
        assert run.start is None or RUNS.index(run.start) < number


def test_tables_and_figures_share_runs():
    by_item = {name: set(jobs_of_items([item])) for name, item in ITEMS.items()}
    assert by_item["figure3"] <= by_item["table3"]
    assert by_item["figure2left"] <= by_item["table2"] | by_item["table3"]
    assert {run.name for run in by_item["figure4"] & by_item["table3"]} == {
        "pretrain/jft300m/Mixer-B_16-7ep",
        "pretrain/jft300m/BiT-R50x1-7ep",
    }
    # Mixer-L/16 at 448 pixels is fine-tuned once, and evaluated with the crop of each table.
    shared = by_item["table2"] & by_item["table3"]
    name = "finetune/imagenet21k/Mixer-L_16-300ep-448/imagenet"
    assert name in {job.name for job in shared if isinstance(job, Run)}


def test_every_run_builds():
    """Every config with its overrides: the keys, the data counted, the model's shapes."""
    shapes = {}
    for run in RUNS:
        config = STUDY.config(run)
        options, _ = build_without_data(config)
        if run.seeds > 1:
            sweep = STUDY.sweep(run)
            assert sweep.seeds == (0, 1, 2)
            rates = [c["optimizer.learning_rate"] for c in sweep.combinations.values()]
            assert rates == ([0.003, 0.01, 0.03, 0.06] if run.swept else [0.003])
        shapes.setdefault(str((options.model, options.num_classes, options.image_size)), options)
    for options in shapes.values():
        build_model(**options.model, num_classes=options.num_classes)
    assert len(shapes) > 60


def parse_command(command: list[str], monkeypatch) -> ConfigDict:
    """Returns the config of a command line, read as `mixer.main` and `scripts/sweep.py` do."""
    values = flags.FlagValues()
    holder = config_flag(values)
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    flags.DEFINE_multi_string("grid", [], "", flag_values=values)
    flags.DEFINE_list("seeds", [], "", flag_values=values)
    start = command.index("mixer.main") if "mixer.main" in command else 1
    monkeypatch.setattr(sys, "argv", command[start:])
    assert values(sys.argv) == command[start : start + 1]  # nothing is left over
    return holder.value


def test_every_cell_of_tables_2_and_3_has_a_command_that_builds(monkeypatch):
    """The printed command gives the config of the run, and its data are counted."""
    counted: dict[Run, int] = {}
    vtab: list[list[str]] = []
    for name in ("table2", "table3"):
        for row, column, cell in ITEMS[name].cells():
            for job in jobs_of(cell.source):
                if isinstance(job, Throughput):
                    assert build_without_data(read_config(job.config))[0].num_classes
                elif isinstance(job, VtabMean):
                    vtab.append(STUDY.command(job))
                elif isinstance(job, Evaluation) and job.dataset:
                    assert num_examples(job.dataset, job.split, 1.0) == 50_000
                elif isinstance(job, Run) and job not in counted:
                    config = parse_command(STUDY.command(job), monkeypatch)
                    assert to_plain(config) == to_plain(STUDY.config(job)), (row, column)
                    options, _ = build_without_data(config)
                    counted[job] = options.total_steps
    # Table 3: 23 pre-trainings, 110 fine-tunings; Table 2: 3 more, and 5 fine-tunings of 5 rows.
    assert len(counted) == 23 + 110 + 3 + 25
    assert min(counted.values()) == 500
    assert len(vtab) == 6
    assert vtab[0] == [
        *("python", "scripts/vtab.py"),
        "--weights=runs/paper/pretrain/imagenet21k/Mixer-L_16-300ep",
        "--workdir=runs/paper/vtab/imagenet21k/Mixer-L_16-300ep",
    ]
    long = pretraining("jft300m", "Mixer-L/16", 14)
    assert counted[long] == 2 * FRACTION_STEPS  # which is of 7 epochs


@pytest.mark.slow
def test_every_model_is_traced():
    options = [build_without_data(STUDY.config(run))[0] for run in RUNS]
    for one in {str((o.model, o.num_classes, o.image_size)): o for o in options}.values():
        model = build_model(**one.model, num_classes=one.num_classes)
        images = jax.ShapeDtypeStruct((1, one.image_size, one.image_size, 3), "float32")
        logits, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
        assert logits.shape == (1, one.num_classes)


def test_figure_2_takes_equally_many_steps_on_every_subset():
    for model in ITEMS["figure2right"].rows:
        runs = [fraction_run(model, percent) for percent in FRACTIONS]
        configs = [STUDY.config(run) for run in runs]
        steps = {build_without_data(config)[0].total_steps for config in configs}
        assert steps == {FRACTION_STEPS}
        assert [config.train_fraction for config in configs] == [0.03, 0.1, 0.3, 1.0]


def test_figure_2_stops_early_and_the_probe_is_the_papers():
    for _, _, cell in ITEMS["figure2right"].cells():
        assert isinstance(cell.source, Score)
        assert (cell.source.metric, cell.source.best_by) == ("few_shot/top1", "minival/top1")
        config = STUDY.config(cell.source.run)
        assert (config.few_shot.dataset, config.few_shot.shots) == ("imagenet2012", 5)
        assert "minival" in config.eval_splits


def test_published_weights_are_in_the_catalogue_and_stand_for_their_pretraining():
    known = [run for run in RUNS if run.published]
    assert len(known) == 8
    published = Study(STUDY.workdir, published=True)
    for run in known:
        entry = CATALOGUE[run.published]
        config = STUDY.config(run)
        assert entry.family == config.model.name
        assert entry.variant == config.model.variant
        assert entry.data[1] == build_without_data(config)[0].num_classes
        tuned = next(other for other in RUNS if other.start == run)
        assert published.config(tuned).init_from == run.published
        assert published.needs(tuned) is None
        assert STUDY.config(tuned).init_from == f"runs/paper/{run.name}"
