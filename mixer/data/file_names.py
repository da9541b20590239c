"""Names of files and folders: which are images, which can name a class, how they are shown."""

import os
import pathlib
import unicodedata
from collections.abc import Collection

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")


def shown(name: str) -> str:
    """Returns a file name as text that can be printed and stored: undecodable bytes as \\xNN."""
    return os.fsencode(name).decode(errors="backslashreplace")


def some(names: Collection[str]) -> str:
    """Returns the first names for a message."""
    return ", ".join(list(names)[:5]) + (f", ... ({len(names):,})" if len(names) > 5 else "")


def is_image(name: str) -> bool:
    """Returns whether a file has the suffix of an image that can be read, and is not hidden."""
    return name.lower().endswith(SUFFIXES) and not pathlib.PurePosixPath(name).name.startswith(".")


def class_name_of(path: pathlib.Path, name: str) -> str:
    """Returns the name of a class in Unicode's composed form, whichever the file system stores.

    Raises:
      ValueError: it is not one line of text.
    """
    if not is_line(name):
        raise ValueError(
            f"Expected class names to be a line of UTF-8 text; got {shown(name)!r}: {path!r}. "
            "Rename it."
        )
    return unicodedata.normalize("NFC", name)


def is_line(name: str) -> bool:
    """Returns whether a name is one line of valid UTF-8 without white space around it."""
    return bool(name) and name == shown(name) == name.strip() and len(name.splitlines()) == 1
