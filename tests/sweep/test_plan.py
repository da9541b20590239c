"""What runs, what is chosen, what comes next."""

import json
import pathlib
import shlex
import sys

import pytest
from absl import flags
from ml_collections import ConfigDict

from mixer.runtime.command import config_flag
from mixer.sweep.grid import parse_grid
from mixer.sweep.plan import count_to_do, overview, runs_to_do, winner
from mixer.sweep.report import summarize, table

ROOT = pathlib.Path(__file__).parent.parent.parent

LOW, MIDDLE, HIGH = (f"learning_rate={rate}" for rate in (0.003, 0.01, 0.03))


def result(select: float, report: float = 0.5) -> dict[str, float]:
    return {"step": 4, "minival/top1": select, "test/top1": report}


def test_the_grid_is_run_with_the_first_seed_and_the_best_with_the_others(make_sweep):
    sweep = make_sweep(0.003, 0.01, 0.03)
    assert runs_to_do(sweep, {}) == [(LOW, 0), (MIDDLE, 0), (HIGH, 0)]
    assert count_to_do(sweep, {}) == 5
    outcomes = {(LOW, 0): result(0.7), (HIGH, 0): result(0.8)}
    assert winner(sweep, outcomes) is None
    assert runs_to_do(sweep, outcomes) == [(MIDDLE, 0)]
    assert count_to_do(sweep, outcomes) == 3
    assert overview(sweep, outcomes).endswith(
        "with seed 0, then the best with 1, 2:\n  learning_rate=0.003: minival/top1 70.00%\n"
        "  learning_rate=0.01\n  learning_rate=0.03: minival/top1 80.00%\n"
        "Chosen by minival/top1, reported: test/top1. Runs finished: 2, to do: 3."
    )
    outcomes[MIDDLE, 0] = result(0.9, report=0.1)  # the worst where it must not be looked at
    assert winner(sweep, outcomes) == MIDDLE
    assert runs_to_do(sweep, outcomes) == [(MIDDLE, 1), (MIDDLE, 2)]
    outcomes |= {(MIDDLE, 1): result(0.0), (MIDDLE, 2): result(0.0)}
    assert winner(sweep, outcomes) == MIDDLE, "chosen by the first seed"
    assert runs_to_do(sweep, outcomes) == []
    assert count_to_do(sweep, outcomes) == 0


def test_of_equals_the_earlier_one_is_chosen(make_sweep):
    outcomes = {(LOW, 0): result(0.7), (MIDDLE, 0): result(0.8), (HIGH, 0): result(0.8)}
    assert winner(make_sweep(0.003, 0.01, 0.03), outcomes) == MIDDLE
    assert winner(make_sweep(0.03, 0.01, 0.003), outcomes) == HIGH


def test_a_combination_with_a_failed_run_cannot_win(make_sweep):
    sweep = make_sweep(0.003, 0.01, 0.03)
    outcomes = {(LOW, 0): result(0.7), (MIDDLE, 0): result(0.8), (HIGH, 0): None}
    assert winner(sweep, outcomes) == MIDDLE
    outcomes[MIDDLE, 1] = None
    assert runs_to_do(sweep, outcomes) == [(LOW, 1), (LOW, 2)], "the next best has its turn"
    outcomes[LOW, 0] = None
    assert winner(sweep, outcomes) is None
    assert runs_to_do(sweep, outcomes) == []


def test_the_command_can_be_pasted_into_a_shell(make_sweep, tmp_path):
    sweep = make_sweep(
        config_file="my configs/c.py:B/16",
        overrides={"train_split": "train[:90%]", "train_crop.area": (0.3, 1.0)},
        combinations=[{"init_from": "it's"}],
    )
    command = sweep.command(("init_from=it%27s", 2), program=("python", "-m", "mixer.main"))
    folder = tmp_path / "sweep" / "init_from=it%27s" / "seed=2"
    assert shlex.join(command) == (
        f"python -m mixer.main '--config=my configs/c.py:B/16' --workdir={folder} "
        "'--config.train_split=train[:90%]' '--config.train_crop.area=(0.3, 1.0)' "
        "'--config.init_from=it'\"'\"'s' --config.seed=2"
    )


def test_the_config_of_a_run(make_sweep, config):
    sweep = make_sweep(
        combinations=[{"optimizer.learning_rate": 1.0, "train_crop.area": (0.1, 1.0)}]
    )
    name = "learning_rate=1.0,area=%280.1%2C%201.0%29"
    expected = config | {"seed": 2}
    expected["train_crop"] = config["train_crop"] | {"area": [0.1, 1.0]}
    expected["optimizer"] = config["optimizer"] | {"learning_rate": 1.0}
    assert sweep.run_config((name, 2)) == expected
    assert config["seed"] == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"combinations": []}, "got an empty grid"),
        ({"combinations": [{}]}, "got an empty grid"),
        (
            {"combinations": [{"los": "x"}]},
            "Cannot vary 'los': .* no such value. Did you mean 'loss'",
        ),
        ({"combinations": [{"seed": 1}]}, "Both the grid and --seeds set 'seed'"),
        ({"combinations": [{"loss": "x"}], "overrides": {"loss": "y"}}, "and --config.loss set"),
        (
            {"combinations": [{"num_epochs": 1.0}], "overrides": {"num_steps": 4}},
            "and --config.num_steps set 'num_epochs'",
        ),
        ({"combinations": [{"init_from": "x"}] * 2}, "got init_from=x twice"),
        ({"combinations": [{"mixup_alpha": 1}, {"mixup_alpha": 1.0}]}, "got mixup_alpha=1 twice"),
        ({"combinations": [{"loss": "sigmoid"}, {"loss": "x"}]}, "loss to be one of .*; got 'x'"),
        (
            {"combinations": [{"train_split": "train[:90%]"}, {"train_split": "train"}]},
            r"minival/top1 \(train\[90%:\]\), which shares 0 .* and 143 with train_split \(train\)",
        ),
        ({"overrides": {"seed": 1}}, "Expected seeds as --seeds=0,1,2; got --config.seed"),
        ({"select": "minival/loss"}, "minival/top1, test/top1; got 'minival/loss'"),
        ({"report": "validation/top1"}, "--report to be one of .* --config.eval_splits.NAME"),
        ({"select": "test/top1", "report": "minival/top1"}, "neither trained on nor reported"),
        ({"select": "minival/top1", "report": "minival/top1"}, "neither trained on nor reported"),
    ],
)
def test_what_cannot_be_compared_is_refused(changed, message, make_sweep):
    with pytest.raises(ValueError, match=message):
        make_sweep(0.003, 0.01, **changed)


