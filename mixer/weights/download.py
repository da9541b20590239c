"""Downloads one large file: resumable, checked, and published only once complete."""

import email.utils
import hashlib
import json
import os
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Callable
from typing import BinaryIO

import requests
import rich.console
import rich.progress

from mixer.runtime.file_lock import file_lock

MIB = 2**20
_CHUNK_BYTES = 2**18
_TIMEOUT_SECONDS = 60.0  # without receiving a byte
_SECONDS_PER_LINE = 10.0  # of progress, when stderr is not a terminal


def download(
    url: str,
    path: pathlib.Path,
    *,
    mebibytes: float | None = None,
    check: Callable[[pathlib.Path], None] | None = None,
) -> None:
    """Downloads `url` to `path`, which appears only once the download is complete.

    Until then the bytes are in `PATH.part`. There the next call resumes, if the server supports
    range requests and still has the file that `PATH.part.source` describes. The checksum is written
    to `PATH.sha256`, for `sha256sum -c`. A second process that downloads the same file waits for
    the first.

    Args:
      url: an http or https URL.
      path: the file to create; missing parent folders are created.
      mebibytes: the published size in MiB, to two decimals; None skips the size check.
      check: raises ValueError for the path of a complete file that is not what it should be.

    Raises:
      ValueError: the server does not have the expected file, or the disk is too full for it.
      OSError: the connection was lost, or the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")

    def wait() -> None:
        print(f"Waiting for the process that writes {part}", file=sys.stderr, flush=True)

    with file_lock(part, wait), part.open("ab") as file:
        if path.exists():  # downloaded by the process that held the lock
            part.unlink(missing_ok=True)
            _source_of(part).unlink(missing_ok=True)
            return
        _complete(url, file, mebibytes)
        try:
            if check:
                check(part)
        except ValueError:
            file.truncate(0)  # or the next call would go on with it
            raise
        with part.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        os.fsync(file.fileno())
        path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
        part.rename(path)
        _source_of(part).unlink(missing_ok=True)


def check_size(num_bytes: int, mebibytes: float | None) -> None:
    """Raises ValueError if the size, rounded to 0.01 MiB, is not the published one.

    If `mebibytes` is None, there is no published size, and any size passes.
    """
    if mebibytes is not None and round(num_bytes / MIB, 2) != mebibytes:
        raise ValueError(f"Expected a file of {mebibytes} MiB; got {num_bytes / MIB:.2f} MiB.")


def _source_of(part: str | pathlib.Path) -> pathlib.Path:
    """Returns the file that describes what the server has: `total`, `etag` and `modified`."""
    return pathlib.Path(f"{part}.source")


def _complete(url: str, file: BinaryIO, mebibytes: float | None) -> None:
    """Appends the missing bytes to `file`, or rewrites it if the download cannot be resumed."""
    source = _source_of(file.name)
    response, done = _get_rest(url, file, _read_source(source))
    with response:
        if response.status_code not in (200, 206):
            raise ValueError(f"The server returned {response.status_code} {response.reason}.")
        if response.status_code == 206 and _first_byte(response) != done:
            raise ValueError("The server sent another part of the file than was asked for.")
        described = _describe(response)
        total = described["total"]
        check_size(total, mebibytes)
        if response.status_code == 200:
            file.truncate(0)
        source.write_text(json.dumps(described))
        done = os.fstat(file.fileno()).st_size
        free = shutil.disk_usage(file.name).free
        if free < total - done:
            raise ValueError(
                f"Expected {(total - done) / MIB:,.1f} MiB free at {file.name}; got "
                f"{free / MIB:,.1f} MiB. Free some space."
            )
        print(f"Downloading {url} ({total / MIB:,.2f} MiB)", file=sys.stderr, flush=True)
        received = _append(response, file, done, total)
    if received != total:
        file.truncate(0)
        raise ValueError(f"The server did not send the {total:,} bytes it announced.")


def _get_rest(url: str, file: BinaryIO, described: dict) -> tuple[requests.Response, int]:
    """Returns the response with what is missing, or with all, and the byte it should begin at."""
    status = os.fstat(file.fileno())
    if status.st_size and described:
        response = _get(url, status.st_size, status.st_mtime, described)
        continues = _first_byte(response) == status.st_size and _describe(response) == described
        if response.status_code == 206 and continues:
            return response, status.st_size
        if response.status_code not in (206, 412, 416):  # all of it, or an error
            return response, 0
        response.close()  # changed on the server, or no bytes left to send
    file.truncate(0)
    return _get(url), 0


def _get(
    url: str, done: int = 0, last_write: float = 0.0, described: dict | None = None
) -> requests.Response:
    headers = {"Accept-Encoding": "identity"}  # with compression, the length would differ
    if done and described:
        headers["Range"] = f"bytes={done}-"
        # Released files have been replaced by different ones of the same size.
        date = described["modified"] or email.utils.formatdate(last_write, usegmt=True)
        headers["If-Unmodified-Since"] = date
        if described["etag"].startswith('"'):  # not a weak one
            headers["If-Range"] = described["etag"]
    response = requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS)
    urls = [other.url for other in (*response.history, response)]
    if url.startswith("https:") and not all(other.startswith("https:") for other in urls):
        response.close()
        raise ValueError(f"The server redirects to an address that is not secure: {urls[-1]}.")
    return response


def _first_byte(response: requests.Response) -> int | None:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _describe(response: requests.Response) -> dict:
    """Returns what tells one version of a file from another: `total`, `etag` and `modified`.

    Raises:
      ValueError: it is a web page, or the size is not reported.
    """
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise ValueError("The server returned a web page. Is there a login page or a proxy?")
    partial = response.status_code == 206
    length = response.headers.get("Content-Range" if partial else "Content-Length", "")
    length = length.rpartition("/")[2]  # of "bytes 5-9/10"
    if not length.isdecimal():
        raise ValueError(
            "The server does not report the file's length, so a truncated download would go "
            "unnoticed."
        )
    headers = {"etag": "ETag", "modified": "Last-Modified"}
    return {"total": int(length), **{k: response.headers.get(v, "") for k, v in headers.items()}}


def _read_source(source: pathlib.Path) -> dict:
    """Returns what was written there, or {} if it is not there or damaged."""
    try:
        described = json.loads(source.read_text())
        return {key: described[key] for key in ("total", "etag", "modified")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _append(response: requests.Response, file: BinaryIO, done: int, total: int) -> int:
    """Appends the response to the file, with a progress bar on a terminal, or else log lines.

    Returns the bytes that have arrived. Of more than `total` no more are read or written.
    """
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
            file.write(chunk[: total - done])
            done += len(chunk)
            if done > total:
                break
            bar.update(task, completed=done)
            if not console.is_terminal and time.monotonic() >= next_line:
                next_line = time.monotonic() + _SECONDS_PER_LINE
                console.print(f"  {done / MIB:,.1f} of {total / MIB:,.1f} MiB")
    file.flush()
    return done
