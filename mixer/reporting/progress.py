"""Progress of a run: a live line on a terminal, plain lines elsewhere."""

import contextlib
import datetime
import time
from collections.abc import Iterator

import jax
import rich.console
import rich.progress

from mixer.flops import CHIPS


def finished_at(metrics: dict[str, jax.Array]) -> float:
    """Waits until the step that computes the metrics is finished; returns when, for `measure`."""
    jax.block_until_ready(metrics)
    return time.monotonic()


class Progress:
    """Measures the speed of a run and shows how far it is.

    Args:
      first_step: the step that the run starts or resumes at.
      total_steps: of the run.
      batch_size: images per step, on all devices together.
      train_flops_per_image: as `mixer.flops.train_flops_per_image`.
      train_seconds: of training before the run was resumed; 0 for a new run.
      core_seconds: the same times the cores, perhaps others, that trained.
      active: whether this process shows anything; all of them measure.
    """

    def __init__(
        self,
        *,
        first_step: int,
        total_steps: int,
        batch_size: int,
        train_flops_per_image: float,
        train_seconds: float,
        core_seconds: float,
        active: bool,
    ):
        self._total_steps = total_steps
        self._batch_size = batch_size
        self._train_flops_per_image = train_flops_per_image
        self._chip = CHIPS.get(jax.devices()[0].device_kind)
        self._cores = jax.device_count() * (self._chip.cores if self._chip else 1)
        self._resumed_with = (train_seconds, core_seconds)
        self._stopped_at = train_seconds
        self._running_since: float | None = None
        self._measured = (first_step, train_seconds)
        self._eta_from = (first_step, 0.0)
        self._console = rich.console.Console(highlight=False, soft_wrap=True, quiet=not active)
        bar = [rich.progress.BarColumn(bar_width=20)] if self._console.width >= 110 else []
        self._live = rich.progress.Progress(
            rich.progress.TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            *bar,
            rich.progress.TextColumn("{task.fields[status]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._live.add_task("", total=total_steps, completed=first_step, status="")

    def close(self) -> None:
        """Ends the live line."""
        self._live.stop()

    def say(self, text: str) -> None:
        """Prints lines, above the live line if there is one."""
        self._console.print(text, markup=False)

    def start(self) -> None:
        """Starts the clock of training and the live line."""
        self._running_since = time.monotonic()
        self._eta_from = (self._measured[0], self._running_since)
        self._live.start()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Stops the clock of training inside the context: evaluation, saving, pictures."""
        was_running = self._running_since is not None
        self._stopped_at = self.train_seconds
        self._running_since = None
        yield
        if was_running:
            self._running_since = time.monotonic()

    @property
    def train_seconds(self) -> float:
        """Seconds of training so far, including those before a resume."""
        return self._train_seconds(time.monotonic())

    def _train_seconds(self, now: float) -> float:
        if self._running_since is None:
            return self._stopped_at
        return self._stopped_at + max(0.0, now - self._running_since)

    def state(self) -> dict[str, float]:
        """Returns the arguments that the Progress of a resumed run starts with."""
        train_seconds = self.train_seconds
        return {"train_seconds": train_seconds, "core_seconds": self._core_seconds(train_seconds)}

    def measure(self, step: int, finished: float) -> dict[str, float]:
        """Returns the speed since the last call and the cost of the training so far.

        `finished` is when the step was, by `finished_at`; the host may ask much later. The clock
        has not been paused since then.
        """
        last_step, last_seconds = self._measured
        self._measured = (step, self._train_seconds(finished))
        images = (step - last_step) * self._batch_size
        speed = images / max(self._measured[1] - last_seconds, 1e-9) / self._cores
        measured = {
            "images_per_second_per_core": speed,
            "train_seconds": self._measured[1],
            "core_days": self._core_seconds(self._measured[1]) / 86400,
        }
        if self._chip:
            needed = speed * self._chip.cores * self._train_flops_per_image
            measured["model_flops_utilisation"] = needed / self._chip.flops_per_second
        return measured

    def advance(self, step: int) -> None:
        """Moves the live line."""
        self._live.update(self._task, completed=step)

    def show(self, step: int, scalars: dict[str, float]) -> None:
        """Shows the metrics of a step: in the live line, or as a plain line."""
        parts = [
            f"loss {scalars['loss']:.4f}",
            f"lr {scalars['learning_rate']:.2e}",
            f"{_speed(scalars['images_per_second_per_core'])} images/s/core",
            f"ETA {self._eta(step)}",  # before what a narrow terminal may cut off
        ]
        if "model_flops_utilisation" in scalars:
            parts.append(f"MFU {scalars['model_flops_utilisation']:.0%}")
        if scalars["core_days"] >= 0.01:
            parts.append(f"{scalars['core_days']:,.2f} core-days")
        status = " | ".join(parts)
        self._live.update(self._task, status=status)
        if not self._console.is_terminal:
            self.say(f"step {step:,}/{self._total_steps:,} | {status}")

    def _core_seconds(self, train_seconds: float) -> float:
        """Returns those seconds times the cores that trained, summed over all resumes."""
        seconds_before, core_seconds_before = self._resumed_with
        return core_seconds_before + (train_seconds - seconds_before) * self._cores

    def _eta(self, step: int) -> datetime.timedelta:
        """Returns the time left at the mean pace of this process, pauses included."""
        first_step, start = self._eta_from
        pace = (time.monotonic() - start) / (step - first_step)
        return datetime.timedelta(seconds=round(pace * (self._total_steps - step)))


def _speed(images_per_second: float) -> str:
    """Returns at least three digits of a speed."""
    return f"{images_per_second:,.0f}" if images_per_second >= 100 else f"{images_per_second:.3g}"