@pytest.mark.parametrize(
    ("splits", "trained", "shared"),
    [
        ({"minival": "test", "test": "test"}, "train", (364, 0)),
        ({"minival": "train[:90%]", "test": "test"}, "train[:90%]", (0, 1290)),
        ({"minival": "test[:50%]", "test": "test"}, "train", (182, 0)),
        ({"minival": "train[90%:]", "test": "test"}, "train", (0, 143)),
        ({"minival": "train[80%:]", "test": "train[90%:]"}, "train[:81%]", (143, 15)),
        ({"minival": "train[1000:]+test[:5]", "test": "test[4:]"}, "train[:1000]", (1, 0)),
    ],
)
def test_the_same_images_under_another_name_are_refused(
    splits, trained, shared, make_sweep, config
):
    config["eval_splits"], config["train_split"] = splits, trained
    message = (
        f"neither trained on nor reported, .* which shares {shared[0]} images of digits with "
        f"--report=test/top1 .* and {shared[1]:,} with train_split .* Hold out images for it"
    )
    with pytest.raises(ValueError, match=message):
        make_sweep(0.003, 0.01)


def test_a_split_of_a_folder_that_is_read_for_another_is_the_same_images(
    make_sweep, config, tmp_path
):
    for name in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / "d" / name / label).mkdir(parents=True)
            for number in range(10):
                (tmp_path / "d" / name / label / f"{number}.jpg").write_bytes(b"unread")
    config["dataset"] = f"folder:{tmp_path}/d"
    config["eval_splits"] = {"minival": "val", "test": "test"}
    with pytest.raises(ValueError, match="shares 20 images of folder:.* and 0 with train_split"):
        make_sweep(0.003)
    config["eval_splits"] = {"minival": "train[90%:]", "test": "val"}
    make_sweep(0.003)


def test_a_section_is_passed_on_as_it_was_given(make_sweep, monkeypatch):
    section = {"layers": 1, "magnitude": 0.5}
    sweep = make_sweep(0.01, overrides={"randaugment": ConfigDict(section)})
    *_, passed, _, _ = sweep.command(("learning_rate=0.01", 0))
    assert passed == "--config.randaugment={'layers': 1, 'magnitude': 0.5}"
    assert sweep.overrides == {"randaugment": section}
    argv = ["main", f"--config={ROOT}/configs/digits.py", passed]
    monkeypatch.setattr(sys, "argv", argv)
    values = flags.FlagValues()
    holder = config_flag(values)
    values(argv)
    assert holder.value.randaugment.to_dict() == section
    assert json.dumps(summarize(sweep, {}))


def test_steps_vary_in_a_config_of_epochs_as_on_the_command_line(make_sweep, config):
    del config["num_steps"]
    config["num_epochs"] = 60.0
    grid = parse_grid(["num_steps=5,10"], config)
    assert grid == [{"num_steps": 5}, {"num_steps": 10}]
    sweep = make_sweep(combinations=grid)
    run_config = sweep.run_config(("num_steps=10", 0))
    assert run_config["num_steps"] == 10
    assert "num_epochs" not in run_config


def test_a_sweep_may_only_select(make_sweep, config):
    del config["eval_splits"]["test"]
    sweep = make_sweep(0.1, 0.01, report=None, seeds=(0,))
    assert sweep.select == sweep.report == "minival/top1"
    outcomes = {("learning_rate=0.1", 0): {"minival/top1": 0.5}, (MIDDLE, 0): {"minival/top1": 0.6}}
    assert winner(sweep, outcomes) == MIDDLE
    assert runs_to_do(sweep, outcomes) == []
    text = table(summarize(sweep, outcomes))
    assert text.endswith("\nChosen by minival/top1 with seed 0: learning_rate=0.01.\n")
    config["train_split"] = "train"
    with pytest.raises(ValueError, match="neither trained on nor reported.* 143 with train_split"):
        make_sweep(0.1, 0.01, report=None)


def test_a_sweep_may_only_report(make_sweep, config):
    config["eval_splits"] = {"test": "test"}
    sweep = make_sweep(0.01, select=None)
    outcomes = {("learning_rate=0.01", seed): {"test/top1": 0.5 + seed / 10} for seed in (0, 1, 2)}
    assert runs_to_do(sweep, {}) == [("learning_rate=0.01", 0)]
    assert runs_to_do(sweep, outcomes) == []
    text = table(summarize(sweep, outcomes))
    assert "\nlearning_rate=0.01, test/top1: 60.00% ± 10.00% (mean ±" in text
    assert "Chosen" not in text
    with pytest.raises(ValueError, match=r"a metric to select one of learning_rate=0\.1, learning"):
        make_sweep(0.1, 0.01, select=None)
