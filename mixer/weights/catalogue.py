"""How to get a local copy of published weights, by name."""

import os
import pathlib

from mixer.errors import unknown_name
from mixer.weights.download import check_size, download
from mixer.weights.published import CATALOGUE, Published

__all__ = ["CATALOGUE", "Published", "fetch"]


def fetch(name: str) -> pathlib.Path:
    """Returns the local path of a file in `CATALOGUE`, downloading it if necessary.

    Looks in the folder given by the environment variable `MIXER_WEIGHTS`, then in the cache,
    `$XDG_CACHE_HOME/mixer/weights` (by default `~/.cache/mixer/weights`). Of a file, size and
    container are checked, so that a web page does not become weights.

    Raises:
      ValueError: the name is unknown, the local file is another one, or the download fails.
    """
    if name not in CATALOGUE:
        raise unknown_name("published weights", name, CATALOGUE)
    entry = CATALOGUE[name]
    given, cache = _given_folder(), _cache_folder()
    for path in [folder / entry.relative_path for folder in (given, cache) if folder]:
        if path.exists():
            try:
                check_size(path.stat().st_size, entry.mebibytes)
                entry.check(path)
            except ValueError as error:
                raise ValueError(f"{path} is not {name}. {error} Remove it.") from error
            return path
    path = cache / entry.relative_path
    try:
        download(entry.url, path, mebibytes=entry.mebibytes, check=entry.check)
    except (ValueError, OSError) as error:  # exceptions of requests are OSErrors
        again = "Run the command again to resume.\n" if isinstance(error, OSError) else ""
        raise ValueError(
            f"Cannot download {name} from\n  {entry.url}\n{error}\n{again}"
            "Or download the file by other means and save it as\n"
            f"  {path}\n"
            f"or, with the environment variable MIXER_WEIGHTS={given or 'DIR'}, as\n"
            f"  {given or 'DIR'}/{entry.relative_path}"
        ) from error
    return path


def _given_folder() -> pathlib.Path | None:
    given = os.environ.get("MIXER_WEIGHTS")
    if not given:
        return None
    folder = pathlib.Path(given).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"Expected MIXER_WEIGHTS to be a folder; got {given!r}. Correct or unset it."
        )
    return folder


def _cache_folder() -> pathlib.Path:
    root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return root / "mixer" / "weights"
