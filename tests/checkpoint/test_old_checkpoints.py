"""A checkpoint written by version 0.1.0 (commit d645d8a) still restores and continues.

It is of `configs/digits.py` with num_epochs=0.2, polyak_decay=0.5, optimizer.warmup_steps=1 and a
model of one block, 8 channels and MLPs of 4 and 8; packed with its config and its metrics.
"""

import json
import pathlib
import tarfile

import pytest

from mixer import train_loop
from mixer.checkpoint.folder import newest_step
from mixer.config import base_config
from mixer.evaluation.evaluate_weights import evaluate_head, images_for
from mixer.reporting.metrics import read_metrics
from mixer.weights.load import load_model

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "checkpoint.tar.gz"


@pytest.fixture
def workdir(tmp_path) -> pathlib.Path:
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_the_run_continues_to_a_later_step(workdir, data_dir, no_pictures, on_one_device):
    saved = json.loads((workdir / "config.json").read_text())
    config = base_config()
    config.update(saved)
    config.train_crop.area = tuple(saved["train_crop"]["area"])
    config.data_dir = data_dir
    config.num_epochs = 0.3  # 7 steps: the schedule differs, the steps so far stay
    config.checkpoint_every = 7
    before = read_metrics(workdir)
    train_loop.train(config, workdir, allow_config_change=True)
    after = read_metrics(workdir)
    assert after[: len(before)] == before
    assert after[-1]["step"] == newest_step(workdir / "checkpoints") == 7
    # It has learned more since.
    assert after[-1]["test/loss"] < before[-1]["test/loss"]


def test_the_model_of_the_run_classifies_as_it_was_evaluated(workdir, data_dir):
    (line,) = [line for line in read_metrics(workdir) if "test/top1" in line]
    loaded = load_model(str(workdir))
    assert loaded.class_names == tuple("0123456789")
    images = images_for(loaded, data_dir=data_dir, batch_size=64)
    (result,) = evaluate_head(loaded, images)
    assert result["count"] == line["test/count"] == 364
    assert result["top1"] == pytest.approx(line["test/top1"], abs=1e-6)
