"""The order of execution, failures, and what is refused before anything starts."""

import dataclasses
import json
import pathlib
from typing import Any

import pytest

from mixer.paper.graph import Evaluation, Run, VtabMean, jobs_of_items
from mixer.paper.items import all_items
from mixer.reproduction import execute, plan
from mixer.reproduction.miniature import shrink_items
from mixer.reproduction.study import Study
from mixer.reproduction.values import total_steps, value_of
from mixer.vtab.recipe import Recipe

ITEMS = shrink_items(all_items())
(ROW,) = plan.choose(ITEMS, "table3", ["imagenet/Mixer-B/16"])


@pytest.fixture
def small(tmp_path: pathlib.Path, data_dir: str) -> Study:
    return Study(tmp_path / "paper", data_dir=data_dir, miniature=True)


class Recorder:
    """Stands in for training and evaluation: writes their results at once, or fails."""

    def __init__(self, study: Study, fails: str = ""):
        self.study, self.fails = study, fails
        self.trained: list[str] = []
        jobs = [job for item in ITEMS.values() for job in jobs_of_items([item])]
        self.runs = {study.folder(job): job for job in jobs if isinstance(job, Run)}

    def train(self, config, overrides, folder: pathlib.Path, log: pathlib.Path) -> int:
        self.trained.append(str(folder.relative_to(self.study.workdir)))
        if self.fails and self.fails in str(folder):
            log.write_text("first\nNo space left.\n")
            (folder / "config.json").write_text("{}")  # it has begun
            return 1
        scores = dict.fromkeys(("minival/top1", "test/top1", "few_shot/top1", "core_days"), 0.5)
        if (self.study.workdir / "vtab") in folder.parents:
            rate, seed = overrides["optimizer.learning_rate"], overrides["seed"]
            line = {"step": 10, "val200/top1": rate, "test/top1": 0.2 + 0.1 * seed}
        else:
            job = self.runs.get(folder) or self.runs[folder.parent.parent]
            line = {"step": total_steps(self.study, job), **scores}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        return 0

    def call(self, function, *arguments) -> Any:
        if arguments[0] == str(self.study.workdir / "pretrain/imagenet21k/Mixer-L_16-300ep"):
            return Recipe("L/16", {})
        return {"top1": 0.25, "value": 100.0}

    def run(self, *items) -> list[str]:
        execution = execute.Execution(self.train, self.call)
        return execute.run_items(self.study, items or [ROW], execution)


def test_a_row_from_its_pretraining_to_its_numbers(small):
    recorder = Recorder(small)
    assert recorder.run() == []
    tuned = "finetune/imagenet/Mixer-B_16-300ep-224"
    names = ["learning_rate=0.03/seed=0", "learning_rate=0.06/seed=0", "learning_rate=0.03/seed=1"]
    expected = ["pretrain/imagenet/Mixer-B_16-300ep"]
    expected += [f"{tuned}/{data}/{name}" for data in ("imagenet", "cifar10") for name in names]
    assert recorder.trained == expected
    assert plan.jobs_to_do(small, [ROW]) == []
    again = Recorder(small)
    assert again.run() == []
    assert again.trained == []


def test_vtab_has_a_task_for_each_resolution_and_fills_its_cell(small):
    (item,) = plan.choose(ITEMS, "table2", ["imagenet21k/Mixer-L"])
    (cells,) = item.rows.values()
    column = item.columns.index("VTAB-1k")
    alone = dataclasses.replace(
        item, columns=("VTAB-1k",), rows={"row": cells[column : column + 1]}
    )
    recorder = Recorder(small)
    assert recorder.run(alone) == []
    folder = "vtab/imagenet21k/Mixer-L_16-300ep"
    runs = ["tune/learning_rate=0.01/seed=0", "tune/learning_rate=0.03/seed=0"]
    runs += [f"final/learning_rate=0.03/seed={seed}" for seed in (0, 1)]
    assert recorder.trained == [
        "pretrain/imagenet21k/Mixer-L_16-300ep",
        *(f"{folder}/{task}/{run}" for task in ("eurosat", "clevr-count") for run in runs),
    ]
    value = value_of(small, cells[column].source)
    assert value.of_seeds == pytest.approx((20.0, 30.0))
    assert Recorder(small).run(alone) == []
    again = Recorder(small)
    (small.workdir / folder / "vtab.json").unlink()  # a kill before the report
    assert value_of(small, cells[column].source) is None
    assert again.run(alone) == []
    assert again.trained == []
    assert value_of(small, cells[column].source) == value


