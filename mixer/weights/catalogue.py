"""The published MLP-Mixer weights: what each file contains, and how to get a local copy."""

import dataclasses
import os
import pathlib
import urllib.parse

from mixer.errors import unknown_name
from mixer.weights.download import check_size, download
from mixer.weights.files import check_content


@dataclasses.dataclass(frozen=True)
class Published:
    """A published file of float32 weights for images of 224 x 224 pixels."""

    url: str
    mebibytes: float | None  # published size, to two decimals; None if not published
    variant: str  # a row of Table 1, or "S/8": size S with patches of 8 pixels
    gelu_approximate: bool  # tanh approximation; False: exact GELU
    input_range: tuple[int, int]  # of the pixels the model was trained on

    @property
    def relative_path(self) -> pathlib.PurePosixPath:
        """The path within a weights folder: the URL's path, since file names are not unique."""
        return pathlib.PurePosixPath(urllib.parse.urlsplit(self.url).path.lstrip("/"))

    def check(self, path: pathlib.Path) -> None:
        """Raises ValueError unless the file is a whole one of the published format."""
        check_content(path, self.relative_path.suffix)


# Sizes in MiB. Source: google-research/vision_transformer, vit_jax.ipynb.
_RELEASED = {
    "imagenet1k/Mixer-B_16": 228.47,
    "imagenet1k/Mixer-L_16": 794.29,
    "imagenet21k/Mixer-B_16": 289.61,
    "imagenet21k/Mixer-L_16": 875.78,
    "sam/Mixer-B_16": 228.47,
    "sam/Mixer-B_32": 230.04,
    "gsam/Mixer-S_8": 78.79,
    "gsam/Mixer-S_16": 70.71,
    "gsam/Mixer-S_32": 72.91,
    "gsam/Mixer-B_16": 228.47,
    "gsam/Mixer-B_32": 230.04,
}
# Despite their names, the goog_in21k_ft_in1k files are the released ImageNet-1k weights: the
# authors never published a fine-tuned Mixer (pytorch-image-models, pull request 651). The miil
# weights were trained in PyTorch, with its exact GELU, on images in [0, 1].
_TIMM = {
    "mixer_b16_224.goog_in21k_ft_in1k": "B/16",
    "mixer_b16_224.goog_in21k": "B/16",
    "mixer_l16_224.goog_in21k_ft_in1k": "L/16",
    "mixer_l16_224.goog_in21k": "L/16",
    "mixer_b16_224.miil_in21k_ft_in1k": "B/16",
    "mixer_b16_224.miil_in21k": "B/16",
}

CATALOGUE: dict[str, Published] = {
    name: Published(
        url=f"https://storage.googleapis.com/mixer_models/{name}.npz",
        mebibytes=mebibytes,
        variant=name.partition("Mixer-")[2].replace("_", "/"),
        gelu_approximate=True,
        input_range=(-1, 1),
    )
    for name, mebibytes in _RELEASED.items()
} | {
    f"timm/{name}": Published(
        url=f"https://huggingface.co/timm/{name}/resolve/main/model.safetensors",
        mebibytes=None,
        variant=variant,
        gelu_approximate="miil" not in name,
        input_range=(0, 1) if "miil" in name else (-1, 1),
    )
    for name, variant in _TIMM.items()
}


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
