"""What is planned: which jobs, what they cost, what is missing; and what is refused."""

import dataclasses
import pathlib

import pytest

from mixer.paper.graph import Absent, Run
from mixer.paper.items import all_items
from mixer.reproduction import plan
from mixer.reproduction.study import Study

ITEMS = all_items()
SLICES = ("v3-32", "v3-64", "v5e-16")


@pytest.fixture
def study(tmp_path: pathlib.Path) -> Study:
    return Study(tmp_path / "paper", data_dir=str(tmp_path / "data"))


def test_table_3_beside_the_papers_sum(study):
    lines = plan.make_plan(study, [ITEMS["table3"]], plan.recorded(study, None))
    # The paper's column, each pre-training once: two rows at 448 pixels and one at 512 share one.
    paper = sum(line.paper_core_days for line in lines if line.paper_core_days)
    cells = [cells[-1] for cells in ITEMS["table3"].rows.values()]
    assert paper == sum(cell.paper for cell in cells) - 410 - 450 - 650 == 9060
    assert plan.summary(lines).endswith(
        "estimated for 23 of 23 runs: >4,170 core-days; the paper prints 9,060 for these, 9,060 "
        "for all.\n> is a lower bound: three forward passes."
    )
    rehearsed = {line.job.name for line in lines if line.estimate and not line.is_bound}
    assert rehearsed == {
        *("pretrain/imagenet/Mixer-B_16-300ep", "pretrain/imagenet/Mixer-L_16-300ep"),
        "pretrain/jft300m/Mixer-H_14-14ep",
    }
    # 21 rows of five data sets and 5 of one, each four learning rates and two more seeds.
    assert sum(line.trainings for line in lines) == 23 + (21 * 5 + 5) * 6


def test_a_row_with_its_runs_in_order(study):
    (item,) = plan.choose(ITEMS, "table3", ["imagenet/Mixer-B/16"])
    lines = plan.make_plan(study, [item], plan.recorded(study, "v3-32"))
    names = [plan.job_name(line.job) for line in lines]
    tuned = "finetune/imagenet/Mixer-B_16-300ep-224"
    assert names == [
        "pretrain/imagenet/Mixer-B_16-300ep",
        f"{tuned}/imagenet",
        f"{tuned}/imagenet on imagenet2012_real, resmall_crop",
        *(f"{tuned}/{data}" for data in ("cifar10", "cifar100", "pets", "flowers")),
        "throughput/Mixer-B_16-224",
    ]
    assert (lines[0].steps, lines[0].hours, lines[0].paper_core_days) == (92_897, 4.6, 10)
    assert (lines[1].data, lines[1].trainings) == ("imagenet2012 train[:99%]", 6)
    assert "92,897" in plan.plan_table(lines)


def test_estimates_are_of_the_slice_and_of_the_same_steps(study):
    (item,) = plan.choose(ITEMS, "table3", ["imagenet/Mixer-B/16"])
    first = {name: plan.make_plan(study, [item], plan.recorded(study, name))[0] for name in SLICES}
    assert first["v3-32"].hours == 4.6
    assert first["v3-32"].is_bound is False
    # Three times the forward pass: 92,897 steps of 4096 images, at 2,378 images/s/core.
    days = 3 * 92_897 * 4096 / 2378.3714283747864 / 86400
    assert first["v3-64"].core_days == pytest.approx(days)
    assert first["v3-64"].hours == pytest.approx(days * 24 / 64)
    assert plan.plan_table([first["v3-64"]]).split()[-3:] == [">2.083", ">5.555", "10"]
    assert first["v5e-16"].core_days is None  # recorded for TPU v3 alone
    permuted = plan.make_plan(study, [ITEMS["figure4"]], plan.recorded(study, None))
    assert [line.core_days is not None for line in permuted] == [True, False, False] * 2


def test_an_unknown_slice_is_refused(study):
    with pytest.raises(ValueError, match="Expected v3-N with N one of .*; got 'v3-33'"):
        plan.recorded(study, "v3-33")


def test_published_weights_replace_pretraining(study):
    published = dataclasses.replace(study, published=True)
    (item,) = plan.choose(ITEMS, "table3", ["imagenet/Mixer"])
    jobs = plan.jobs_to_do(published, [item])
    assert not [job for job in jobs if isinstance(job, Run) and job.start is None]
    assert len(plan.jobs_to_do(study, [item])) == len(jobs) + 2


def test_what_can_be_run_and_what_is_missing(study):
    counts, missing = plan.state(study, ITEMS["table3"])
    assert counts == {"not printed": 5, "can be run now": 26, "data missing": 99}
    text = "\n".join(missing)
    assert "private data set: Expected the dataset 'jft300m'" in text
    assert "scripts/prepare_dataset.py --images=DIR --name=imagenet21k" in text
    assert plan.state(study, ITEMS["table1"]) == ({"done": 49}, [])
    quoted = sum(isinstance(cell.source, Absent) for _, _, cell in ITEMS["table2"].cells())
    assert quoted == 25


def test_rows_may_have_wildcards():
    (item,) = plan.choose(ITEMS, "table3", ["jft300m/Mixer-*-224"])
    assert list(item.rows) == [
        row for row in ITEMS["table3"].rows if row.startswith("jft300m/Mixer") and "224" in row
    ]
    assert [item.name for item in plan.choose(ITEMS, "all", ["Mixer-S/32"])] == [
        *("table3", "figure3"),
    ]


@pytest.mark.parametrize(
    ("what", "rows", "message"),
    [
        ("tabel3", [], "Unknown table or figure 'tabel3'. Expected one of: all, .*'table3'"),
        ("table3,", [], "Unknown table or figure ''"),
        ("table3", ["Mixer-B/17"], "Unknown row of table3 'Mixer-B/17'"),
        ("table4", ["Mixer-B/16", "ViT"], "Unknown row of table4 'ViT'"),
    ],
)
def test_an_unknown_table_or_row_is_refused(what, rows, message):
    with pytest.raises(ValueError, match=message):
        plan.choose(ITEMS, what, rows)


def test_the_script_prints_commands_and_refuses_what_it_does_not_know(tmp_path, call):
    flags = [f"--workdir={tmp_path}", "--pretrained=published", "--print_commands"]
    names = ["imagenet", "cifar10", "cifar100", "pets", "flowers"]
    folder = f"{tmp_path}/finetune/imagenet21k/Mixer-L_16-300ep-448"
    assert call("reproduce.py", "plan", "table2", "--rows=Mixer-L/16", *flags).splitlines() == [
        f"python scripts/sweep.py --config=configs/finetune.py:L/16,{name},448 "
        f"--workdir={folder}/{name} --config.eval_crop=resmall_crop "
        "--config.init_from=imagenet21k/Mixer-L_16 --seeds=0,1,2"
        for name in names
    ] + [
        "python scripts/vtab.py --weights=imagenet21k/Mixer-L_16 "
        f"--workdir={tmp_path}/vtab/imagenet21k/Mixer-L_16-300ep"
    ]
    with pytest.raises(ValueError, match="Expected --print_commands with plan alone; got it"):
        call("reproduce.py", "report", "all", *flags)
