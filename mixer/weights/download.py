"""Downloads one large file: resumed where it broke off, checked, and whole or not there."""

import email.utils
import hashlib
import os
import pathlib
import shutil
import sys
import time
from typing import BinaryIO

import requests
import rich.console
import rich.progress

from mixer.runtime.file_lock import file_lock

MIB = 2**20
_CHUNK_BYTES = 2**18
_TIMEOUT_SECONDS = 60.0  # without a byte
_SECONDS_PER_LINE = 10.0


def download(
    url: str, path: pathlib.Path, *, mebibytes: float | None = None, sha256: str | None = None
) -> None:
    """Downloads `url` to `path`, which appears when every byte has arrived and was checked.

    Until then the bytes are in `PATH.part`: the next download goes on from there, if the server
    sends parts of files. `PATH.sha256` is for `sha256sum -c`. A second process that downloads the
    same waits for the first.

    Args:
      mebibytes: the size as published, in MiB to two decimals.
      sha256: of the whole file, in hexadecimal.

    Raises:
      ValueError: the server has another file, or none, or the disk has no room for it.
      OSError: the connection broke off, or the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")

    def wait() -> None:
        print(f"Waiting for the process that writes {part}", file=sys.stderr, flush=True)

    with file_lock(part, wait), part.open("ab") as file:
        if path.exists():  # brought by the process that this one waited for
            part.unlink(missing_ok=True)
            return
        _complete(url, file, mebibytes)
        with part.open("rb") as written:
            found = hashlib.file_digest(written, "sha256").hexdigest()
        if sha256 not in (None, found):
            file.truncate(0)
            raise ValueError(f"Expected a file with the SHA-256 {sha256}; got {found}.")
        os.fsync(file.fileno())
        path.with_name(f"{path.name}.sha256").write_text(f"{found}  {path.name}\n")
        part.rename(path)


def check_size(num_bytes: int, mebibytes: float | None) -> None:
    """Raises ValueError unless that is the published size, or none was published."""
    if mebibytes is not None and round(num_bytes / MIB, 2) != mebibytes:
        raise ValueError(f"Expected a file of {mebibytes} MiB; got {num_bytes / MIB:.2f} MiB.")


def _complete(url: str, file: BinaryIO, mebibytes: float | None) -> None:
    """Appends to `file` what it lacks, or writes it anew."""
    status = os.fstat(file.fileno())
    response = _get(url, status.st_size, status.st_mtime)
    if response.status_code in (412, 416):  # published anew since, or nothing is left to send
        response.close()
        response = _get(url)
    with response:
        if response.status_code not in (200, 206):
            raise ValueError(f"The server answers {response.status_code} {response.reason}.")
        total = _total_bytes(response)
        check_size(total, mebibytes)
        if response.status_code == 200:
            file.truncate(0)
        done = os.fstat(file.fileno()).st_size
        free = shutil.disk_usage(file.name).free
        if free < total - done:
            raise ValueError(
                f"Expected {(total - done) / MIB:,.1f} MiB free at {file.name}; got "
                f"{free / MIB:,.1f} MiB. Free some."
            )
        print(f"Downloading {url} ({total / MIB:,.2f} MiB)", file=sys.stderr, flush=True)
        _append(response, file, done, total)
    if os.fstat(file.fileno()).st_size != total:
        file.truncate(0)
        raise ValueError(f"The server sent other bytes than the {total:,} that it promised.")


def _get(url: str, done: int = 0, last_write: float = 0.0) -> requests.Response:
    headers = {"Accept-Encoding": "identity"}  # compressed, the length would not be the file's
    if done:
        headers["Range"] = f"bytes={done}-"
        # Released files have been replaced by others of the same size.
        headers["If-Unmodified-Since"] = email.utils.formatdate(last_write, usegmt=True)
    return requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS)


def _total_bytes(response: requests.Response) -> int:
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise ValueError("The server answers with a web page. Is there a log-in or a proxy?")
    partial = response.status_code == 206
    length = response.headers.get("Content-Range" if partial else "Content-Length", "")
    length = length.rpartition("/")[2]  # of "bytes 5-9/10"
    if not length.isdecimal():
        raise ValueError("The server does not say how long the file is, so an end proves nothing.")
    return int(length)


def _append(response: requests.Response, file: BinaryIO, done: int, total: int) -> None:
    """Writes the bytes that arrive and shows how many: a bar on a terminal, else some lines."""
    console = rich.console.Console(stderr=True, highlight=False, soft_wrap=True)
    bar = rich.progress.Progress(
        rich.progress.BarColumn(bar_width=20),
        rich.progress.DownloadColumn(binary_units=True),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    task = bar.add_task("", total=total, completed=done)
    next_line = time.monotonic() + _SECONDS_PER_LINE
    with bar:
        for chunk in response.iter_content(_CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            bar.update(task, completed=done)
            if not console.is_terminal and time.monotonic() >= next_line:
                next_line = time.monotonic() + _SECONDS_PER_LINE
                console.print(f"  {done / MIB:,.1f} of {total / MIB:,.1f} MiB")
    file.flush()
