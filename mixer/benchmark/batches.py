"""Finds the largest batch that fits, with as few measurements as possible."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Measured = Mapping[str, Any]  # as `measure_batch_size` returns it


def measure_batches(
    measure: Callable[[int], Measured | None], *, first: int, most: int, limit_gib: float
) -> Iterator[Measured]:
    """Yields the rows of the batches that fit, in ascending order; all are powers of two.

    `measure` returns the row of a batch, None if it does not fit. Each batch after `first` is the
    largest, of at most `most` images, that the rows so far leave room for in `limit_gib`.
    """
    rows: list[Measured] = []
    batch = first
    while batch and not (rows and batch <= rows[-1]["batch_size"]):
        row = measure(batch)
        if row is None:
            batch = most = batch // 2
            continue
        rows.append(row)
        yield row
        batch = largest_batch(rows, limit_gib, most)


def largest_batch(rows: Sequence[Measured], limit_gib: float, most: int) -> int:
    """Returns the largest power of two of images that should fit into the limit, at most `most`.

    `rows` are those of `measure_batch_size`, in ascending order of the batch. Memory grows linearly
    with the batch: as the last two say, or in proportion to it if there is only one.
    """
    batch, memory = rows[-1]["batch_size"], rows[-1]["peak_memory_gib"]
    per_image = memory / batch
    if len(rows) > 1:
        grown = memory - rows[-2]["peak_memory_gib"]
        per_image = grown / (batch - rows[-2]["batch_size"])
    if per_image <= 0:
        return int(batch)
    fits = batch + (limit_gib - memory) / per_image
    return min(most, 2 ** math.floor(math.log2(max(1.0, fits))))
