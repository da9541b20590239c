"""What a person sees while images are read and written."""

import sys
import time

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
        self._task: rich.progress.TaskID | None = None
        self._seconds_per_show = 0.1 if console.is_terminal else _SECONDS_PER_LINE
        self._live.start()

    def start(self, stage: str, total: int) -> None:
        """Ends the stage before, and begins one of `total` units of work."""
        self._end_stage()
        self._stage, self._total = stage, max(total, 1)
        self._done = self._images = 0
        self._begin = time.monotonic()
        self._next_show = self._begin + self._seconds_per_show
        self._task = self._live.add_task(stage, total=self._total, status="")

    def advance(self, work: int) -> None:
        """Counts an image and the work done on it."""
        self._done += work
        self._images += 1
        if time.monotonic() >= self._next_show:
            self._next_show = time.monotonic() + self._seconds_per_show
            self._show()

    def close(self) -> None:
        """Ends the last stage."""
        self._end_stage()
        self._live.stop()

    def _show(self) -> None:
        assert self._task is not None
        seconds = time.monotonic() - self._begin
        left = round(seconds * (self._total / max(self._done, 1) - 1))
        status = (
            f"{self._images:,} images, {self._images / seconds:,.0f} images/s, "
            f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
        )
        self._live.update(self._task, completed=self._done, status=status)
        if not self._console.is_terminal:
            self._console.print(f"{self._stage}, {self._done / self._total:.0%}: {status}")

    def _end_stage(self) -> None:
        if self._task is not None:
            seconds = time.monotonic() - self._begin
            self._live.remove_task(self._task)
            self._live.refresh()
            self._task = None
            self._console.print(f"{self._stage}: {self._images:,} images in {seconds:,.1f} s")
