"""Trains timm's MlpMixer in PyTorch with the recipe of one of our configs.

python -m tests.peers.train_timm --config=configs/cifar.py:0.7M,cifar10 --workdir=runs/timm
    [--data_dir=DIR] [--steps=N] [--eval_every=K] [--seed=S] [--compiled]

For accuracy against wall time beside ours: the same architecture, initialisation, loss, schedule,
Adam, clipping, mixup, stochastic depth, crop and flip, with torchvision's RandAugment. All images
are kept in memory. Writes metrics.jsonl in our format and config.json. Without the flags in
brackets, the config says.
"""

import json
import math
import pathlib
import time
from typing import Any

from absl import flags
from ml_collections import ConfigDict

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
    train(config, pathlib.Path(_WORKDIR.value), compiled=_COMPILED.value)


def train(config: ConfigDict, workdir: pathlib.Path, *, compiled: bool = False) -> Any:
    """Trains to the last step; returns the `timm_recipe.Training`.

    `train_seconds` exclude evaluations, `wall_seconds` count from the start of the program.

    Raises:
      ValueError: the recipe is not one that the peer has, or the data are not there.
      FileExistsError: the workdir has metrics.
      FloatingPointError: the loss is not finite.
    """
    from mixer.config import count_steps, to_plain
    from mixer.reporting.config_file import write_config
    from tests.peers import images_in_memory, timm_recipe

    timm_recipe.check_recipe(config)
    timm_recipe.torch.manual_seed(config.seed)
    images, labels, classes = images_in_memory.read_split(
        config, config.train_split, config.train_fraction
    )
    splits = {
        name: images_in_memory.read_split(config, split)[:2]
        for name, split in config.eval_splits.items()
    }
    total_steps = count_steps(config, lambda: len(images))
    training = timm_recipe.Training(config, classes, total_steps, compiled=compiled)
    batches = images_in_memory.train_batches(config, images, labels)
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / "metrics.jsonl").open("x") as file:
        write_config(workdir, to_plain(config))

        def write(step: int, line: dict[str, float]) -> None:
            times = {"train_seconds": train_seconds, "wall_seconds": time.monotonic() - _STARTED}
            file.write(json.dumps({"step": step, **line, **times}) + "\n")
            file.flush()

        losses: list[Any] = []
        train_seconds, start = 0.0, time.monotonic()
        for step in range(1, total_steps + 1):
            batch = (part.to(training.device) for part in next(batches))
            losses.append(training.step(*batch, training.draw_weight()))
            evaluates = step % config.eval_every == 0 or step == total_steps
            if not evaluates and step % config.log_every:
                continue
            loss = sum(map(float, losses)) / len(losses)
            if not math.isfinite(loss):
                raise FloatingPointError(f"The loss of step {step} is not finite: {loss}.")
            train_seconds += time.monotonic() - start
            write(step, {"loss": loss})
            if evaluates:
                results = {name: training.evaluate(*split) for name, split in splits.items()}
                write(step, _scores(results))
                shown = "".join(f" | {name} {r['top1']:.2%}" for name, r in results.items())
                speed = step * config.batch_size / train_seconds
                print(f"step {step:,}/{total_steps:,} | {speed:,.0f} images/s{shown}", flush=True)
            losses, start = [], time.monotonic()
    return training


def _scores(results: dict[str, dict[str, float]]) -> dict[str, float]:
    return {f"{name}/{key}": x for name, result in results.items() for key, x in result.items()}


if __name__ == "__main__":
    command.run(main)
