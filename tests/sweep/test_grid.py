"""The combinations of a grid, their types and names."""

import pytest

from mixer.sweep.grid import combination_names, parse_grid, parse_seeds


def test_several_keys_give_their_product(config):
    texts = ["optimizer.learning_rate=3e-3,1", "flip=true,False", "model.num_blocks=4"]
    assert parse_grid(texts, config) == [
        {"optimizer.learning_rate": 0.003, "flip": True, "model.num_blocks": 4},
        {"optimizer.learning_rate": 0.003, "flip": False, "model.num_blocks": 4},
        {"optimizer.learning_rate": 1.0, "flip": True, "model.num_blocks": 4},
        {"optimizer.learning_rate": 1.0, "flip": False, "model.num_blocks": 4},
    ]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["optimizer.learning_rate"], "Expected one --grid=KEY=VALUE,VALUE per KEY"),
        (["seed=1", "seed=2"], "per KEY; got 'seed=2'"),
        (["optimizer.learning_rat=1"], "Did you mean 'optimizer.learning_rate'"),
        (["optimizer=1"], "Cannot vary 'optimizer': the config has no such value"),
        (["loss.name=1"], "Cannot vary 'loss.name': the config has no section 'loss'"),
        (["optimizer.learning_rate=0.1,"], "like the config's 0.03; got ''"),
        (["model.num_blocks=1.5"], "like the config's 2; got '1.5'"),
        (["flip=1"], "like the config's True; got '1'"),
        (["train_crop.area=(0.1,1.0)"], "can be varied with SWEEP"),
    ],
)
def test_what_is_no_grid_of_the_config_is_refused(texts, message, config):
    with pytest.raises(ValueError, match=message):
        parse_grid(texts, config)


def test_names_are_short_and_fit_for_folders():
    assert combination_names([{"optimizer.learning_rate": 0.003}, {"mixup_alpha": 1e30}]) == [
        "learning_rate=0.003",
        "mixup_alpha=1e+30",
    ]
    combinations = [
        {"model.name": "a/b", "optimizer.name": "c", "train_split": "train[:50%]"},
        {"optimizer.name": "c", "model.name": "a,optimizer.name=c", "train_split": "train"},
    ]
    assert combination_names(combinations) == [
        "model.name=a%2Fb,optimizer.name=c,train_split=train%5B%3A50%25%5D",
        "model.name=a%2Coptimizer.name%3Dc,optimizer.name=c,train_split=train",
    ]


def test_seeds():
    assert parse_seeds(["3", "0"]) == (3, 0)
    for texts in ([], ["0", "0"], ["0", "00"], ["1", "2", "01"], ["0", "a"], ["-1"]):
        with pytest.raises(ValueError, match="Expected distinct whole numbers"):
            parse_seeds(texts)
