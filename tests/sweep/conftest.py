"""A small config, and sweeps of it."""

import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from configs import digits
from mixer.config import to_plain
from mixer.sweep.plan import Sweep, create_sweep


@pytest.fixture
def config() -> dict[str, Any]:
    config = digits.get_config()
    del config.num_epochs
    config.num_steps = 4
    config.train_split = "train[:90%]"
    config.eval_splits = {"minival": "train[90%:]", "test": "test"}
    config.flip = True
    config.loss = "softmax"
    config.optimizer.learning_rate = 0.03
    config.model.num_blocks = 2
    return to_plain(config)


@pytest.fixture
def make_sweep(tmp_path: pathlib.Path, config: dict[str, Any]) -> Callable[..., Sweep]:
    """Returns a sweep over learning rates with seeds 0, 1 and 2, or with other arguments."""

    def make(*learning_rates: float, **changed: Any) -> Sweep:
        arguments = {
            "config_file": "configs/finetune.py:B/16,cifar10",
            "overrides": {},
            "config": config,
            "combinations": [{"optimizer.learning_rate": rate} for rate in learning_rates],
            "seeds": (0, 1, 2),
            "workdir": tmp_path / "sweep",
            "select": "minival/top1",
            "report": "test/top1",
        }
        return create_sweep(**arguments | changed)

    return make
