"""Finds the images that a user names: files, folders and patterns such as `holiday/*.jpg`."""

import collections
import glob
import os
import pathlib
import sys
from collections.abc import Sequence

from mixer.evaluation.prediction_table import printable

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


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
        kinds = ", ".join(
            f"{count:,} {suffix or 'without a suffix'}" for suffix, count in others.items()
        )
        print(f"Not images, left out: {printable(kinds)}.", file=sys.stderr, flush=True)
    return list(found)


def _images_of(argument: str, others: collections.Counter[str]) -> list[pathlib.Path]:
    if not argument:
        raise ValueError("Expected an image file, a folder or a pattern; got an empty argument.")
    path = pathlib.Path(os.path.expanduser(argument))
    if path.is_dir():
        return _images_in(path, argument, others)
    if path.is_file():
        return [path]
    if path.exists():
        raise ValueError(f"Expected an image file; {path} is neither a file nor a folder.")
    if not glob.has_magic(argument):
        raise ValueError(f"Expected an image file; there is no file {printable(argument)}.")
    matches = sorted(map(pathlib.Path, glob.glob(os.path.expanduser(argument), recursive=True)))
    images = [p for p in matches if p.is_file() and p.suffix.lower() in SUFFIXES]
    others.update(p.suffix for p in matches if p.is_file() and p not in set(images))
    if not images:
        raise ValueError(f"Expected images that match {printable(argument)}; there are none.")
    return images


def _images_in(
    folder: pathlib.Path, argument: str, others: collections.Counter[str]
) -> list[pathlib.Path]:
    def refuse(error: OSError) -> None:
        raise error

    images = []
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (pathlib.Path(parent, name) for name in sorted(names) if name[0] != "."):
            if path.suffix.lower() in SUFFIXES:
                images.append(path)
            else:
                others[path.suffix] += 1
    if not images:
        raise ValueError(
            f"Expected images ({', '.join(SUFFIXES)}) in the folder {printable(argument)}; there "
            "are none."
        )
    return images
