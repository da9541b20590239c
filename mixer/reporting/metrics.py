"""Metrics: `metrics.jsonl`, the record of a run, TensorBoard events beside it, Weights & Biases.

A line of `metrics.jsonl` is a JSON object with `step`, `wall_seconds` and any of the others below.
  wall_seconds             from the start of the program to the writing of the line, all included; a
                           resumed run goes on from those of its checkpoint
  loss, grad_norm, update_norm, param_norm
                           means over the steps since the last such line; norms over all
                           parameters: of the gradient before clipping, of the update, and of the
                           parameters after it
  learning_rate            of the update of that step
  images_per_second_per_core
                           since the last such line, excluding evaluation and saves
  model_flops_utilisation  of that speed: FLOPs (`mixer/flops.py`) over the peak of the device, in
                           [0, 1]; only for devices that `mixer/flops.py` knows
  train_seconds            so far, excluding compilation, evaluation and saves
  core_days                the same times the cores that trained, as `mixer/flops.py` counts them
  damaged_examples         replaced by process 0 in the batch of that step, if any
  test/top1, test/loss, test/count
                           fraction in [0, 1], mean, number of examples; for each evaluation and
                           each split of the config's `eval_splits`, by its name there
  test/top5                the same, with more than five classes
  few_shot/top1, few_shot/count
                           the same of the linear probe of the config's `few_shot`
"""

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from mixer.reporting.events import open_events
from mixer.runtime.naming import naming

FILE_NAME = "metrics.jsonl"


class MetricsWriter:
    """Appends scalars to all records.

    Args:
      workdir: of the run.
      first_step: the step that the run starts or resumes at; later lines are dropped, as those
        steps are taken again.
      active: whether this process writes; one of a run does.
      evaluates: whether the evaluation of `first_step` is dropped as well, to be made again.
      wandb: opens the run in Weights & Biases, if they go there, too.
    """

    def __init__(
        self,
        workdir: epath.Path,
        *,
        first_step: int,
        active: bool,
        evaluates: bool = False,
        wandb: Callable[[], Any] | None = None,
    ):
        self._active = active
        if not active:
            return
        self._path = path = workdir / FILE_NAME
        kept = read_metrics(workdir, last_step=first_step)
        if evaluates:
            kept = [line for line in kept if line["step"] < first_step or not is_evaluation(line)]
        temporary = path.with_name(f"{FILE_NAME}.tmp")
        self._exit = contextlib.ExitStack()  # a file in a bucket has no `close`, only a context
        with naming(path):
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
            temporary.replace(path)
            self._file = self._exit.enter_context(path.open("a"))
            self._events = open_events(workdir, first_step)
        self._wandb = wandb() if wandb else None

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes the scalars of a step and flushes them, so that a killed run loses none."""
        if self._active:
            with naming(self._path):
                self._file.write(json.dumps({"step": step, **scalars}) + "\n")
                self._file.flush()
            for name, value in scalars.items():
                self._events.add_scalar(name, value, step)
            self._events.flush()
            if self._wandb:
                self._wandb.log(scalars, step=step)

    def close(self, *, failed: bool = False) -> None:
        """Closes the records; Weights & Biases marks runs that failed."""
        if self._active:
            with naming(self._path):
                self._exit.close()
            self._events.close()
            if self._wandb:
                self._wandb.finish(exit_code=int(failed))


def is_evaluation(line: Mapping[str, Any]) -> bool:
    """True if a line holds the scores of an evaluation."""
    return any(key.endswith("/top1") for key in line)


def read_metrics(workdir: epath.Path, *, last_step: float = math.inf) -> list[dict[str, Any]]:
    """Returns the lines of `metrics.jsonl` up to a step; none if there is no file.

    A last line that a kill cut short is left out.

    Raises:
      ValueError: another line is not one of ours.
    """
    path = workdir / FILE_NAME
    if not path.exists():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
        return [line for line in lines if line["step"] <= last_step]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"Expected a JSON object with a step in each line of {path}; got something else "
            f"({type(error).__name__}: {error}). Correct that line, or move the file away."
        ) from error
