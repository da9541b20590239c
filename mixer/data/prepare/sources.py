"""The images of a source, from folders and tar files, read and checked."""

import collections
import concurrent.futures
import dataclasses
import os
import pathlib
import tarfile
from collections.abc import Iterator

from mixer.data.file_names import is_image, shown
from mixer.data.folder import LAYOUTS, ClassFiles
from mixer.data.image_check import image_problem, read_image, size_problem


@dataclasses.dataclass(frozen=True)
class SourceImage:
    """An image still to be checked: its bytes, the file that holds them, or why it has none."""

    class_name: str
    name: str  # in the folder or tar file of the class
    where: str  # for people
    content: bytes | pathlib.Path = b""
    problem: str = ""


def checked_images(
    classes: list[ClassFiles], check: str, ignored: collections.Counter[str]
) -> Iterator[tuple[SourceImage, bytes, str]]:
    """Yields each image, its bytes, and what is wrong with it ("" if nothing is), in order.

    Several threads read ahead. Counts tar members that are not images by suffix in `ignored`.

    Raises:
      ValueError: a tar member has an absolute path or one with `..`, or the images of a tar file
        are in several folders.
    """
    max_waiting = 4 * (os.cpu_count() or 1)  # bounds the bytes held in memory
    window: collections.deque[concurrent.futures.Future] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for files in classes:
            for image in _tar_images(files, ignored) if files.is_tar else _folder_images(files):
                window.append(pool.submit(_read_and_check, image, check))
                if len(window) > max_waiting:
                    yield window.popleft().result()
        while window:
            yield window.popleft().result()


def _folder_images(files: ClassFiles) -> Iterator[SourceImage]:
    for name in files.images:
        path = files.path / name
        yield SourceImage(files.class_name, shown(name), shown(str(path)), path)


def _tar_images(files: ClassFiles, ignored: collections.Counter[str]) -> Iterator[SourceImage]:
    """Yields the images of a tar file in its order; all must be in one folder of it, or in none."""
    label, seen = files.class_name, set[pathlib.PurePosixPath]()
    try:
        with tarfile.open(files.path, "r|") as archive:
            for member in archive:
                path = pathlib.PurePosixPath(member.name)
                where = f"{files.path}:{member.name}"
                if path.is_absolute() or ".." in path.parts:
                    raise ValueError(
                        f"Expected paths inside the archive; got {member.name!r} in {files.path}. "
                        "Do not trust this archive."
                    )
                if member.isdir() or path.name.startswith("."):
                    continue
                if not is_image(path.name):
                    ignored[path.suffix] += 1
                    continue
                other = next(iter(seen), path)
                if other.parent != path.parent:
                    raise ValueError(
                        f"Expected the images of one class in {files.path}, all in one folder; "
                        f"got {shown(str(other))!r} and {shown(str(path))!r}. Unpack it. "
                        f"Expected: {LAYOUTS}."
                    )
                file = archive.extractfile(member) if member.isfile() else None
                if file is None:
                    content, problem = b"", "is a link or a device, not a file"
                elif problem := size_problem(member.size):  # a sparse member can claim any size
                    content = b""
                else:
                    content, problem = file.read(), "is there twice" if path in seen else ""
                yield SourceImage(label, shown(str(path)), shown(where), content, problem)
                seen.add(path)
    except (tarfile.TarError, OSError, EOFError) as error:
        yield SourceImage(label, "", str(files.path), problem=f"is a broken tar file: {error}")


def tar_problem(path: pathlib.Path) -> str:
    """Returns "" if a tar file can be read and ends with two blocks of zeros, else what is wrong.

    A file truncated between two members would otherwise read as complete.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - 1024, 0))
            is_whole = file.read() == bytes(1024)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if is_whole else "is a tar file without its end: cut short"


def _read_and_check(image: SourceImage, check: str) -> tuple[SourceImage, bytes, str]:
    if image.problem:
        return image, b"", image.problem
    content = image.content
    if isinstance(content, pathlib.Path):
        content, problem = read_image(content)
        if problem:
            return image, b"", problem
    return image, content, image_problem(content, check)
