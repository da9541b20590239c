"""The log of a run: fetches the metrics of each step, checks them, writes and shows them."""

import collections
import math
import pathlib
from typing import Any

import jax
import optax

from mixer.metrics import MetricsWriter
from mixer.progress import Progress

# How many steps the host runs ahead of the metrics that it has seen. The device never waits for the
# host, and the host does not queue more than this.
_STEPS_IN_FLIGHT = 2


class TrainLog:
    """Logs the steps `first_step + 1` to `total_steps`; a context manager.

    Every `log_every` steps it writes and shows the means of the metrics since the last time. What
    it needs to go on after a resume comes from `state`, saved with the checkpoint.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        first_step: int,
        total_steps: int,
        log_every: int,
        batch_size: int,
        schedule: optax.Schedule,
        saved: dict[str, Any],
    ):
        active = jax.process_index() == 0  # one process writes for all
        self._total_steps = total_steps
        self._log_every = log_every
        self._schedule = schedule
        self._pending: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()
        self._window: list[dict[str, float]] = saved.get("window", [])
        self._writer = MetricsWriter(workdir, first_step=first_step, active=active)
        self.progress = Progress(
            first_step=first_step,
            total_steps=total_steps,
            batch_size=batch_size,
            train_seconds=saved.get("train_seconds", 0.0),
            active=active,
        )

    def __enter__(self) -> "TrainLog":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.progress.close()
        self._writer.close()

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of a step, still being computed, and reports an older step.

        Raises:
          FloatingPointError: a metric of the older step is not finite.
        """
        self._pending.append((step, metrics))
        if len(self._pending) > _STEPS_IN_FLIGHT:
            self._report(*self._pending.popleft())

    def flush(self) -> None:
        """Reports every step added so far; raises as `add` does."""
        while self._pending:
            self._report(*self._pending.popleft())

    def add_evaluation(self, step: int, split: str, result: dict[str, float]) -> None:
        """Writes and shows the result of an evaluation."""
        self._writer.write(step, {f"{split}/{name}": value for name, value in result.items()})
        self.progress.say(
            f"step {step:,} | {split}: top-1 {result['top1']:.2%} of {result['count']:,} images, "
            f"loss {result['loss']:.4f}"
        )

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps of the log, as JSON can hold it."""
        return {"window": self._window, "train_seconds": self.progress.train_seconds}

    def _report(self, step: int, metrics: dict[str, jax.Array]) -> None:
        scalars = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not all(math.isfinite(value) for value in scalars.values()):
            found = ", ".join(f"{name} {value}" for name, value in scalars.items())
            raise FloatingPointError(
                f"Step {step} is not finite: {found}. The run ends here and saves nothing of this "
                "step. A lower learning rate or a longer warm-up may help."
            )
        self._window.append(scalars)
        self.progress.advance(step)
        if step % self._log_every == 0 or step == self._total_steps:
            means = {
                name: sum(values[name] for values in self._window) / len(self._window)
                for name in scalars
            }
            self._window = []
            line = {
                **means,
                "learning_rate": float(self._schedule(step - 1)),
                **self.progress.measure(step),
            }
            self._writer.write(step, line)
            self.progress.show(step, line)
