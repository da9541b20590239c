"""The images of a source: read several at a time, in order, and checked."""

import collections
import concurrent.futures
import dataclasses
import errno
import os
import pathlib
import tarfile
from collections.abc import Iterator

from mixer.data.image_check import image_problem, size_problem
from mixer.data.prepare.sources import ClassFiles, is_image, is_utf8, listing


@dataclasses.dataclass(frozen=True)
class _Image:
    """An image to be checked: its bytes, or the file to read them from, or why there are none."""

    class_name: str
    name: str
    where: str
    content: bytes | pathlib.Path = b""
    problem: str = ""


def checked_images(
    classes: list[ClassFiles], check: str, ignored: collections.Counter[str]
) -> Iterator[tuple[_Image, bytes, str]]:
    """Yields each image, its bytes, and why it is unreadable ("" if it is not).

    Counts the members of tar files that are no images in `ignored`.

    Raises:
      ValueError: a member of a tar file has an absolute path or one with `..`.
    """
    most_waiting = 4 * (os.cpu_count() or 1)  # bounds what is held in memory
    window: collections.deque[concurrent.futures.Future] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for files in classes:
            is_folder = files.path.is_dir()
            for image in _folder_images(files) if is_folder else _tar_images(files, ignored):
                window.append(pool.submit(_read_and_check, image, check))
                if len(window) > most_waiting:
                    yield window.popleft().result()
        while window:
            yield window.popleft().result()


def _folder_images(files: ClassFiles) -> Iterator[_Image]:
    for entry in listing(files.path):
        if is_image(entry.name):
            yield _Image(files.class_name, entry.name, entry.path, pathlib.Path(entry.path))


def _tar_images(files: ClassFiles, ignored: collections.Counter[str]) -> Iterator[_Image]:
    """Yields the images of a tar file in its order."""
    label, seen = files.class_name, set()
    try:
        with tarfile.open(files.path, "r|") as archive:
            for member in archive:
                path = pathlib.PurePosixPath(member.name)
                where = f"{files.path}:{member.name}"
                if path.is_absolute() or ".." in path.parts:
                    raise ValueError(
                        f"Expected paths inside the archive; got {member.name!r} in {files.path}. "
                        "Such an archive is not to be trusted."
                    )
                if member.isdir() or path.name.startswith("."):
                    continue
                if not is_image(path.name):
                    ignored[path.suffix] += 1
                    continue
                file = archive.extractfile(member) if member.isfile() else None
                if file is None:
                    content, problem = b"", "is a link or a device, not a file"
                elif problem := size_problem(member.size):  # holes take no room in the archive
                    content = b""
                else:
                    content, problem = file.read(), "is there twice" if path in seen else ""
                yield _Image(label, str(path), where, content, problem)
                seen.add(path)
    except (tarfile.TarError, OSError, EOFError) as error:
        yield _Image(label, "", str(files.path), problem=f"is a broken tar file: {error}")


def tar_problem(path: pathlib.Path) -> str:
    """Returns "" if a tar file can be read and ends as it should, with two blocks of zeros.

    One that was cut short between two members would otherwise read as complete.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - 1024, 0))
            is_whole = file.read() == bytes(1024)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if is_whole else "is a tar file without its end: cut short"


def _read_and_check(image: _Image, check: str) -> tuple[_Image, bytes, str]:
    if image.problem:
        return image, b"", image.problem
    content = image.content
    if isinstance(content, pathlib.Path):
        try:
            if problem := size_problem(content.stat().st_size):
                return image, b"", problem
            content = content.read_bytes()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise  # that is not the file's fault
            return image, b"", f"cannot be read: {error.strerror}"
    if not is_utf8(image.name):
        return image, b"", "has a name that is not UTF-8"
    return image, content, image_problem(content, check)
