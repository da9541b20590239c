"""What a person sees while images are read and written."""

import datetime
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import rich.console
import rich.progress

_SECONDS_PER_LINE = 5.0


class Progress:
    """One stage after the other: a bar on a terminal, a line every few seconds elsewhere."""

    def __init__(self) -> None:
        console = rich.console.Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._console = console
        self._live = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=20),
            rich.progress.TaskProgressColumn(),
            rich.progress.TextColumn("{task.fields[status]}"),
            console=console,
            disable=not console.is_terminal,
            redirect_stdout=False,
            transient=True,
        )
        self._seconds_per_show = 0.1 if console.is_terminal else _SECONDS_PER_LINE
        self._live.start()

    def start(self, stage: str, total: int) -> None:
        """Ends the stage before, and begins one of `total` units of work."""
        self._end_stage()
        self._images = 0
        self._live.add_task(stage, total=max(total, 1), status="")
        self._next_show = time.monotonic() + self._seconds_per_show

    def advance(self, work: int) -> None:
        """Counts an image and the work done on it."""
        (task,) = self._live.tasks
        self._live.advance(task.id, work)
        self._images += 1
        if time.monotonic() >= self._next_show:
            self._next_show = time.monotonic() + self._seconds_per_show
            self._show(task)

    def count(self, examples: Iterable[Any]) -> Iterator[Any]:
        """Yields the same, each a unit of work."""
        for example in examples:
            yield example
            self.advance(1)

    def close(self) -> None:
        """Ends the last stage."""
        self._end_stage()
        self._live.stop()

    def _show(self, task: rich.progress.Task) -> None:
        done, seconds = task.percentage / 100, task.elapsed or 0.0
        left = round(seconds / done - seconds) if done else 0
        status = (
            f"{self._images:,} images, {self._images / seconds:,.0f} images/s, "
            f"{datetime.timedelta(seconds=left)} left"
        )
        self._live.update(task.id, status=status)
        if not self._console.is_terminal:
            self._console.print(f"{task.description}, {done:.0%}: {status}")

    def _end_stage(self) -> None:
        for task in self._live.tasks:
            self._live.remove_task(task.id)
            self._live.refresh()
            images = f"{self._images:,} images in {task.elapsed:,.1f} s"
            self._console.print(f"{task.description}: {images}")
