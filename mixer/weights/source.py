"""Finds what a user names as weights: a file, or a checkpoint of a run."""

import os
import re

from etils import epath

from mixer.checkpoint.folder import complete_steps, names, newest_step
from mixer.errors import suggestion
from mixer.weights.catalogue import CATALOGUE
from mixer.weights.files import holds_weights
from mixer.weights.hub import is_hub_folder

_LISTED = 8  # names in an error


def locate(source: str) -> epath.Path:
    """Returns the absolute path of a weights file, or the folder of a checkpoint or of timm.

    A workdir, or its folder of checkpoints, stands for its newest checkpoint. Whether a file can
    be read is not checked.

    Raises:
      ValueError: `source` is empty, a URL, or nothing of these; a step or a checkpoint is missing.
    """
    if not source.strip():
        raise ValueError(
            "Expected a published name, a weights file or a workdir as weights; got an empty one."
        )
    if re.match("(https?|ftp|hf)://", source):
        raise ValueError(
            f"Expected weights on this machine or a published name; got the URL {source}. Download "
            f"the file first.{_published_at(source)}"
        )
    path = epath.Path(os.path.expanduser(source))
    if not path.is_absolute():  # Orbax requires absolute paths
        path = path.absolute()
    if path.is_dir():
        return _checkpoint(path)
    if path.exists() or holds_weights(path.name):
        return path
    _check_step(path)
    raise ValueError(
        f"There are no weights {source!r}. Expected a name in the catalogue, a .npz or "
        ".safetensors file, a workdir, one of its checkpoints, WORKDIR/checkpoints/STEP, or a "
        "folder with timm's config.json and model.safetensors."
        f"{suggestion(source, CATALOGUE)}"
    )


def _published_at(url: str) -> str:
    found = [name for name, entry in CATALOGUE.items() if entry.url == url.partition("?")[0]]
    return f" Its published name, {found[0]}, does so." if found else ""


def _checkpoint(path: epath.Path) -> epath.Path:
    if (path / "state").is_dir():
        return path
    folder = path if path.name == "checkpoints" else path / "checkpoints"
    step = newest_step(folder)
    if step is not None:
        return folder / str(step)
    if is_hub_folder(path):
        return path
    _check_step(path)
    files = sorted(name for name in names(path) if holds_weights(name))
    raise ValueError(
        f"There is no complete checkpoint in {path}. Expected a workdir that contains "
        "checkpoints/STEP, or the folder WORKDIR/checkpoints/STEP itself."
        + (f" The folder holds weights files; name one: {_listing(files)}." if files else "")
    )


def _check_step(path: epath.Path) -> None:
    """Raises ValueError if the path is a step among complete ones."""
    steps = complete_steps(path.parent) if path.name.isdecimal() else []
    if steps:
        raise ValueError(
            f"Expected a complete checkpoint in {path.parent}, step "
            f"{_listing([str(step) for step in steps])}; got step {path.name}. Choose one of these."
        )


def _listing(found: list[str]) -> str:
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return ", ".join(found[:_LISTED]) + more
