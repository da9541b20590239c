"""Trains timm's MlpMixer in PyTorch with the recipe of one of our configs.

python -m tests.peers.train_timm --config=configs/cifar.py:0.7M,cifar10 --workdir=runs/timm
    [--data_dir=DIR] [--steps=N] [--eval_every=K] [--seed=S] [--compiled]

For accuracy against wall time beside ours: the same architecture, initialisation, loss, schedule,
Adam, clipping, mixup, stochastic depth, padded crop and flip, and as many parts of a batch. All
images are kept on the device. Writes metrics.jsonl in our format and config.json. Without the flags
in brackets, the config says.
"""

import pathlib
import time

from absl import flags

from mixer.config import check_config
from mixer.runtime import command, startup

_STARTED = time.monotonic()  # PyTorch and TensorFlow come later
startup.quiet_libraries()

_CONFIG = command.config_flag()
_WORKDIR = command.path_flag("workdir", None, "Folder for the metrics.", required=True)
_DATA_DIR = command.path_flag("data_dir", None, "TFDS's data folder.")
_STEPS = flags.DEFINE_integer("steps", None, "Length of the run.", 1)
_EVAL_EVERY = flags.DEFINE_integer("eval_every", None, "Steps between evaluations.", 1)
_SEED = flags.DEFINE_integer("seed", None, "Seed of everything.", 0)
_COMPILED = flags.DEFINE_bool("compiled", False, "Use torch.compile.")


def main() -> None:
    config = _CONFIG.value
    for key, flag in {
        "data_dir": _DATA_DIR,
        "num_steps": _STEPS,
        "eval_every": _EVAL_EVERY,
        "seed": _SEED,
    }.items():
        if flag.value is not None:
            config[key] = flag.value
    if _STEPS.value and "num_epochs" in config:
        del config.num_epochs
    check_config(config)
    # After the flags: PyTorch takes seconds.
    from tests.peers.timm_training import train

    workdir = pathlib.Path(_WORKDIR.value)
    train(config, workdir, started=_STARTED, compiled=_COMPILED.value)


if __name__ == "__main__":
    command.run(main)
