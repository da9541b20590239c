"""A trace of some training steps, for TensorBoard (XProf) and Perfetto."""

import dataclasses
import pathlib
import tempfile

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


@dataclasses.dataclass
class Trace:
    """Records what the host and its devices do, and writes it to a folder when it ends."""

    folder: epath.Path

    def __post_init__(self) -> None:
        # The profiler cannot write to a bucket.
        self._local = tempfile.TemporaryDirectory(prefix="mixer-trace-")
        jax.profiler.start_trace(self._local.name, create_perfetto_trace=True)

    def end(self) -> None:
        """Writes what was recorded; call it when the devices have finished it."""
        jax.profiler.stop_trace()
        with self._local:
            for path in sorted(pathlib.Path(self._local.name).rglob("*.*")):
                target = self.folder / path.relative_to(self._local.name).as_posix()
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
