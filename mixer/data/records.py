"""Random access to the examples of a split: indices in, encoded examples out.

Whatever the files are, a split is a `Records`: a length, `read`, and a way to say where an example
lies. The kinds of files are siblings: ArrayRecord here, TFRecord in `tfrecords.py`, images in
folders in `folder.py`; `RandomSubset` and `CachedRecords` stand on top of any of them.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import psutil
import tensorflow as tf
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

from mixer.data.order import permute, subset_size


class DamagedExample(ValueError):
    """An example that cannot be read or decoded; says which, where it lies and what is wrong."""


class Records(Protocol):
    """The examples of one split, in the order in which they lie on disk."""

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> Sequence[bytes]:
        """Returns the examples at `indices` (`int64 [n]`), in that order; checksums are verified.

        Raises:
          Exception: of any kind, if an example is damaged. `locate` tells where each one lies.
        """
        ...

    def locate(self, index: int) -> str:
        """Returns where an example lies, for people: file and position in it."""
        ...

    def num_bytes(self) -> int:
        """Returns the size of the examples on disk, in bytes."""
        ...

    def fingerprint(self) -> str:
        """Returns a hash of the names and sizes of the files: another if the data changed.

        The bytes themselves are not read for it.
        """
        ...


class Files:
    """The files of a split, or of a slice of it: names, sizes, and which examples of each."""

    def __init__(self, instructions: Sequence[tfds.core.utils.shard_utils.FileInstruction]):
        self.instructions = instructions
        self.paths = [str(instruction.filename) for instruction in instructions]
        self.ends = np.cumsum([instruction.take for instruction in instructions])
        self._sizes: list[int] | None = None

    def sizes(self) -> list[int]:
        """Returns the sizes of the whole files in bytes."""
        if self._sizes is None:
            self._sizes = [tf.io.gfile.stat(path).length for path in self.paths]
        return self._sizes

    def position(self, index: int) -> tuple[int, int]:
        """Returns the number of the file and the position in that file of an example."""
        file = int(np.searchsorted(self.ends, index, side="right"))
        before = int(self.ends[file - 1]) if file else 0
        return file, index - before + self.instructions[file].skip

    def locate(self, index: int) -> str:
        file, position = self.position(index)
        return f"record {position} of {self.paths[file]}"

    def num_bytes(self) -> int:
        return sum(
            size * instruction.take // instruction.examples_in_shard
            for size, instruction in zip(self.sizes(), self.instructions, strict=True)
        )

    def fingerprint(self) -> str:
        parts = [
            f"{instruction.basename()}:{size}:{instruction.skip}:{instruction.take}"
            for size, instruction in zip(self.sizes(), self.instructions, strict=True)
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


class ArrayRecords:
    """The serialized examples in ArrayRecord files, whose chunks carry their own checksums."""

    def __init__(self, files: Files):
        remote = [path for path in files.paths if "://" in path]
        if remote:
            raise ValueError(
                f"Expected ArrayRecord files on a local path; got {remote[0]}. Its reader knows no "
                "other file system: mount the bucket, copy the files, or use TFRecord files there."
            )
        self._files = files
        self._source = ArrayRecordDataSource(files.instructions)
        self.locate = files.locate
        self.num_bytes = files.num_bytes
        self.fingerprint = files.fingerprint

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: np.ndarray) -> Sequence[bytes]:
        return self._source.__getitems__(indices.tolist())


class RandomSubset:
    """A fixed random part of the examples, for the study of the size of the data (Figure 2).

    The same examples on every machine and in every run; a smaller fraction is contained in a larger
    one.
    """

    def __init__(self, records: Records, fraction: float):
        self._records = records
        self._fraction = fraction
        self._chosen = np.arange(subset_size(len(records), fraction))

    def __len__(self) -> int:
        return len(self._chosen)

    def _original(self, indices: np.ndarray) -> np.ndarray:
        sizes = np.full(len(indices), len(self._records))
        return permute(self._chosen[indices], sizes, np.zeros(len(indices), np.uint64))

    def read(self, indices: np.ndarray) -> Sequence[bytes]:
        return self._records.read(self._original(indices))

    def locate(self, index: int) -> str:
        return self._records.locate(int(self._original(np.array([index]))[0]))

    def num_bytes(self) -> int:
        return round(self._records.num_bytes() * self._fraction)

    def fingerprint(self) -> str:
        return f"{self._records.fingerprint()}*{self._fraction}"


class CachedRecords:
    """Examples held in memory as they are encoded on disk, filled at once.

    Raises:
      ValueError: the examples at `indices` would not fit into four fifths of the free memory.
    """

    def __init__(self, records: Records, indices: np.ndarray, say: Callable[[str], None]):
        size = round(records.num_bytes() * len(indices) / len(records))
        free = psutil.virtual_memory().available
        gib = 2**30
        if size > 0.8 * free:
            raise ValueError(
                f"Expected room for {size / gib:.1f} GiB of raw examples in 80% of the free "
                f"memory; {free / gib:.1f} GiB are free. Use cache='none', or more hosts."
            )
        say(f"Reading {len(indices):,} examples ({size / gib:.2f} GiB) into memory.")
        self._records = records
        self._cached: dict[int, bytes] = {}
        for part in np.array_split(indices, max(1, len(indices) // 1024)):
            self._cached |= zip(part.tolist(), records.read(part), strict=True)
        self.locate = records.locate
        self.num_bytes = records.num_bytes
        self.fingerprint = records.fingerprint

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: np.ndarray) -> Sequence[bytes]:
        return [self._cached[index] for index in indices.tolist()]
