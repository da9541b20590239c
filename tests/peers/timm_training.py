"""A run of timm's Mixer, from images in memory to lines of metrics."""

import json
import math
import pathlib
import time
from typing import Any

from ml_collections import ConfigDict

from mixer.config import count_steps, to_plain
from mixer.reporting.config_file import write_config
from tests.peers.images_in_memory import read_split, train_batches
from tests.peers.timm_recipe import Training, check_recipe, torch


def train(
    config: ConfigDict, workdir: pathlib.Path, *, started: float, compiled: bool = False
) -> Training:
    """Trains a config to its last step and returns the training.

    `started` is when the program started, in seconds of `time.monotonic`. In metrics.jsonl,
    `train_seconds` exclude evaluations, and `wall_seconds` are all since then.

    Raises:
      ValueError: the recipe is not one that the peer has, the data are not there, or the workdir
        is that of a run.
      FloatingPointError: the loss is not finite.
    """
    check_recipe(config)
    metrics = workdir / "metrics.jsonl"
    if metrics.exists():
        raise ValueError(f"Expected a new --workdir; got one with {metrics}. Use another.")
    torch.manual_seed(config.seed)
    images, labels, classes = read_split(config, config.train_split, config.train_fraction)
    splits = {name: read_split(config, split)[:2] for name, split in config.eval_splits.items()}
    total_steps = count_steps(config, lambda: len(images))
    training = Training(config, classes, total_steps, compiled=compiled)
    batches = train_batches(config, images.to(training.device), labels.to(training.device))
    workdir.mkdir(parents=True, exist_ok=True)
    with metrics.open("x") as file:
        write_config(workdir, to_plain(config))

        def write(step: int, line: dict[str, float]) -> None:
            times = {"train_seconds": train_seconds, "wall_seconds": time.monotonic() - started}
            file.write(json.dumps({"step": step, **line, **times}) + "\n")
            file.flush()

        losses: list[Any] = []
        train_seconds, start = 0.0, time.monotonic()
        for step in range(1, total_steps + 1):
            losses.append(training.step(*next(batches), training.draw_weight()))
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
