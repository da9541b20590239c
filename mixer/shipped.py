"""Where the files lie that come with the code, but not as modules: configs, scripts, records."""

import os
import pathlib

_PACKAGE = pathlib.Path(__file__).parent


def shipped(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns where a path of the repository lies, such as `configs/digits.py`.

    In a clone that is beside the package; a wheel has `configs`, `scripts` and `docs` in it.
    """
    return (_PACKAGE if is_installed() else _PACKAGE.parent) / path


def is_installed() -> bool:
    """True if the package is a copy that was installed, False if it is that of a clone."""
    return (_PACKAGE / "configs").is_dir()
