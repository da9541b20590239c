"""The order of the examples: the batch of a step is a pure function of (seed, step).

There is no iterator and no state. A run that resumes, at any step and on any number of hosts,
computes the examples of that step directly.

The examples are split into `num_stripes` contiguous stripes of (almost) equal size, and every batch
draws equally from each. A stripe has its own endless sequence of permutations, one per epoch, so
each of its examples comes exactly once per epoch and none is dropped. The rows of a stripe are
adjacent in the batch, so a host that feeds some rows reads only the stripes of those rows, and the
batch does not depend on the number of hosts. With one stripe this is the textbook order: a new
permutation of all examples in each epoch.
"""

import dataclasses

import numpy as np

_ROUNDS = 8
_U64 = np.uint64


@dataclasses.dataclass(frozen=True)
class ExampleOrder:
    """The order of the examples in one training run.

    Raises:
      ValueError: `batch_size` is not divisible by `num_stripes`, a stripe would be empty, or the
        seed is negative.
    """

    num_examples: int
    batch_size: int
    seed: int
    num_stripes: int = 1

    def __post_init__(self) -> None:
        if self.num_stripes < 1 or self.batch_size % self.num_stripes:
            raise ValueError(
                f"Expected a batch_size divisible by num_stripes; got batch_size="
                f"{self.batch_size} and num_stripes={self.num_stripes}. Change one of them, for "
                "example to num_stripes=1."
            )
        if self.seed < 0:
            raise ValueError(f"Expected a seed of at least 0; got {self.seed}.")
        if self.num_examples < self.num_stripes:
            raise ValueError(
                f"Expected at least one example per stripe; got {self.num_examples} examples for "
                f"num_stripes={self.num_stripes}. Use a larger split or fewer stripes."
            )

    def indices(self, step: int, rows: np.ndarray) -> np.ndarray:
        """Returns the dataset indices (int64 `[n]`) of `rows` (`[n]`) in the batch of `step`."""
        rows_per_stripe = self.batch_size // self.num_stripes
        stripe = rows // rows_per_stripe
        start = stripe * self.num_examples // self.num_stripes
        size = (stripe + 1) * self.num_examples // self.num_stripes - start
        epoch, position = np.divmod(step * rows_per_stripe + rows % rows_per_stripe, size)
        keys = _hash(_hash(np.array(self.seed, _U64), stripe), epoch)
        return start + permute(position, size, keys)

    def examples_of(self, rows: np.ndarray) -> np.ndarray:
        """Returns all indices (int64 `[m]`) that `rows` ever need: the stripes of those rows."""
        stripes = np.unique(rows // (self.batch_size // self.num_stripes))
        edges = np.arange(self.num_stripes + 1) * self.num_examples // self.num_stripes
        return np.concatenate([np.arange(edges[s], edges[s + 1]) for s in stripes])


def subset_size(num_examples: int, fraction: float) -> int:
    """Returns the size of a random subset with `fraction` of the examples, at least one.

    Raises:
      ValueError: `fraction` is not in (0, 1].
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"Expected a fraction of the data in (0, 1]; got {fraction}.")
    return max(1, round(fraction * num_examples))


def permute(position: np.ndarray, size: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Returns where pseudorandom permutations send positions, int64 `[n]`.

    Element i is where the permutation of range(`size[i]`) with key `keys[i]` sends `position[i]`.
    Nothing of length `size` is allocated, so an element of a permutation of 300 million costs no
    more than one of a permutation of ten.

    Args:
      position: integers `[n]`, 0 <= position < size.
      size: integers `[n]`.
      keys: uint64 `[n]`.

    Source: an eight-round Feistel network on a grid of width x height >= size, applied again until
    the result lies in the range (Black and Rogaway, 2002, "Ciphers with arbitrary finite domains").
    """
    size = size.astype(_U64)
    width = np.ceil(np.sqrt(size.astype(np.float64))).astype(_U64)
    height = (size + width - _U64(1)) // width
    result = _feistel(position.astype(_U64), width, height, keys)
    while (outside := result >= size).any():
        result[outside] = _feistel(result[outside], width[outside], height[outside], keys[outside])
    return result.astype(np.int64)


def _feistel(
    value: np.ndarray, width: np.ndarray, height: np.ndarray, keys: np.ndarray
) -> np.ndarray:
    """Returns a keyed bijection of range(width * height)."""
    row, column = value // width, value % width
    for round_number in range(0, _ROUNDS, 2):
        column = (column + _hash(_hash(keys, round_number), row) % width) % width
        row = (row + _hash(_hash(keys, round_number + 1), column) % height) % height
    return row * width + column


def _hash(key: np.ndarray, value: np.ndarray | int) -> np.ndarray:
    """Returns 64 well-mixed bits of (key, value), with the finaliser of SplitMix64."""
    with np.errstate(over="ignore"):
        z = key ^ (np.asarray(value).astype(_U64) + _U64(1)) * _U64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> _U64(27))) * _U64(0x94D049BB133111EB)
        return z ^ (z >> _U64(31))
