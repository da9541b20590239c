"""The metrics of steps that the devices may still be computing."""

import collections
import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np

from mixer.reporting.progress import finished_at

# Calls that the host queues ahead of the metrics that it fetched, so that no device waits for it.
_CALLS_IN_FLIGHT = 2

# A step, its metrics, and when it was finished.
Finished = tuple[int, dict[str, float], float]


class PendingMetrics:
    """A queue of calls of one or several steps each; yields the metrics of the finished ones.

    Raises:
      FloatingPointError: a metric is not finite; the message names its step.
    """

    def __init__(self) -> None:
        # Its first step, how many, their metrics, and when these were finished: a thread waits for
        # that as it happens.
        self._calls: collections.deque[tuple[int, int, dict[str, jax.Array], Future[float]]]
        self._calls = collections.deque()
        self._waiter = ThreadPoolExecutor(1, "finished")

    def close(self) -> None:
        """Forgets what is left."""
        self._waiter.shutdown(wait=False)

    def add(self, step: int, metrics: dict[str, jax.Array], count: int) -> Iterator[Finished]:
        """Takes a call of `count` steps up to `step`; yields the steps of an older call.

        The metrics are scalars, or `[n]`, of which the first `count` are taken.
        """
        finished = self._waiter.submit(finished_at, metrics)
        self._calls.append((step - count + 1, count, metrics, finished))
        if len(self._calls) > _CALLS_IN_FLIGHT:
            yield from self._take()

    def take_all(self) -> Iterator[Finished]:
        """Waits for all calls, and yields their steps."""
        while self._calls:
            yield from self._take()

    def _take(self) -> Iterator[Finished]:
        first, count, metrics, finished = self._calls.popleft()
        arrays = {name: np.atleast_1d(x) for name, x in jax.device_get(metrics).items()}
        for number in range(count):
            values = {name: float(array[number]) for name, array in arrays.items()}
            _check_finite(first + number, values)
            yield first + number, values, finished.result()


def _check_finite(step: int, values: dict[str, float]) -> None:
    if all(math.isfinite(value) for value in values.values()):
        return
    found = ", ".join(f"{name} {value}" for name, value in values.items())
    raise FloatingPointError(
        f"Step {step} is not finite: {found}. The run ends here and saves nothing of this step. A "
        "lower learning rate or a longer warm-up may help."
    )
