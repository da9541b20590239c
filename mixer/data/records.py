"""Random access to the examples of a split: indices in, encoded examples out.

A split is a `Records`, whatever its files: ArrayRecord here, TFRecord in `tfrecords.py`, folders of
images in `folder_records.py`. `RandomSubset` and `CachedRecords` wrap any of these.
"""

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import psutil
import tensorflow as tf
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

from mixer.data.order import permute, subset_size
from mixer.data.overlap import Piece


class DamagedExample(ValueError):
    """An example cannot be read or decoded; the message says which, where it is and why."""


class Records(Protocol):
    """The examples of one split, in their order on disk."""

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> Sequence[bytes]:
        """Returns the encoded examples at `indices` (int64 `[n]`), in that order.

        Raises:
          Exception: an example is damaged, or its checksum is wrong. The type depends on the files.
        """
        ...

    def locate(self, index: int) -> str:
        """Returns the file of an example and its position in it, for error messages."""
        ...

    def num_bytes(self) -> int:
        """Returns the size of the examples on disk, in bytes."""
        ...

    def fingerprint(self) -> str:
        """Returns a hash of the names and sizes of the files, which shows if the data changed.

        It does not read the bytes of the examples.
        """
        ...


class Files:
    """The files of a split or of a slice of it: names, sizes, and which examples of each file."""

    def __init__(self, instructions: Sequence[tfds.core.utils.shard_utils.FileInstruction]):
        """Takes TFDS's instructions: for each file, how many examples to skip and to take."""
        self.instructions = instructions
        self.paths = [str(instruction.filename) for instruction in instructions]
        self.ends = np.cumsum([instruction.take for instruction in instructions])
        self._sizes: list[int] | None = None

    def sizes(self) -> list[int]:
        """Returns the sizes of the complete files in bytes."""
        if self._sizes is None:
            self._sizes = [tf.io.gfile.stat(path).length for path in self.paths]
        return self._sizes

    def pieces(self) -> list[Piece]:
        """Returns where the examples are: of each file, which ones."""
        return [
            Piece(path, instruction.skip, instruction.skip + instruction.take)
            for path, instruction in zip(self.paths, self.instructions, strict=True)
        ]

    def position(self, index: int) -> tuple[int, int]:
        """Returns the number of an example's file, and its position in that file."""
        file = int(np.searchsorted(self.ends, index, side="right"))
        before = int(self.ends[file - 1]) if file else 0
        return file, index - before + self.instructions[file].skip

    def locate(self, index: int) -> str:
        """Returns the file of an example and its position in it, for error messages."""
        file, position = self.position(index)
        return f"record {position} of {self.paths[file]}"

    def num_bytes(self) -> int:
        """Returns the size of the examples in bytes, in proportion to the sizes of the files."""
        return sum(
            size * instruction.take // instruction.examples_in_shard
            for size, instruction in zip(self.sizes(), self.instructions, strict=True)
        )

    def fingerprint(self) -> str:
        """Returns a hash of the names and sizes of the files, and of which examples are used."""
        parts = [
            f"{instruction.basename()}:{size}:{instruction.skip}:{instruction.take}"
            for size, instruction in zip(self.sizes(), self.instructions, strict=True)
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


class ArrayRecords:
    """The serialized examples in ArrayRecord files, which contain their own checksums."""

    def __init__(self, files: Files):
        """Opens the files.

        Raises:
          ValueError: a file is not on a local path.
        """
        remote = [path for path in files.paths if "://" in path]
        if remote:
            raise ValueError(
                f"Expected ArrayRecord files on a local path; got {remote[0]}, which their reader "
                "cannot open. Mount the bucket, copy the files, or use TFRecord files there."
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
    """A fixed random subset of the examples, for the study of dataset size (Figure 2).

    It is the same on every machine and in every run. A smaller subset is contained in a larger one.
    """

    def __init__(self, records: Records, fraction: float):
        """Chooses `fraction` of the examples; raises ValueError unless it is in (0, 1]."""
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
    """Examples of which those at `indices` (int64 `[n]`) are held in memory, encoded as on disk.

    The others are read from disk: damaged examples, whose use raises the error that names them, and
    the examples that replace them.
    """

    def __init__(self, records: Records, indices: np.ndarray, report: Callable[[str], None]):
        """Passes a line of text to `report`, then reads the examples.

        Raises:
          ValueError: they do not fit into 80% of the free memory.
        """
        size = round(records.num_bytes() * len(indices) / len(records))
        free = psutil.virtual_memory().available
        gib = 2**30
        if size > 0.8 * free:
            raise ValueError(
                f"Expected room for {size / gib:.1f} GiB of raw examples in 80% of the free "
                f"memory; {free / gib:.1f} GiB are free. Use cache='none', or more hosts."
            )
        report(f"Reading {len(indices):,} examples ({size / gib:.2f} GiB) into memory.")
        self._records = records
        self._cached: dict[int, bytes] = {}
        for part in np.array_split(indices, max(1, len(indices) // 1024)):
            try:
                self._cached |= zip(part.tolist(), records.read(part), strict=True)
            except Exception:  # whatever the reader raises for a damaged example
                for index in part.tolist():
                    with contextlib.suppress(Exception):
                        (self._cached[index],) = records.read(np.array([index]))
        self.locate = records.locate
        self.num_bytes = records.num_bytes
        self.fingerprint = records.fingerprint

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: np.ndarray) -> Sequence[bytes]:
        return [
            self._cached[index]
            if index in self._cached
            else self._records.read(indices[i : i + 1])[0]
            for i, index in enumerate(indices.tolist())
        ]
