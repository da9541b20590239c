"""Reads untrusted NumPy archives (.npz).

Array headers are read first and checked against the sizes of the archive members. The caller then
checks the shapes, and only after that is any array data decompressed. Nothing is ever unpickled.
"""

import dataclasses
import math
import pathlib
import zipfile

import ml_dtypes
import numpy as np
from numpy.lib import format as npy

# The uncompressed size may be at most this multiple of the file size plus this many bytes. Trained
# weights barely compress; arrays of zeros do, but are small. A zip bomb reaches a ratio of 1,000.
_MAX_RATIO = 100
_MAX_SURPLUS = 64 * 2**20

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclasses.dataclass(frozen=True)
class Header:
    """The header of an array, and the location of its data."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool
    member: zipfile.ZipInfo
    offset: int  # of the data within the member, in bytes


class NpzArchive:
    """A context manager for the .npz file at `path`; `headers` maps array names to headers.

    Raises:
      ValueError: the file is not an archive of plain arrays, or declares implausible sizes.
    """

    def __init__(self, path: pathlib.Path):
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise ValueError(
                "Expected an archive of arrays (.npz, a zip file); got something else, or an "
                f"incomplete one: {error}. Copy or download the file again."
            ) from error
        try:
            self.headers = self._read_headers(path.stat().st_size)
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> "NpzArchive":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._zip.close()

    def _read_headers(self, file_size: int) -> dict[str, Header]:
        members = self._zip.infolist()
        claimed = sum(member.file_size for member in members)
        most = _MAX_RATIO * file_size + _MAX_SURPLUS
        if claimed > most:
            raise ValueError(
                f"Expected at most {most:,} bytes of data in a file of {file_size:,} bytes; it "
                f"claims {claimed:,}. It could exhaust memory: do not use it."
            )
        headers: dict[str, Header] = {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name == member.filename or name in headers or ".." in name.split("/"):
                raise ValueError(
                    f"Expected unique members like 'stem/kernel.npy'; got {_name(member)}. Write "
                    "the file with numpy.savez."
                )
            headers[name] = self._read_header(member)
        return headers

    def _read_header(self, member: zipfile.ZipInfo) -> Header:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(
                f"Expected stored or deflated members; {_name(member)} has compression type "
                f"{member.compress_type}. Write the file with numpy.savez."
            )
        try:
            with self._zip.open(member) as file:
                version = npy.read_magic(file)
                if version != (1, 0):  # later versions allow headers of 4 GiB
                    raise ValueError(f"format version {version} instead of (1, 0)")
                shape, fortran_order, dtype = npy.read_array_header_1_0(file)
                offset = file.tell()
        except Exception as error:  # zipfile, zlib and ast raise many types on damaged bytes
            raise _damaged(member, error) from error
        if dtype.hasobject:
            raise ValueError(
                f"Expected arrays of floats; {_name(member)} holds pickled objects, which can run "
                "arbitrary code when loaded. Save it as an array of float32."
            )
        claimed = offset + math.prod(shape) * dtype.itemsize
        if claimed != member.file_size:
            raise _damaged(member, f"it claims {claimed:,} bytes and has {member.file_size:,}")
        return Header(shape, dtype, fortran_order, member, offset)

    def read(self, name: str) -> np.ndarray:
        """Returns the named array as float32.

        The untyped 2-byte dtype is read as bfloat16, which is how NumPy stores that type.

        Raises:
          ValueError: the data are damaged or not floats.
        """
        header = self.headers[name]
        dtype = _BFLOAT16 if header.dtype == np.dtype("V2") else header.dtype
        if dtype.kind != "f" and dtype != _BFLOAT16:
            raise ValueError(
                f"Expected arrays of floats; {_name(header.member)} has type {dtype}. Save it as "
                "float32."
            )
        size = header.member.file_size - header.offset
        try:
            with self._zip.open(header.member) as file:
                file.read(header.offset)
                # Reading to the end verifies the checksum. The explicit size matters: without it,
                # zipfile decompresses up to 2 GiB at once, whatever size the member declares.
                data = file.read(size)
        except Exception as error:  # any type, as in _read_header
            raise _damaged(header.member, error) from error
        if len(data) != size:
            raise _damaged(header.member, f"{len(data):,} bytes of data instead of {size:,}")
        array = np.frombuffer(data, dtype)
        array = array.reshape(header.shape, order="F" if header.fortran_order else "C")
        with np.errstate(over="ignore"):  # `check_finite` names what overflows
            return np.array(array, np.float32, order="C")


def _name(member: zipfile.ZipInfo) -> str:
    return ascii(member.filename[:100])


def _damaged(member: zipfile.ZipInfo, reason: object) -> ValueError:
    return ValueError(
        f"Expected an intact array in {_name(member)}; got a damaged one: {str(reason)[:300]}. "
        "Copy or download the file again."
    )
