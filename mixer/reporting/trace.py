"""A trace of some training steps, for TensorBoard (XProf) and Perfetto."""

import pathlib
import sys
import tempfile
from collections.abc import Callable

import jax
from etils import epath


def parse_steps(text: str) -> range:
    """Returns the steps of `STEP:COUNT`: `COUNT` of them from `STEP` on, counted from 1.

    Raises:
      ValueError: it is something else.
    """
    first, colon, count = text.partition(":")
    if not (colon and all(part.isdecimal() and int(part) for part in (first, count))):
        raise ValueError(
            f"Expected --profile=STEP:COUNT, such as 100:5 for the steps 100 to 104; got {text!r}."
        )
    return range(int(first), int(first) + int(count))


class Tracer:
    """Records what the host and its devices do in some steps, and writes it to a folder.

    Args:
      steps: counted from 1; none: nothing is traced.
      folder: new files in it have the trace.
      total_steps: of the run.
      active: whether this process is traced; of several, one is.
      say: prints where the trace is.

    Raises:
      ValueError: the run does not have all of the steps.
    """

    def __init__(
        self,
        steps: range,
        folder: epath.Path,
        *,
        total_steps: int,
        active: bool,
        say: Callable[[str], None],
    ):
        if steps.stop > total_steps + 1:
            raise ValueError(
                f"Expected --profile to name steps of the run, which has {total_steps:,}; got "
                f"{steps.start:,} to {steps.stop - 1:,}."
            )
        self._edges = (steps.start - 1, steps.stop - 1) if steps else ()  # in all processes
        self.steps = steps if active else range(0)
        self._folder = folder
        self._say = say
        self._recorded: tempfile.TemporaryDirectory | None = None

    def is_due(self, step: int) -> bool:
        """True if the trace starts or ends after a step."""
        due = self.steps.stop if self._recorded else self.steps.start
        return bool(self.steps) and step + 1 == due

    def next(self, step: int) -> int:
        """Returns after which step a trace starts or ends next; a huge number: none does."""
        return min((edge for edge in self._edges if edge > step), default=sys.maxsize)

    def switch(self) -> None:
        """Starts the trace, or ends it. The devices have nothing to do."""
        if self._recorded:
            self.end()
            return
        # The profiler cannot write to a bucket.
        self._recorded = tempfile.TemporaryDirectory(prefix="mixer-trace-")
        jax.profiler.start_trace(self._recorded.name, create_perfetto_trace=True)

    def end(self) -> None:
        """Ends the trace if there is one, perhaps early, and writes it."""
        if not self._recorded:
            return
        jax.profiler.stop_trace()
        with self._recorded as recorded:
            for path in sorted(pathlib.Path(recorded).rglob("*.*")):
                target = self._folder / path.relative_to(recorded).as_posix()
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        self._recorded = None
        self.steps = range(0)
        self._say(
            f"Wrote a trace to {self._folder}: tensorboard --logdir {self._folder.parent}, or open "
            "its perfetto_trace.json.gz at ui.perfetto.dev."
        )
