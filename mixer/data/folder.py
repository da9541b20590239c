"""One reading of a folder of images, for training, evaluation and preparation alike.

    ROOT/SPLIT/CLASS/IMAGE   splits, at least one of them named as in `SPLITS`
    ROOT/CLASS/IMAGE         classes alone: about a tenth of each, by file name, is held out

Classes are folders that hold images. Hidden entries are skipped; everything else that is not used
is counted. A file with the suffix of an image counts as one whatever it holds: reading it is an
error that names it. A file CLASS.tar is listed in the place of a class folder.
"""

import collections
import dataclasses
import errno
import os
import pathlib

from mixer.data.file_names import class_name_of, is_image, shown, some
from mixer.data.splits import SPLITS, check_split_name, check_tar_names, held_out

LAYOUTS = "PATH/CLASS/*.jpg, PATH/CLASS.tar, PATH/train/CLASS/*.jpg or PATH/train/CLASS.tar"


@dataclasses.dataclass(frozen=True)
class ClassFiles:
    """The images of one class in one split."""

    split: str
    class_name: str  # in Unicode's composed form, whichever the file system stores
    path: pathlib.Path  # a folder or a tar file
    images: tuple[str, ...]  # names of files, sorted; none for a tar file
    sizes: tuple[int, ...]  # of the images in bytes, 0 for one that is no file; of a tar file

    @property
    def is_tar(self) -> bool:
        return not self.images


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """What a folder of images holds: its classes, sorted by split and name, and what is unused."""

    root: pathlib.Path
    classes: list[ClassFiles]
    unused: collections.Counter[str]  # suffix of a file, or what it is -> how many
    note: str = ""  # how the images were split, if not by folders

    @property
    def splits(self) -> list[str]:
        """The names of the splits, sorted."""
        return sorted({files.split for files in self.classes})

    def class_names(self) -> list[str]:
        """Returns the one list of classes of all splits, sorted.

        Raises:
          ValueError: a split has a class that the training split does not have.
        """
        trained = {files.class_name for files in self.classes if files.split.lower() == "train"}
        names = trained or {files.class_name for files in self.classes}
        for files in self.classes:
            if files.class_name not in names:
                raise ValueError(
                    f"Expected only the classes of train, {some(sorted(names))}, in all of "
                    f"{self.root}; got {files.class_name!r} in {files.path}. Move or rename it."
                )
        return sorted(names)

    def describe(self) -> str:
        """Returns what is worth saying as one line of text: how it was split, what is unused."""
        parts = [self.note] if self.note else []
        if self.unused:
            parts.append(f"not used: {_list_kinds(self.unused)}")
        names = set(self.class_names())
        for split in self.splits:
            there = {files.class_name for files in self.classes if files.split == split}
            if lacking := sorted(names - there):
                parts.append(f"no image in {split} of {some(lacking)}")
        return f"{self.root}: {'. '.join(parts)}." if parts else ""


def read_image_folder(root: pathlib.Path, *, hold_out: bool = True) -> ImageFolder:
    """Lists the splits, classes and images of a folder; opens no image.

    Without splits, about a tenth of each class is the split test, unless `hold_out` is false.

    Raises:
      ValueError: there is no such folder, it has none of the layouts above, or the name of a class
        or of a split cannot be used.
      OSError: a folder in it cannot be read.
    """
    if not root.is_dir():
        where = "" if root.is_absolute() else f" in {pathlib.Path.cwd()}, the current folder"
        raise ValueError(
            f"Expected images in {root}/train/CLASS/*.jpg or {root}/CLASS/*.jpg; there is no such "
            f"folder{where}. A relative path, also one that a run has recorded, is that of the "
            "current folder: start there, or give the full one (--config.dataset=folder:/..., of "
            "scripts/evaluate.py --dataset=folder:/...)."
        )
    unused: collections.Counter[str] = collections.Counter()
    folders = [entry for entry in _listing(root) if _is_dir(entry)]
    named = [e for e in folders if e.name.lower() in SPLITS and _holds_classes(e)]
    if not named:
        classes = _find_classes("train", root, root, unused)
        check_tar_names([files.path for files in classes])
        if not hold_out or any(files.is_tar for files in classes):
            return ImageFolder(root, classes, unused)
        return _hold_out(root, classes, unused)
    classes = []
    for entry in _listing(root):
        if not _is_dir(entry):
            unused[_kind(entry)] += 1
        elif entry.name.lower() in SPLITS:
            classes += _find_classes(entry.name, pathlib.Path(entry.path), root, unused)
        elif _holds_classes(entry):
            check_split_name(entry.name, root)
            classes += _find_classes(entry.name, pathlib.Path(entry.path), root, unused)
        else:
            _count_within(entry, f"{shown(entry.name)}, which is no split", unused)
    return ImageFolder(root, sorted(classes, key=lambda c: (c.split, c.path.name)), unused)


