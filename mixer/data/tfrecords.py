"""Random access to TFRecord files through an index of their record lengths.

A TFRecord file is a sequence of records without a table of contents. Each record is
    length (8 bytes) | checksum of the length (4) | data | checksum of the data (4).
The index is made once by reading the headers. It is stored next to the data or, if that folder is
read-only, in the cache directory. Files may be local or on any file system that TensorFlow supports
(`gs://`), from which many reads are in flight at once.
"""

import concurrent.futures
import hashlib
import io
import os
import pathlib
import struct
import zipfile
from collections.abc import Sequence

import google_crc32c
import numpy as np
import rich.progress
import tensorflow as tf

from mixer.data.records import DamagedExample, Files

_HEADER = struct.Struct("<QI")  # length, its checksum
_FOOTER = struct.Struct("<I")  # checksum of the data
_BLOCK = 2**24  # bytes per read when scanning a remote file
_READS_IN_FLIGHT = 64


class TFRecords:
    """The serialized examples in TFRecord files."""

    def __init__(self, files: Files, cache_dir: pathlib.Path | None = None):
        """Loads the index, or makes it and stores it next to the data or in `cache_dir`.

        Raises:
          DamagedExample: the headers are damaged, or the number of records is wrong.
        """
        self._files = files
        self._lengths = _load_or_make_index(files, cache_dir or _default_cache_dir())
        self._offsets = [
            np.cumsum(lengths + _HEADER.size + _FOOTER.size) - lengths - _FOOTER.size
            for lengths in self._lengths
        ]
        self._pool = concurrent.futures.ThreadPoolExecutor(_READS_IN_FLIGHT)
        self.locate = files.locate
        self.num_bytes = files.num_bytes
        self.fingerprint = files.fingerprint

    def __len__(self) -> int:
        return int(self._files.ends[-1])

    def read(self, indices: np.ndarray) -> Sequence[bytes]:
        is_remote = "://" in self._files.paths[0]
        read_all = self._pool.map if is_remote else map
        return list(read_all(self._read_one, indices.tolist()))

    def _read_one(self, index: int) -> bytes:
        file, position = self._files.position(index)
        offset = int(self._offsets[file][position])
        length = int(self._lengths[file][position])
        raw = _read_range(self._files.paths[file], offset, length + _FOOTER.size)
        data = raw[:length]
        if len(raw) != length + _FOOTER.size or _FOOTER.unpack(raw[length:]) != (_mask(data),):
            raise DamagedExample(f"The checksum of {self.locate(index)} does not match its data.")
        return data


def _read_range(path: str, offset: int, size: int) -> bytes:
    if "://" in path:
        with tf.io.gfile.GFile(path, "rb") as file:
            file.seek(offset)
            return file.read(size)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)


def _mask(data: bytes) -> int:
    """Returns the masked CRC-32C of the data, as the TFRecord format stores it."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _load_or_make_index(files: Files, cache_dir: pathlib.Path) -> list[np.ndarray]:
    """Returns the record lengths (int64 `[n]`) of each file."""
    key = hashlib.sha256("\n".join(files.paths).encode()).hexdigest()[:16]
    beside = f"{os.path.dirname(files.paths[0])}/.record_index-{key}.npz"
    candidates = [beside, str(cache_dir / f"record_index-{key}.npz")]
    for path in candidates:
        if tf.io.gfile.exists(path) and (lengths := _load_index(path, files)) is not None:
            return lengths
    lengths = _make_index(files)
    for path in candidates:
        try:
            _save_index(path, files, lengths)
            break
        except (OSError, tf.errors.OpError):
            continue  # not writable: try the next folder
    return lengths


def _load_index(path: str, files: Files) -> list[np.ndarray] | None:
    """Returns the index, or None if it cannot be read or the files have changed since."""
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            content = io.BytesIO(file.read())
        examples = sum(instruction.examples_in_shard for instruction in files.instructions)
        with zipfile.ZipFile(content) as archive:  # check the claimed size before inflating
            if sum(member.file_size for member in archive.infolist()) > 32 * examples + 2**20:
                return None
        index = np.load(content)
        if index["sizes"].tolist() != files.sizes():
            return None
        lengths = np.split(index["lengths"], np.cumsum(index["counts"])[:-1])
    except (ValueError, KeyError, OSError, EOFError, MemoryError, zipfile.BadZipFile):
        return None
    except tf.errors.OpError:
        return None
    ends = [int(np.sum(part + _HEADER.size + _FOOTER.size)) for part in lengths]
    return lengths if ends == files.sizes() else None


def _save_index(path: str, files: Files, lengths: list[np.ndarray]) -> None:
    tf.io.gfile.makedirs(os.path.dirname(path))
    content = io.BytesIO()
    counts = [len(part) for part in lengths]
    np.savez(content, lengths=np.concatenate(lengths), counts=counts, sizes=files.sizes())
    with tf.io.gfile.GFile(f"{path}.tmp-{os.getpid()}", "wb") as file:
        file.write(content.getvalue())
    tf.io.gfile.rename(f"{path}.tmp-{os.getpid()}", path, overwrite=True)


def _make_index(files: Files) -> list[np.ndarray]:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        scans = pool.map(_scan, files.paths, files.sizes())
        lengths = list(
            rich.progress.track(
                scans, "Indexing TFRecord files (once)", len(files.paths), transient=True
            )
        )
    for path, found, instruction in zip(files.paths, lengths, files.instructions, strict=True):
        if len(found) != instruction.examples_in_shard:
            raise DamagedExample(
                f"Expected {instruction.examples_in_shard} records in {path}, as in its metadata; "
                f"found {len(found)}. Prepare the dataset again."
            )
    return lengths


def _scan(path: str, size: int) -> np.ndarray:
    """Returns the record lengths (int64 `[n]`) of a file; verifies the headers."""
    lengths: list[int] = []
    offset = 0
    # A local file is read header by header, a remote one in large blocks.
    step = _BLOCK if "://" in path else _HEADER.size
    block, block_start = b"", 0
    while offset < size:
        if not block_start <= offset <= block_start + len(block) - _HEADER.size:
            block, block_start = _read_range(path, offset, step), offset
        header = block[offset - block_start :][: _HEADER.size]
        if len(header) < _HEADER.size or _mask(header[:8]) != _HEADER.unpack(header)[1]:
            raise DamagedExample(f"The header of record {len(lengths)} of {path} is damaged.")
        lengths.append(_HEADER.unpack(header)[0])
        offset += _HEADER.size + lengths[-1] + _FOOTER.size
        if offset > size:
            raise DamagedExample(f"Record {len(lengths) - 1} of {path} is longer than the file.")
    return np.array(lengths, np.int64)


def _default_cache_dir() -> pathlib.Path:
    root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(root) / "mixer"
