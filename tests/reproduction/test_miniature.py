"""The graph in miniature: the same cells and edges; real runs of a table and a figure."""

import csv
import itertools
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from mixer.build import build_without_data
from mixer.paper.graph import Absent, Evaluation, Mean, Run, Throughput, jobs_of, jobs_of_items
from mixer.paper.items import FRACTIONS, all_items
from mixer.reproduction.miniature import shrink_items
from mixer.reproduction.study import Study, read_config

FULL = all_items()
SMALL = shrink_items(FULL)
STUDY = Study(pathlib.Path("runs/paper"))
RUNS = [job for job in jobs_of_items(list(SMALL.values())) if isinstance(job, Run)]
TIMED = ("images/s/core", "core-days")  # never twice the same


def test_every_cell_has_the_same_kind_of_source():
    for name, item in FULL.items():
        small = SMALL[name]
        assert (small.title, small.columns, list(small.rows)) == (
            *(item.title, item.columns, list(item.rows)),
        )
        for (_, _, cell), (_, _, tiny) in zip(item.cells(), small.cells(), strict=True):
            assert type(tiny.source) is type(cell.source)
            assert tiny.paper == cell.paper
            if isinstance(cell.source, Absent | Mean):
                continue
            kinds = [
                [type(job) for job in jobs_of(source)] for source in (cell.source, tiny.source)
            ]
            assert kinds[0] == kinds[1]  # the same chain of runs


def test_the_runs_are_tiny_of_all_families_and_on_the_digits():
    families = set()
    for run in RUNS:
        options, _ = build_without_data(STUDY.config(run))
        assert options.total_steps <= 60
        assert (options.num_classes, options.batch_size) == (10, 16)
        assert options.image_size in (16, 32)
        families.add(options.model["name"])
        if run.swept:
            assert len(STUDY.sweep(run).combinations) == 2
        assert run.seeds <= 2
    assert families == {"mixer", "vit", "bit", "permuted_mixer", "permuted_bit", "mixer_variant"}


def test_names_are_unique_and_few_enough_for_a_quarter_of_an_hour():
    assert len({run.name for run in RUNS}) == len(RUNS)
    trainings = sum(3 if run.swept else run.seeds for run in RUNS)
    assert 100 < trainings < 160


def test_fine_tuning_starts_from_a_pretraining_that_fits():
    for run in RUNS:
        if run.start:
            own, start = (STUDY.config(one) for one in (run, run.start))
            assert own.model.name == start.model.name
            assert own.model.get("patch_size") == start.model.get("patch_size")
            assert own.train_split != start.train_split
            assert STUDY.overrides(run)["init_from"] == f"runs/paper/{run.start.name}"


def test_all_subsets_of_figure_2_take_the_same_steps():
    for cells in SMALL["figure2right"].rows.values():
        configs = [STUDY.config(cell.source.run) for cell in cells]
        assert len({build_without_data(config)[0].total_steps for config in configs}) == 1
        assert [config.train_fraction for config in configs] == [f / 100 for f in FRACTIONS]


def test_throughput_is_that_of_the_tiny_model():
    for job in jobs_of_items([SMALL["table3"]]):
        if isinstance(job, Throughput):
            assert read_config(job.config).dataset == "digits"
        if isinstance(job, Evaluation):
            assert (job.dataset, job.split) == ("digits", "test")


def command(workdir: pathlib.Path, data_dir: str, *what: str) -> list[str]:
    flags = ["--miniature", f"--workdir={workdir}", f"--data_dir={data_dir}"]
    return [sys.executable, "scripts/reproduce.py", "run", *what, *flags]


ENVIRONMENT = {**os.environ, "XLA_FLAGS": ""}  # one device, not the tests' eight
ROW = ["table3,figure6", "--rows=imagenet/Mixer-B/16"]


def run_whole(workdir: pathlib.Path, data_dir: str, *what: str) -> list[str]:
    """Returns the lines that it prints."""
    run = subprocess.run(
        command(workdir, data_dir, *what), capture_output=True, text=True, env=ENVIRONMENT
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.splitlines()


def kill(workdir: pathlib.Path, data_dir: str, *what: str, starts: int, wait: float) -> None:
    """Runs until so many jobs and trainings have started, waits some seconds, and kills."""
    process = subprocess.Popen(
        command(workdir, data_dir, *what), stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    with process:
        started = (line for line in process.stdout if line.startswith(STARTS))
        list(itertools.islice(started, starts))
        time.sleep(wait)
        assert process.poll() is None
        process.kill()
    assert process.returncode == -signal.SIGKILL


STARTS = ("[", "Run ")  # the lines of jobs, and of the trainings of a sweep


def scores(workdir: pathlib.Path) -> dict[tuple[str, str, str], str]:
    """Returns what the CSV files say of each cell, without what is timed."""
    found = {}
    for path in sorted((workdir / "report").glob("*.csv")):
        with path.open() as file:
            for line in csv.DictReader(file):
                if line["column"] not in TIMED:
                    ours = f"{line['ours']} {line['deviation']} {line['state']}"
                    found[line["item"], line["row"], line["column"]] = ours
    return found


def test_a_table_and_a_figure_in_spite_of_a_kill(tmp_path, data_dir):
    workdir = tmp_path / "paper"
    kill(workdir, data_dir, *ROW, starts=4, wait=1.0)  # in the second training of a sweep
    assert not (workdir / "report").exists()
    run_whole(workdir, data_dir, *ROW)
    states = {line.rpartition(" ")[2] for line in scores(workdir).values()}
    assert states == {"done"}
    assert "not run" not in (workdir / "report/table3.md").read_text()
    picture = workdir / "report/figure6-imagenet-Mixer-B_16-300ep.pdf"
    assert picture.read_bytes().startswith(b"%PDF")
    text = (workdir / "report/table3.tex").read_text()
    assert len(re.findall(r"\$\\pm\$", text)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("what", [ROW, ["all"]], ids=["row", "all"])
def test_killed_at_three_moments_it_ends_with_the_same_report(tmp_path, data_dir, what):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    begin = time.monotonic()
    lines = run_whole(whole, data_dir, *what)
    seconds = time.monotonic() - begin
    starts = sum(line.startswith(STARTS) for line in lines)
    rng = random.Random(0)
    for _ in range(3):
        moment = rng.randint(1, starts // 4)
        kill(killed, data_dir, *what, starts=moment, wait=rng.uniform(0, 3))
    run_whole(killed, data_dir, *what)
    assert scores(killed) == scores(whole)
    if what == ["all"]:
        check_everything(whole)
        assert seconds < 900


def check_everything(workdir: pathlib.Path) -> None:
    """No cell is empty but those that are quoted, and every figure is drawn."""
    states = {
        (item, column): line.partition(" ")[2].partition(" ")[2]
        for (item, _, column), line in scores(workdir).items()
    }
    allowed = ("done", "quoted", "not printed")
    assert {place: state for place, state in states.items() if state not in allowed} == {}
    for item in SMALL.values():
        drawn = list((workdir / "report").glob(f"{item.name}*.pdf"))
        assert drawn or not item.is_figure