def _list_kinds(unused: collections.Counter[str]) -> str:
    return "; ".join(f"{count:,} {kind or 'no suffix'}" for kind, count in sorted(unused.items()))


def _hold_out(
    root: pathlib.Path, classes: list[ClassFiles], unused: collections.Counter[str]
) -> ImageFolder:
    """Moves about a tenth of the images of each class to the split test."""
    parts, count = [], {"test": 0, "train": 0}
    for split in count:
        for files in classes:
            test = held_out(files.class_name, files.images)
            kept = [i for i, name in enumerate(files.images) if (name in test) == (split == "test")]
            if kept:
                images = tuple(files.images[index] for index in kept)
                sizes = tuple(files.sizes[index] for index in kept)
                parts.append(ClassFiles(split, files.class_name, files.path, images, sizes))
                count[split] += len(kept)
    note = (
        f"no folders train and test, so about a tenth of each class, by file name, is test "
        f"({count['test']:,} images) and the rest train ({count['train']:,})"
    )
    return ImageFolder(root, parts, unused, note)


def _find_classes(
    split: str, folder: pathlib.Path, root: pathlib.Path, unused: collections.Counter[str]
) -> list[ClassFiles]:
    found: dict[str, ClassFiles] = {}
    outside = []
    for entry in _listing(folder):
        files = None
        if _is_dir(entry):
            files = _find_images(split, entry, root, unused)
        elif _is_tar(entry):
            path = pathlib.Path(entry.path)
            files = ClassFiles(split, class_name_of(path, path.stem), path, (), (_size(entry),))
        elif is_image(entry.name):
            outside.append(entry.path)
        else:
            unused[_kind(entry)] += 1
        if files and files.class_name in found:
            raise ValueError(
                "Expected one place for each class; got "
                f"{shown(str(files.path))} and {shown(str(found[files.class_name].path))}."
            )
        if files:
            found[files.class_name] = files
    if outside and not found:
        raise ValueError(
            f"Expected images in class folders; got {shown(outside[0])}. Expected: {LAYOUTS}."
        )
    if outside:
        unused[f"in no class folder, such as {shown(outside[0])}"] += len(outside)
    if not found:
        raise ValueError(
            f"Expected classes in {folder}; it holds none that has an image, but "
            f"{_list_kinds(unused) or 'nothing else'}. Expected: {LAYOUTS}."
        )
    return list(found.values())


def _find_images(
    split: str,
    folder: os.DirEntry[str],
    root: pathlib.Path,
    unused: collections.Counter[str],
) -> ClassFiles | None:
    images, deep = [], ""
    where = shown(str(pathlib.Path(folder.path).relative_to(root)))
    for entry in _listing(folder.path):
        if _is_dir(entry):
            deep = _count_within(entry, f"{where}/{shown(entry.name)}, too deep", unused) or deep
        elif is_image(entry.name):
            images.append(entry)
        else:
            unused[_kind(entry)] += 1
    path = pathlib.Path(folder.path)
    if images:
        name = class_name_of(path, folder.name)
        sizes = tuple(_size(entry) for entry in images)
        return ClassFiles(split, name, path, tuple(entry.name for entry in images), sizes)
    if deep:
        raise ValueError(
            f"Expected images in class folders; got {shown(deep)}, which is deeper, and none in "
            f"{shown(folder.path)}. Move the images up. Expected: {LAYOUTS}."
        )
    unused[f"folder without images ({where})"] += 1
    return None


def _count_within(folder: os.DirEntry[str], where: str, unused: collections.Counter[str]) -> str:
    """Counts the files of a folder in `unused`; returns the path of an image among them, or ""."""
    images, first = 0, ""
    for entry in _listing(folder.path):
        if entry.is_dir(follow_symlinks=False):
            first = _count_within(entry, where, unused) or first
        elif _is_dir(entry):  # may lead back here
            unused["link to a folder"] += 1
        elif is_image(entry.name):
            images += 1
            first = first or entry.path
        else:
            unused[_kind(entry)] += 1
    if images:
        unused[f"in {where}"] += images
    return first


def _holds_classes(split: os.DirEntry[str]) -> bool:
    """Returns whether there are tar files in a folder, or folders with images in them."""
    for entry in _listing(split.path):
        if _is_dir(entry):
            with os.scandir(entry.path) as files:
                if any(is_image(file.name) and not _is_dir(file) for file in files):
                    return True
        elif _is_tar(entry):
            return True
    return False


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size if entry.is_file() else 0
    except OSError:  # reading it says why
        return 0


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return False
        raise


def _kind(entry: os.DirEntry[str]) -> str:
    return pathlib.Path(shown(entry.name)).suffix


def _listing(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(shown, key=lambda entry: entry.name)


def _is_tar(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith(".tar") and not _is_dir(entry)
