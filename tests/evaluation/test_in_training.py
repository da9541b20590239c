"""The few-shot probe during training: the score that the weights have afterwards."""

import pytest

from mixer.config import check_config
from mixer.config.check import differences, same_evaluation
from mixer.config.reader import to_plain
from mixer.evaluation.evaluate_weights import evaluate_few_shot, images_for
from mixer.reporting.metrics import read_metrics
from mixer.train_loop import train
from mixer.weights.load import load_model

pytestmark = pytest.mark.usefixtures("no_pictures", "on_one_device")


@pytest.fixture
def config(digits_config):
    digits_config.eval_splits.test = "test[:64]"
    digits_config.few_shot.dataset = "digits"
    digits_config.few_shot.train_split = "train[:400]"
    digits_config.few_shot.test_split = "test[64:164]"
    digits_config.few_shot.shots = 3
    return digits_config


def test_the_score_is_that_of_the_weights_afterwards(
    tmp_path, config, capsys, no_pictures, on_one_device
):
    config.num_epochs = 8 * 64 / 1433
    config.eval_every = config.checkpoint_every = 4
    config.best_by = "few_shot/top1"
    train(config, tmp_path)
    lines = {line["step"]: line for line in read_metrics(tmp_path) if "few_shot/top1" in line}
    assert sorted(lines) == [4, 8]
    for step, line in lines.items():
        assert line["few_shot/count"] == 100
        assert "test/top1" in line
        loaded = load_model(str(tmp_path / "checkpoints" / str(step)))
        images = images_for(
            loaded, dataset="digits", split="test[64:164]", data_dir=config.data_dir, batch_size=64
        )
        (result,) = evaluate_few_shot(loaded, images, train_split="train[:400]", shots=[3])
        assert line["few_shot/top1"] == pytest.approx(result["top1"], abs=1e-6)
    shown = capsys.readouterr().out
    assert f"step 8 | few_shot: top-1 {lines[8]['few_shot/top1']:.2%} of 100 images\n" in shown
    assert "by few_shot/top1" in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            dict(test_split="train[300:500]"),
            "few_shot.train_split=train.:400. and .*300:500. of digits share 100",
        ),
        (dict(dataset="digit"), "digit"),
    ],
)
def test_what_cannot_be_probed_is_refused(tmp_path, config, change, message):
    config.few_shot.update(change)
    with pytest.raises(ValueError, match=message):
        train(config, tmp_path)


def test_the_probe_changes_no_update_and_is_an_evaluation(config):
    config.best_by = "few_shot/top1"
    config.eval_every = config.checkpoint_every
    check_config(config)
    without = config.copy_and_resolve_references()
    without.few_shot.dataset = without.best_by = ""
    assert differences(to_plain(without), to_plain(config)) == []
    assert not same_evaluation(to_plain(without), to_plain(config))
    without.best_by = "few_shot/top1"
    with pytest.raises(ValueError, match="Unknown score best_by 'few_shot/top1'"):
        check_config(without)
    config.eval_splits.few_shot = "test"
    with pytest.raises(ValueError, match="another name than few_shot in eval_splits"):
        check_config(config)