def test_the_tasks_of_vtab_are_named_before_anything_starts(tmp_path):
    study = Study(tmp_path / "paper", published=True, data_dir=str(tmp_path / "none"))
    (row,) = plan.choose(all_items(), "table2", ["imagenet21k/Mixer-L"])
    (job,) = [job for job in jobs_of_items([row]) if isinstance(job, VtabMean)]
    assert study.needs(job) is None
    assert study.command(job)[1:3] == [
        "scripts/vtab.py",
        "--weights=imagenet21k/Mixer-L_16",
    ]
    assert "caltech101" in study.missing(job)
    assert study.count(job) == 19 * 6


def test_a_failed_run_is_shown_and_the_others_go_on(small, capsys):
    recorder = Recorder(small, fails="pretrain/imagenet/")
    items = [ROW, *plan.choose(ITEMS, "appendixA1", ["views"])]
    failed = recorder.run(*items)
    printed = capsys.readouterr().out
    assert "failed: exit code 1:\n    first\n    No space left.\n" in printed
    assert "left out: pretrain/imagenet/Mixer-B_16-300ep failed" in printed
    assert "[2 of 6, ETA 0:00:0" in printed
    assert failed[0] == "pretrain/imagenet/Mixer-B_16-300ep"
    assert len(failed) == 4  # with two fine-tunings and an evaluation
    assert recorder.trained[1:] == ["pretrain/jft300m/Mixer-S_32-5ep-views"]
    assert (small.workdir / "throughput/Mixer-B_16-224.json").exists()
    assert Recorder(small).run(*items) == []  # the cause is mended


def test_an_evaluation_is_made_of_the_seeds_of_the_best(small):
    Recorder(small).run()
    files = sorted(small.workdir.glob("**/evaluation-*.json"))
    folder = "finetune/imagenet/Mixer-B_16-300ep-224/imagenet/learning_rate=0.03"
    assert [str(path.relative_to(small.workdir)) for path in files] == [
        f"{folder}/seed={seed}/evaluation-digits-test-resmall_crop.json" for seed in (0, 1)
    ]


def test_a_folder_of_something_else_is_refused(small):
    (small.workdir / "photos").mkdir(parents=True)
    with pytest.raises(ValueError, match="Expected a new folder as --workdir.*holds photos of"):
        Recorder(small).run()
    assert [path.name for path in small.workdir.iterdir()] == ["photos"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ValueError, match="Expected a folder as --workdir; got the file .*notes"):
        Study(tmp_path / "notes").check_workdir()


def test_a_folder_of_full_runs_is_refused_for_small_ones(small):
    Recorder(small).run()
    full = dataclasses.replace(small, miniature=False)
    with pytest.raises(ValueError, match="Expected --miniature=True .*holds runs of these; got --"):
        full.check_workdir()


def test_missing_data_are_named_before_anything_starts(tmp_path):
    study = Study(tmp_path / "paper", data_dir=str(tmp_path / "none"))
    (row,) = plan.choose(all_items(), "table3", ["jft300m/Mixer-B/16"])
    recorder = Recorder(study)
    full = execute.Execution(recorder.train, recorder.call)
    with pytest.raises(ValueError, match="private data set: Expected the dataset 'jft300m'") as e:
        execute.run_items(study, [row], full)
    for name in ("imagenet2012_real", "cifar10", "oxford_flowers102"):
        assert f'tfds.builder("{name}"' in str(e.value)
    assert not study.workdir.exists()
    assert recorder.trained == []


def test_one_process_at_a_time(small):
    from mixer.runtime.workdir_lock import folder_lock

    with folder_lock(small.workdir, "study"), pytest.raises(ValueError, match="Another study is"):
        Recorder(small).run()


def test_evaluations_of_table_2_have_its_crop():
    (row,) = plan.choose(ITEMS, "table2", ["imagenet21k/Mixer-L"])
    crops = {job.crop for job in jobs_of_items([row]) if isinstance(job, Evaluation)}
    assert crops == {"resize_crop"}
