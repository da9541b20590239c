"""What runs, what is chosen, what comes next."""

import shlex

import pytest

from mixer.sweep.plan import count_to_do, overview, runs_to_do, winner

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
        overrides={"train_split": "train[:90%]", "crop_area": (0.3, 1.0)},
        combinations=[{"loss": "it's"}],
    )
    command = sweep.command(("loss=it%27s", 2), program=("python", "-m", "mixer.main"))
    folder = tmp_path / "sweep" / "loss=it%27s" / "seed=2"
    assert shlex.join(command) == (
        f"python -m mixer.main '--config=my configs/c.py:B/16' --workdir={folder} "
        "'--config.train_split=train[:90%]' '--config.crop_area=(0.3, 1.0)' "
        "'--config.loss=it'\"'\"'s' --config.seed=2"
    )


def test_the_config_of_a_run(make_sweep, config):
    sweep = make_sweep(combinations=[{"optimizer.learning_rate": 1.0, "crop_area": (0.1, 1.0)}])
    name = "crop_area=%280.1%2C%201.0%29,learning_rate=1.0"
    expected = config | {"seed": 2, "crop_area": [0.1, 1.0]}
    expected["optimizer"] = {"name": "momentum", "learning_rate": 1.0}
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
        ({"combinations": [{"loss": "x"}] * 2}, "got loss=x twice"),
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


@pytest.mark.parametrize("minival", ["test", "train[:90%]"])
def test_the_same_images_under_another_name_are_refused(minival, make_sweep, config):
    config["eval_splits"] = {"minival": minival, "test": "test"}
    with pytest.raises(ValueError, match="neither trained on nor reported"):
        make_sweep(0.003, 0.01)
