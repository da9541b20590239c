"""Finds the images that a user names: files, folders and patterns such as `holiday/*.jpg`."""

import collections
import glob
import os
import pathlib
import sys
from collections.abc import Iterable, Sequence

from mixer.data.file_names import SUFFIXES
from mixer.evaluation.prediction_table import printable


def find_images(arguments: Sequence[str]) -> list[pathlib.Path]:
    """Returns the files that the arguments name, each once, in the order of the arguments.

    A folder stands for the images in it and in its folders, sorted; hidden entries are left out,
    and others that are no images are counted on stderr. A pattern may have `*`, `?`, `[...]`, and
    `**` for folders of any depth.

    Raises:
      ValueError: there are no arguments, or one of them names no image.
      OSError: a folder cannot be read.
    """
    if not arguments:
        raise ValueError(
            "Expected image files, folders or patterns; got none. Usage: python scripts/predict.py "
            "IMAGE..."
        )
    others: collections.Counter[str] = collections.Counter()
    found: dict[pathlib.Path, None] = {}
    for argument in arguments:
        found |= dict.fromkeys(_images_of(argument, others))
    if others:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(others.items()))
        print(f"Not images, left out: {printable(kinds)}.", file=sys.stderr, flush=True)
    return list(found)


def _images_of(argument: str, others: collections.Counter[str]) -> list[pathlib.Path]:
    if not argument:
        raise ValueError("Expected an image file, a folder or a pattern; got an empty argument.")
    expanded = os.path.expanduser(argument)
    path = pathlib.Path(expanded)
    if path.is_file():
        return [path]
    if path.is_dir():
        images = _images_among([path], others)
    elif path.exists():
        raise ValueError(f"Expected an image; {printable(argument)} is no file and no folder.")
    elif glob.has_magic(argument):
        images = _images_among(map(pathlib.Path, glob.glob(expanded, recursive=True)), others)
    else:
        raise ValueError(f"Expected an image file; there is no file {printable(argument)}.")
    if not images:
        raise ValueError(
            f"Expected images ({', '.join(SUFFIXES)}) in {printable(argument)}; there are none."
        )
    return images


def _images_among(
    paths: Iterable[pathlib.Path], others: collections.Counter[str]
) -> list[pathlib.Path]:
    """Returns the images among the paths and in the folders among them, sorted; opens none."""
    files: set[pathlib.Path] = set()
    for path in paths:
        files |= _files_in(path) if path.is_dir() else {path}
    images = []
    for path in sorted(files):
        if not path.is_file():  # a dangling link, a pipe, a device
            others["that are no files"] += 1
        elif path.suffix.lower() not in SUFFIXES:
            others[path.suffix or "without a suffix"] += 1
        else:
            images.append(path)
    return images


def _files_in(folder: pathlib.Path) -> set[pathlib.Path]:
    """Returns what is in a folder and its folders, follows links, but each folder once."""

    def refuse(error: OSError) -> None:
        raise error

    files, seen = set(), set()
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        files |= {pathlib.Path(parent, name) for name in names if not name.startswith(".")}
    return files
