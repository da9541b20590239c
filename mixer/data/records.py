"""Random access to the records of a TFDS split: index in, serialized example out."""

import hashlib
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource


class Records:
    """The serialized examples of one split, in the order in which they lie on disk.

    A split is anything that TFDS can slice: `train`, `train[:99%]`, `test[100:200]`.

    Raises:
      ValueError: the split does not exist, is empty, or does not lie in ArrayRecord files.
    """

    def __init__(self, info: tfds.core.DatasetInfo, split: str):
        try:
            self._files = info.splits[split].file_instructions
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"Unknown split {split!r} of the dataset {info.full_name}. Expected one of: "
                f"{', '.join(info.splits)}, or a slice such as {next(iter(info.splits))}[:90%]."
            ) from error
        if info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
            raise ValueError(
                f"Expected {info.full_name} in ArrayRecord files; found {info.file_format} in "
                f"{info.data_dir}. Prepare it again with file_format='array_record'."
            )
        if not self._files:
            raise ValueError(f"The split {split!r} of {info.full_name} holds no example.")
        self._source = ArrayRecordDataSource(self._files)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: np.ndarray) -> Sequence[bytes]:
        """Returns the records at `indices` (`int64 [n]`, in `range(len(self))`), in that order."""
        return self._source.__getitems__(indices.tolist())

    def fingerprint(self) -> str:
        """Returns a hash of the names, sizes and slices of the files: another if the data changed.

        The bytes themselves are not read; ArrayRecord checks those whenever it reads.
        """
        parts = [
            f"{file.basename()}:{pathlib.Path(file.filename).stat().st_size}:{file.skip}:{file.take}"
            for file in self._files
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
