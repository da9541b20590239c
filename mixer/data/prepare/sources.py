"""Which classes of which splits lie where in a source of images, and the labels they get."""

import collections
import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence

from mixer.data.table import DATASETS
from mixer.errors import nearest

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


def find_classes(source: pathlib.Path, ignored: collections.Counter[str]) -> list[ClassFiles]:
    """Returns what `source` holds, and counts other files in `ignored`.

    Raises:
      ValueError: `source` is not laid out as it should be.
    """
    if not source.is_dir():
        raise ValueError(f"Expected a folder of images; got {source}. Expected: {_LAYOUTS}.")
    folders = [entry for entry in listing(source) if entry.is_dir()]
    if not any(entry.name in SPLITS and _holds_classes(entry) for entry in folders):
        return _find_classes_of_split("train", source, ignored)
    for entry in folders:
        if not re.fullmatch(r"[A-Za-z]\w*", entry.name, re.ASCII) or entry.name.lower() == "all":
            raise ValueError(
                f"Expected a folder for each split in {source}, named as TFDS names splits; got "
                f"{entry.name!r}. Rename or remove it."
            )
    classes = [_find_classes_of_split(e.name, pathlib.Path(e.path), ignored) for e in folders]
    return [files for split in classes for files in split]


def _holds_classes(split: os.DirEntry[str]) -> bool:
    return any(entry.is_dir() or _is_tar(entry) for entry in listing(pathlib.Path(split.path)))


def _find_classes_of_split(
    split: str, folder: pathlib.Path, ignored: collections.Counter[str]
) -> list[ClassFiles]:
    found: dict[str, ClassFiles] = {}
    for entry in listing(folder):
        path = pathlib.Path(entry.path)
        if entry.is_dir():
            files = ClassFiles(split, entry.name, path, _folder_size(path, ignored))
        elif _is_tar(entry):
            files = ClassFiles(split, path.stem, path, _size(entry))
        elif is_image(entry.name):
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
    for entry in listing(folder):
        if entry.is_dir():
            raise ValueError(
                f"Expected images in the class folder {folder}; got the folder {entry.path}. "
                f"Expected: {_LAYOUTS}."
            )
        if is_image(entry.name):
            num_bytes += _size(entry)
        else:
            ignored[pathlib.Path(entry.name).suffix] += 1
    return num_bytes


def _size(entry: os.DirEntry[str]) -> int:
    return entry.stat().st_size if entry.is_file() else 0  # 0: a broken link


def listing(folder: pathlib.Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(shown, key=lambda entry: entry.name)


def is_image(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES) and not pathlib.PurePosixPath(name).name.startswith(".")


def _is_tar(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith(".tar") and not entry.is_dir()


def read_class_names(path: str) -> list[str]:
    """Returns the lines of a file, without the empty ones: one class name each."""
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]


def label_names(
    dataset: str, class_names: Sequence[str] | None, classes: list[ClassFiles]
) -> list[str]:
    """Returns the classes in the order of their labels.

    Raises:
      ValueError: a name occurs twice, is not a line of text, or a class of the source is missing;
        the dataset is known with another number of classes.
    """
    found = {files.class_name: files.path for files in classes}
    names = sorted(found) if class_names is None else list(class_names)
    if repeated := [name for name, count in collections.Counter(names).items() if count > 1]:
        raise ValueError(
            f"Expected every class once in the list; got twice: {', '.join(repeated[:5])}."
        )
    for name in names:
        if not name or name != name.strip() or len(name.splitlines()) > 1 or not is_utf8(name):
            raise ValueError(f"Expected class names to be a line of UTF-8 text; got {name!r}.")
    known = set(names)
    if unknown := [name for name in sorted(found) if name not in known]:
        raise ValueError(
            f"Expected only classes of the list of {len(names):,}; got {len(unknown):,} others, "
            f"the first of them {unknown[0]!r} in {found[unknown[0]]}. The nearest name of the "
            f"list is {nearest(unknown[0], names)!r}."
        )
    row = DATASETS.get(dataset)
    if row is not None and row.num_classes != len(names):
        raise ValueError(
            f"Expected {row.num_classes:,} classes for {dataset}; got {len(names):,}. Give the "
            "full list of its classes, or another name."
        )
    return names


def is_utf8(text: str) -> bool:
    return text == text.encode(errors="replace").decode()
