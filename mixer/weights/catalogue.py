"""The published weights of MLP-Mixers: what each file is, and how it gets onto this machine."""

import dataclasses
import os
import pathlib
import urllib.parse

from mixer.errors import unknown_name
from mixer.weights.download import check_size, download

_PROTOCOL = "shorter side resized to 256 pixels ({}), central crop of 224 x 224"


@dataclasses.dataclass(frozen=True)
class Published:
    """A published file of weights in float32, for images of 224 x 224 pixels.

    What is not known is None.
    """

    url: str
    mebibytes: float | None  # as published, to two decimals
    variant: str  # a size of Table 1, or "S/8": the size S with patches of 8 pixels
    trained_on: str
    num_classes: int
    top1: float | None  # percent of the 50,000 validation images of ImageNet
    protocol: str | None  # with which `top1` was measured
    gelu_approximate: bool  # tanh GELU, else exact
    input_range: tuple[int, int]  # of the pixels that the model expects
    sha256: str | None = None

    @property
    def relative_path(self) -> pathlib.PurePosixPath:
        """The place of the file in a folder of weights: file names alone are not unique."""
        return pathlib.PurePosixPath(urllib.parse.urlsplit(self.url).path.lstrip("/"))


# Source: the sizes are from the listing in google-research/vision_transformer, vit_jax.ipynb; the
# accuracies from timm, results/results-imagenet.csv (its B/16 and L/16 of "goog" are conversions of
# imagenet1k). For SAM and GSAM there is none that was measured on the files: a user found 68.9% for
# sam/Mixer-B_16 (vision_transformer, issue 134), the paper of its authors says 77.4%; the ViTs that
# were released with GSAM's Mixers did very poorly in timm (its issue 1302).
_RELEASED = (  # name, MiB, trained on, classes, top-1
    ("imagenet1k/Mixer-B_16", 228.47, "ImageNet-1k", 1000, 76.616),
    ("imagenet1k/Mixer-L_16", 794.29, "ImageNet-1k", 1000, 72.084),
    ("imagenet21k/Mixer-B_16", 289.61, "ImageNet-21k", 21_843, None),
    ("imagenet21k/Mixer-L_16", 875.78, "ImageNet-21k", 21_843, None),
    ("sam/Mixer-B_16", 228.47, "ImageNet-1k with SAM", 1000, None),
    ("sam/Mixer-B_32", 230.04, "ImageNet-1k with SAM", 1000, None),
    ("gsam/Mixer-S_8", 78.79, "ImageNet-1k with GSAM", 1000, None),
    ("gsam/Mixer-S_16", 70.71, "ImageNet-1k with GSAM", 1000, None),
    ("gsam/Mixer-S_32", 72.91, "ImageNet-1k with GSAM", 1000, None),
    ("gsam/Mixer-B_16", 228.47, "ImageNet-1k with GSAM", 1000, None),
    ("gsam/Mixer-B_32", 230.04, "ImageNet-1k with GSAM", 1000, None),
)
# What timm calls goog_in21k_ft_in1k was trained on ImageNet-1k alone: the authors never released a
# fine-tuned Mixer (pytorch-image-models, pull request 651). The miil weights were trained in
# PyTorch, with its exact GELU, on images in [0, 1].
_TIMM = (  # name, variant, trained on, classes, top-1
    ("mixer_b16_224.goog_in21k_ft_in1k", "B/16", "ImageNet-1k, not 21k", 1000, 76.616),
    ("mixer_b16_224.goog_in21k", "B/16", "ImageNet-21k", 21_843, None),
    ("mixer_l16_224.goog_in21k_ft_in1k", "L/16", "ImageNet-1k, not 21k", 1000, 72.084),
    ("mixer_l16_224.goog_in21k", "L/16", "ImageNet-21k", 21_843, None),
    ("mixer_b16_224.miil_in21k_ft_in1k", "B/16", "ImageNet-21k-P, then 1k", 1000, 82.314),
    ("mixer_b16_224.miil_in21k", "B/16", "ImageNet-21k-P", 11_221, None),
)

