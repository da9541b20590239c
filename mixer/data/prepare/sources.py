"""A source of images: which splits and classes it holds, and its images, read and checked."""

import collections
import concurrent.futures
import dataclasses
import errno
import os
import pathlib
import re
import tarfile
from collections.abc import Iterator

from mixer.data.image_check import image_problem, size_problem

SPLITS = ("train", "test", "validation", "val")
_SUFFIXES = (".jpg", ".jpeg", ".png")
_LAYOUTS = (
    "SOURCE/CLASS/*.jpg, SOURCE/CLASS.tar, SOURCE/train/CLASS/*.jpg or SOURCE/train/CLASS.tar"
)


@dataclasses.dataclass(frozen=True)
class ClassFiles:
    """The images of one class in one split: a folder, or a tar file."""

    split: str
    class_name: str
    path: pathlib.Path
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class SourceImage:
    """An image still to be checked: its bytes, the file that holds them, or why it has none."""

    class_name: str
    name: str  # in the folder or tar file of the class
    where: str  # for people
    content: bytes | pathlib.Path = b""
    problem: str = ""


def find_classes(source: pathlib.Path, ignored: collections.Counter[str]) -> list[ClassFiles]:
    """Returns the classes of each split of `source`, sorted, one split after the other.

    Counts files that are not images by suffix in `ignored`.

    Raises:
      ValueError: the layout of `source` is unknown.
    """
    if not source.is_dir():
        raise ValueError(f"Expected a folder of images; got {source}. Expected: {_LAYOUTS}.")
    folders = [entry for entry in _listing(source) if entry.is_dir()]
    if not any(entry.name in SPLITS and _holds_classes(entry) for entry in folders):
        return _find_classes_of_split("train", source, ignored)
    for entry in folders:
        if not re.fullmatch(r"[A-Za-z]\w*", entry.name, re.ASCII) or entry.name.lower() == "all":
            raise ValueError(
                f"Expected one folder per split in {source}, named as TFDS names splits; got "
                f"{entry.name!r}. Rename or remove it."
            )
    classes = [_find_classes_of_split(e.name, pathlib.Path(e.path), ignored) for e in folders]
    return [files for split in classes for files in split]


def _holds_classes(split: os.DirEntry[str]) -> bool:
    return any(entry.is_dir() or _is_tar(entry) for entry in _listing(pathlib.Path(split.path)))


def _find_classes_of_split(
    split: str, folder: pathlib.Path, ignored: collections.Counter[str]
) -> list[ClassFiles]:
    found: dict[str, ClassFiles] = {}
    for entry in _listing(folder):
        path = pathlib.Path(entry.path)
        if entry.is_dir():
            files = ClassFiles(split, entry.name, path, _folder_size(path, ignored))
        elif _is_tar(entry):
            files = ClassFiles(split, path.stem, path, _size(entry))
        elif _is_image(entry.name):
            raise ValueError(f"Expected images in class folders; got {path}. Expected: {_LAYOUTS}.")
        else:
            ignored[path.suffix] += 1
            continue
        if files.class_name in found:
            raise ValueError(
                f"Expected one place for each class; got {path} and {found[files.class_name].path}."
            )
        found[files.class_name] = files
    if not found:
        raise ValueError(f"Expected classes in {folder}; it holds none. Expected: {_LAYOUTS}.")
    return list(found.values())


def _folder_size(folder: pathlib.Path, ignored: collections.Counter[str]) -> int:
    num_bytes = 0
    for entry in _listing(folder):
        if entry.is_dir():
            raise ValueError(
                f"Expected images in the class folder {folder}; got the folder {entry.path}. "
                f"Expected: {_LAYOUTS}."
            )
        if _is_image(entry.name):
            num_bytes += _size(entry)
        else:
            ignored[pathlib.Path(entry.name).suffix] += 1
    return num_bytes


def _size(entry: os.DirEntry[str]) -> int:
    return entry.stat().st_size if entry.is_file() else 0  # 0: a broken link


def _listing(folder: pathlib.Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(shown, key=lambda entry: entry.name)


def _is_image(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES) and not pathlib.PurePosixPath(name).name.startswith(".")


def _is_tar(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith(".tar") and not entry.is_dir()


def is_utf8(text: str) -> bool:
    """Returns whether a name, as Python decodes it from the disk, is valid UTF-8."""
    return text == text.encode(errors="replace").decode()


def checked_images(
    classes: list[ClassFiles], check: str, ignored: collections.Counter[str]
) -> Iterator[tuple[SourceImage, bytes, str]]:
    """Yields each image, its bytes, and what is wrong with it ("" if nothing is), in order.

    Several threads read ahead. Counts tar members that are not images by suffix in `ignored`.

    Raises:
      ValueError: a tar member has an absolute path or one with `..`.
    """
    max_waiting = 4 * (os.cpu_count() or 1)  # bounds the bytes held in memory
    window: collections.deque[concurrent.futures.Future] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for files in classes:
            is_folder = files.path.is_dir()
            for image in _folder_images(files) if is_folder else _tar_images(files, ignored):
                window.append(pool.submit(_read_and_check, image, check))
                if len(window) > max_waiting:
                    yield window.popleft().result()
        while window:
            yield window.popleft().result()


def _folder_images(files: ClassFiles) -> Iterator[SourceImage]:
    for entry in _listing(files.path):
        if _is_image(entry.name):
            yield SourceImage(files.class_name, entry.name, entry.path, pathlib.Path(entry.path))


def _tar_images(files: ClassFiles, ignored: collections.Counter[str]) -> Iterator[SourceImage]:
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
                        "Do not trust this archive."
                    )
                if member.isdir() or path.name.startswith("."):
                    continue
                if not _is_image(path.name):
                    ignored[path.suffix] += 1
                    continue
                file = archive.extractfile(member) if member.isfile() else None
                if file is None:
                    content, problem = b"", "is a link or a device, not a file"
                elif problem := size_problem(member.size):  # a sparse member can claim any size
                    content = b""
                else:
                    content, problem = file.read(), "is there twice" if path in seen else ""
                yield SourceImage(label, str(path), where, content, problem)
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
        try:
            if problem := size_problem(content.stat().st_size):
                return image, b"", problem
            content = content.read_bytes()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise  # the machine's limits, not a fault of the file
            return image, b"", f"cannot be read: {error.strerror}"
    if not is_utf8(image.name):
        return image, b"", "has a name that is not UTF-8"
    return image, content, image_problem(content, check)
