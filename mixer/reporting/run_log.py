"""The log of a run: fetches the metrics of each step, checks them, writes and shows them."""

import contextlib
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax
from clu import parameter_overview
from etils import epath
from jax.experimental import multihost_utils

from mixer.config import same_evaluation
from mixer.reporting.config_file import read_config, write_config
from mixer.reporting.environment import write_environment
from mixer.reporting.metrics import MetricsWriter, is_evaluation, read_metrics
from mixer.reporting.pending import PendingMetrics
from mixer.reporting.progress import Progress
from mixer.reporting.reports import Reports
from mixer.reporting.summary import summary
from mixer.reporting.trace import Tracer
from mixer.reporting.wandb_run import open_wandb
from mixer.runtime.preemption import Preempted


class RunLog:
    """Logs the steps `first_step + 1` to `total_steps` of a run; a context manager.

    Every `log_every` steps it writes and shows the means of the metrics since the last time. One
    process does so for all.

    Args:
      workdir: of the run.
      started: when the program started, in seconds of `time.monotonic`.
      config: of the run, as JSON holds it.
      first_step: the step that the run starts or resumes at.
      total_steps: of the run.
      log_every: steps per line.
      batch_size: images per step, on all devices together.
      train_flops_per_image: as `mixer.flops.train_flops_per_image`.
      schedule: step -> learning rate.
      saved: `state()` at `first_step`; {} for a new run.
      reports: what it tells besides.
    """

    def __init__(
        self,
        workdir: epath.Path,
        *,
        started: float,
        config: dict[str, Any],
        first_step: int,
        total_steps: int,
        log_every: int,
        batch_size: int,
        train_flops_per_image: float,
        schedule: optax.Schedule,
        saved: dict[str, Any],
        reports: Reports,
    ):
        self._started = started
        # A checkpoint of an older version has no clock but that of training.
        self._wall_seconds_before = saved.get("wall_seconds", saved.get("train_seconds", 0.0))
        self.is_new = not saved
        self._active = jax.process_index() == 0
        self._draws = self._active and reports.pictures
        self._tracer = Tracer(
            reports.traced_steps,
            workdir / "profile",
            total_steps=total_steps,
            active=self._active,
            say=self.say,
        )
        self._workdir = workdir
        self._first_step = first_step
        self._total_steps = total_steps
        self._log_every = log_every
        self._schedule = schedule
        self._pending = PendingMetrics()
        self._window: list[dict[str, float]] = saved.get("window", [])
        self._latest: dict[str, float] = {}
        # A finished run with other settings: the score of the old ones is not that of these.
        evaluates = first_step == total_steps and not same_evaluation(read_config(workdir), config)
        self._evaluated_step = self._read_lines(evaluates)
        if self._active:
            workdir.mkdir(parents=True, exist_ok=True)
        # Before the new config is written, so that a kill leaves no score beside other settings.
        self._writer = MetricsWriter(
            workdir,
            first_step=first_step,
            active=self._active,
            evaluates=evaluates,
            wandb=functools.partial(open_wandb, reports.wandb_project, workdir, config),
        )
        if self._active:
            write_config(workdir, config)
            if first_step < total_steps:
                write_environment(workdir)
        self._progress = Progress(
            first_step=first_step,
            total_steps=total_steps,
            batch_size=batch_size,
            train_flops_per_image=train_flops_per_image,
            train_seconds=saved.get("train_seconds", 0.0),
            core_seconds=saved.get("core_seconds", 0.0),
            active=self._active,
        )

    def _read_lines(self, evaluates: bool) -> int:
        """Takes in the lines up to the first step; returns the last step that was evaluated or -1.

        `evaluates`: the evaluation of the first step is to be made again.
        """
        evaluated_step = -1
        for line in read_metrics(self._workdir, last_step=self._first_step):
            if is_evaluation(line):
                if evaluates and line["step"] == self._first_step:
                    continue
                evaluated_step = line["step"]
            self._remember(line)
        # All processes evaluate, or none does.
        return int(multihost_utils.broadcast_one_to_all(np.int32(evaluated_step)))

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, error_type: object, *rest: object) -> None:
        self._tracer.end()
        self._pending.close()
        self._progress.close()
        self._writer.close(failed=error_type not in (None, Preempted))

    def say(self, text: str) -> None:
        """Prints lines, on one process."""
        self._progress.say(text)

    def say_start(self, params: Any, init_from: str) -> None:
        """Shows the parameters of a new run and what it starts from, or that it goes on."""
        if self._first_step:
            self.say(f"Resuming {self._workdir} at step {self._first_step:,}.")
            steps = self._tracer.steps
            if steps and steps.start <= self._first_step:
                self.say(f"No trace: step {steps.start:,} is already taken.")
            return
        self.say(parameter_overview.get_parameter_overview(params, include_stats=False))
        origin = f"the weights {init_from}, with a fresh head" if init_from else "scratch"
        self.say(f"Starting {self._workdir} from {origin}.")

    def start_clock(self) -> None:
        """Starts the clock of training. Call it once everything is compiled."""
        self._progress.start()
        self._switch_trace(self._first_step)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Reports every step so far, then stops the clock of training inside the context.

        Raises:
          FloatingPointError: as `add`.
        """
        for finished in self._pending.take_all():
            self._report(*finished)
        with self._progress.pause():
            yield

    def next_trace(self, step: int) -> int:
        """Returns after which step a trace starts or ends next; past the run without one."""
        return self._tracer.next(step)

    def add(self, step: int, metrics: dict[str, jax.Array], count: int = 1) -> None:
        """Takes the metrics of the `count` steps up to `step`, and reports older ones.

        They may still be running. Waits for the first, to report how long the start took.

        Args:
          metrics: scalars, or `[n]`, of which the first `count` are taken.

        Raises:
          FloatingPointError: a metric of an older step is not finite.
        """
        if step - count == self._first_step:
            jax.block_until_ready(metrics)
            self.say(f"First step done {time.monotonic() - self._started:.1f} s after the start.")
        for finished in self._pending.add(step, metrics, count):
            self._report(*finished)
        self._switch_trace(step)

    def add_images(self, batch: dict[str, np.ndarray], class_names: Sequence[str]) -> None:
        """Draws images of a batch, as the model sees them, into `train_images.png`."""
        if self._draws:
            # Matplotlib: a resumed run needs it later.
            from mixer.reporting.pictures import draw_images

            path = self._workdir / "train_images.png"
            draw_images(batch["images"], batch["labels"], path, class_names)

    def add_evaluations(self, step: int, results: dict[str, dict[str, float]]) -> dict[str, float]:
        """Writes and shows the results, split -> metrics, and draws the curves so far.

        Returns the metrics by their names in `metrics.jsonl`, such as `test/top1`.
        """
        scalars: dict[str, float] = {}
        for split, result in results.items():
            scalars |= {f"{split}/{name}": value for name, value in result.items()}
            self.say(
                f"step {step:,} | {split}: top-1 {result['top1']:.2%} of {result['count']:,} images"
                + (f", loss {result['loss']:.4f}" if "loss" in result else "")
            )
        self._write(step, scalars)
        self._evaluated_step = step
        if self._draws:
            from mixer.reporting.pictures import draw_curves  # as above

            draw_curves(self._workdir)
        return scalars

    def is_evaluated(self, step: int) -> bool:
        """True if the evaluation of that step is in the log; a stop may have cut it short."""
        return self._evaluated_step == step

    def add_damage(self, step: int, damaged: list[str]) -> None:
        """Writes and shows which examples were replaced in the batch of step `step + 1`."""
        self._write(step + 1, {"damaged_examples": len(damaged)})
        say = self.say if self._active else print  # each process reads its own examples
        for description in damaged:
            say(f"step {step + 1:,} | replaced {description}")

    def state(self) -> dict[str, Any]:
        """Returns what a resumed run needs of the log, as JSON can hold it."""
        return {
            "window": self._window,
            "wall_seconds": self._wall_seconds(),
            **self._progress.state(),
        }

    def finish(self, best: str) -> dict[str, float]:
        """Shows the summary and returns the last value of each metric.

        `best` describes the checkpoint with the best score; "" without one.
        """
        self._progress.close()
        # Training took until the last step was finished; since then the run has waited for saves.
        train_seconds = self._latest.get("train_seconds", self._progress.train_seconds)
        wall_seconds = time.monotonic() - self._started
        text = summary(self._latest, self._workdir, self._total_steps, train_seconds, wall_seconds)
        self.say(text + (f"\n  best         {best}" if best else ""))
        return self._latest

    def _switch_trace(self, step: int) -> None:
        if self._tracer.is_due(step):
            with self.pause():
                self._tracer.switch()

    def _wall_seconds(self) -> float:
        """Returns the seconds since the program started, and those before a resume."""
        return self._wall_seconds_before + time.monotonic() - self._started

    def _write(self, step: int, scalars: dict[str, float]) -> None:
        scalars = {**scalars, "wall_seconds": self._wall_seconds()}
        self._writer.write(step, scalars)
        self._remember({"step": step, **scalars})

    def _remember(self, line: dict[str, Any]) -> None:
        if is_evaluation(line):  # its splits may be others than those of the last one
            self._latest = {key: v for key, v in self._latest.items() if "/" not in key}
        self._latest |= line

    def _report(self, step: int, scalars: dict[str, float], finished: float) -> None:
        self._window.append(scalars)
        self._progress.advance(step)
        if step % self._log_every == 0 or step == self._total_steps:
            means = {
                name: sum(values[name] for values in self._window) / len(self._window)
                for name in scalars
            }
            self._window = []
            line = {
                **means,
                "learning_rate": float(self._schedule(step - 1)),
                **self._progress.measure(step, finished),
            }
            self._write(step, line)
            self._progress.show(step, line)