CATALOGUE: dict[str, Published] = {
    name: Published(
        url=f"https://storage.googleapis.com/mixer_models/{name}.npz",
        mebibytes=mebibytes,
        variant=name.partition("Mixer-")[2].replace("_", "/"),
        trained_on=trained_on,
        num_classes=num_classes,
        top1=top1,
        protocol=_PROTOCOL.format("bicubic") if top1 else None,
        gelu_approximate=True,
        input_range=(-1, 1),
    )
    for name, mebibytes, trained_on, num_classes, top1 in _RELEASED
} | {
    f"timm/{name}": Published(
        url=f"https://huggingface.co/timm/{name}/resolve/main/model.safetensors",
        mebibytes=None,
        variant=variant,
        trained_on=trained_on,
        num_classes=num_classes,
        top1=top1,
        protocol=_PROTOCOL.format("bilinear" if "miil" in name else "bicubic") if top1 else None,
        gelu_approximate="miil" not in name,
        input_range=(0, 1) if "miil" in name else (-1, 1),
    )
    for name, variant, trained_on, num_classes, top1 in _TIMM
}


def fetch(name: str) -> pathlib.Path:
    """Returns the local file of an entry of `CATALOGUE`, downloading it if it is nowhere yet.

    It is looked for in the folder `MIXER_WEIGHTS` of the environment, then in the cache, which is
    `mixer/weights` in `XDG_CACHE_HOME` or `~/.cache`. Only its size is checked when it is there.

    Raises:
      ValueError: unknown name, a file of another size, or it cannot be downloaded.
    """
    if name not in CATALOGUE:
        raise unknown_name("published weights", name, CATALOGUE)
    entry = CATALOGUE[name]
    given, cache = _given_folder(), _cache_folder()
    for path in [folder / entry.relative_path for folder in (given, cache) if folder]:
        if path.exists():
            try:
                check_size(path.stat().st_size, entry.mebibytes)
            except ValueError as error:
                raise ValueError(f"{path} is not {name}. {error} Remove it.") from error
            return path
    path = cache / entry.relative_path
    try:
        download(entry.url, path, mebibytes=entry.mebibytes, sha256=entry.sha256)
    except (ValueError, OSError) as error:  # what requests raises is an OSError
        again = "Run it again to go on where it broke off.\n" if isinstance(error, OSError) else ""
        raise ValueError(
            f"Cannot download {name} from\n  {entry.url}\n{error}\n{again}"
            "To do without this download, get the file in another way and put it to\n"
            f"  {path}\n"
            f"or, with MIXER_WEIGHTS={given or 'DIR'} in the environment, to\n"
            f"  {given or 'DIR'}/{entry.relative_path}"
        ) from error
    return path


def overview() -> str:
    """Returns a table of the catalogue, for people."""
    width = max(map(len, CATALOGUE))
    lines = [f"{'name':{width}}     MiB  {'trained on':23}  classes   top-1"]
    for name, entry in CATALOGUE.items():
        size = f"{entry.mebibytes:.2f}" if entry.mebibytes else "-"
        top1 = f"{entry.top1:.3f}" if entry.top1 else "-"
        lines.append(
            f"{name:{width}}  {size:>6}  {entry.trained_on:23}  {entry.num_classes:>7,}  {top1:>6}"
        )
    lines.append("top-1: percent of ImageNet's validation images, measured by timm; -: not known")
    return "\n".join(lines)


def _given_folder() -> pathlib.Path | None:
    given = os.environ.get("MIXER_WEIGHTS")
    if not given:
        return None
    folder = pathlib.Path(given).expanduser()
    if not folder.is_dir():
        raise ValueError(f"Expected a folder in MIXER_WEIGHTS; got {given!r}. Correct or unset it.")
    return folder


def _cache_folder() -> pathlib.Path:
    root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return root / "mixer" / "weights"
