"""The table of published weights, and what is known of each file before it is here.

Sizes: the listing in google-research/vision_transformer, vit_jax.ipynb, where it gives MiB. Top-1:
by timm, results/results-imagenet.csv in huggingface/pytorch-image-models; by the authors, the
READMEs of google-research/vision_transformer and big_transfer.
"""

import dataclasses
import pathlib
import re
import urllib.parse

from mixer.weights.eval_recipe import PAPER, EvalRecipe
from mixer.weights.files import check_content

Data = tuple[str, int]  # trained on, number of classes
Top1 = tuple[float, str]  # percent on ImageNet, who measured it


@dataclasses.dataclass(frozen=True)
class Published:
    """A published file of float32 weights."""

    url: str
    mebibytes: float | None  # published size, to two decimals; None if not published
    family: str  # a key of `MODELS`
    variant: str  # a size of the family, or one with patches of 8 pixels: "S/8"
    data: Data
    gelu_approximate: bool | None  # tanh approximation; False: exact GELU; None: the model has none
    top1: Top1 | None = None
    recipe: EvalRecipe = PAPER  # as `top1` was measured, if it was
    input_range: tuple[int, int] = (-1, 1)  # of the pixels the model was trained on

    @property
    def relative_path(self) -> pathlib.PurePosixPath:
        """The path within a weights folder: the URL's path, since file names are not unique."""
        return pathlib.PurePosixPath(urllib.parse.urlsplit(self.url).path.lstrip("/"))

    def check(self, path: pathlib.Path) -> None:
        """Raises ValueError unless the file is a whole one of the published format."""
        check_content(path, self.relative_path.suffix)


_1K, _21K = ("ImageNet-1k", 1000), ("ImageNet-21k", 21_843)
_21K_1K = ("ImageNet-21k, then 1k", 1000)
_SAM, _GSAM = ("ImageNet-1k, SAM", 1000), ("ImageNet-1k, GSAM", 1000)
_DISTILLED = ("ImageNet-1k, distilled from 21k, then 1k", 1000)
_P, _P_1K = ("ImageNet-21k-P", 11_221), ("ImageNet-21k-P, then 1k", 1000)


def _center(image_size: int, resize: int) -> EvalRecipe:
    return EvalRecipe(image_size=image_size, resize=resize)


# What timm measures ViTs with: 90% of the shorter side at 224 pixels, all of it at 384.
_224, _384 = _center(224, 248), _center(384, 384)
_MIXER: dict[str, tuple[Data, float, Top1 | None]] = {
    "imagenet1k/Mixer-B_16": (_1K, 228.47, (76.616, "timm")),
    "imagenet1k/Mixer-L_16": (_1K, 794.29, (72.084, "timm")),
    "imagenet21k/Mixer-B_16": (_21K, 289.61, None),
    "imagenet21k/Mixer-L_16": (_21K, 875.78, None),
    "sam/Mixer-B_16": (_SAM, 228.47, None),
    "sam/Mixer-B_32": (_SAM, 230.04, None),
    "gsam/Mixer-S_8": (_GSAM, 78.79, None),
    "gsam/Mixer-S_16": (_GSAM, 70.71, None),
    "gsam/Mixer-S_32": (_GSAM, 72.91, None),
    "gsam/Mixer-B_16": (_GSAM, 228.47, None),
    "gsam/Mixer-B_32": (_GSAM, 230.04, None),
}
_VIT: dict[str, tuple[Data, float | None, Top1 | None, EvalRecipe]] = {
    "imagenet21k/ViT-B_16": (_21K, 393.69, None, PAPER),
    "imagenet21k/ViT-B_32": (_21K, 400.01, None, PAPER),
    "imagenet21k/ViT-B_8": (_21K, 393.72, None, PAPER),
    "imagenet21k/ViT-L_16": (_21K, None, None, PAPER),
    "imagenet21k/ViT-L_32": (_21K, None, None, PAPER),
    "imagenet21k/ViT-H_14": (_21K, None, None, PAPER),
    "imagenet21k+imagenet2012/ViT-B_16-224": (_21K_1K, 330.29, (81.782, "timm"), _224),
    "imagenet21k+imagenet2012/ViT-B_16": (_21K_1K, 331.40, (84.212, "timm"), _384),
    "imagenet21k+imagenet2012/ViT-B_32": (_21K_1K, 336.89, None, _384),
    "imagenet21k+imagenet2012/ViT-B_8": (_21K_1K, 334.78, None, _384),
    "imagenet21k+imagenet2012/ViT-L_16-224": (_21K_1K, None, (82.7, "authors"), _224),
    "imagenet21k+imagenet2012/ViT-L_16": (_21K_1K, None, None, _384),
    "imagenet21k+imagenet2012/ViT-L_32": (_21K_1K, None, (81.508, "timm"), _384),
    "sam/ViT-S_16": (_SAM, 252.57, None, _224),
    "sam/ViT-B_16": (_SAM, 330.30, (80.246, "timm"), _224),
    "sam/ViT-B_32": (_SAM, 336.61, (73.704, "timm"), _224),
    "sam/ViT-L_16": (_SAM, None, None, _224),
    "sam/ViT-L_32": (_SAM, None, None, _224),
}
# Those that the authors of AugReg recommend, with their best fine-tuning at 384 pixels; and the
# best that was trained on ImageNet-1k alone, by timm's choice.
_AUGREG: dict[str, tuple[str, Top1]] = {
    "Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0": ("0.03", (78.22, "authors")),
    "S_32-i21k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0": ("0.01", (79.58, "authors")),
    "S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0": ("0.03", (83.73, "authors")),
    "B_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0": ("0.01", (83.59, "authors")),
    "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0": ("0.03", (85.49, "authors")),
    "L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0": ("0.01", (85.59, "authors")),
}
_VIT |= {f"augreg/{name}": (_21K, None, None, PAPER) for name in _AUGREG}
_VIT |= {
    f"augreg/{name}--imagenet2012-steps_20k-lr_{rate}-res_384": (_21K_1K, None, top1, _384)
    for name, (rate, top1) in _AUGREG.items()
}
_VIT[
    "augreg/B_16-i1k-300ep-lr_0.001-aug_strong2-wd_0.1-do_0.1-sd_0.1"
    "--imagenet2012-steps_20k-lr_0.01-res_224"
] = (_1K, None, (79.154, "timm"), _224)
# BiT-S and BiT-M; fine-tuned ones as timm measures them; distilled ones and their teachers.
_BIT: dict[str, tuple[Data, Top1 | None, EvalRecipe]] = {
    f"BiT-{group}-{size}": (data, None, PAPER)
    for group, data in (("S", _1K), ("M", _21K))
    for size in ("R50x1", "R50x3", "R101x1", "R101x3", "R152x2", "R152x4")
} | {
    "BiT-M-R50x1-ILSVRC2012": (_21K_1K, (80.386, "timm"), _center(448, 448)),
    "BiT-M-R50x3-ILSVRC2012": (_21K_1K, (83.982, "timm"), _center(448, 448)),
    "BiT-M-R101x1-ILSVRC2012": (_21K_1K, (82.332, "timm"), _center(448, 448)),
    "BiT-M-R101x3-ILSVRC2012": (_21K_1K, (84.430, "timm"), _center(448, 448)),
    "BiT-M-R152x2-ILSVRC2012": (_21K_1K, (84.468, "timm"), _center(448, 448)),
    "BiT-M-R152x4-ILSVRC2012": (_21K_1K, (84.936, "timm"), _center(480, 480)),
    "distill/R50x1_160": (_DISTILLED, (80.5, "authors"), _center(160, 160 * 256 // 224)),
    "distill/R50x1_224": (_DISTILLED, (82.820, "timm"), PAPER),
    "distill/R152x2_T_224": (_21K_1K, (82.918, "timm"), PAPER),
    "distill/R152x2_T_384": (_21K_1K, (83.858, "timm"), _384),
}
# family, size, data, tanh GELU, top-1, recipe. Despite their names, the goog_in21k_ft_in1k files
# are the released ImageNet-1k weights: the authors never published a fine-tuned Mixer
# (pytorch-image-models, pull request 651). miil's and gMLP's were trained in PyTorch, with its
# exact GELU, miil's on images in [0, 1]; augreg's are the released ones.
_TIMM: dict[str, tuple[str, str, Data, bool, float | None, EvalRecipe]] = {
    "mixer_b16_224.goog_in21k_ft_in1k": ("mixer", "B/16", _1K, True, 76.616, PAPER),
    "mixer_b16_224.goog_in21k": ("mixer", "B/16", _21K, True, None, PAPER),
    "mixer_l16_224.goog_in21k_ft_in1k": ("mixer", "L/16", _1K, True, 72.084, PAPER),
    "mixer_l16_224.goog_in21k": ("mixer", "L/16", _21K, True, None, PAPER),
    "mixer_b16_224.miil_in21k_ft_in1k": ("mixer", "B/16", _P_1K, False, 82.314, PAPER),
    "mixer_b16_224.miil_in21k": ("mixer", "B/16", _P, False, None, PAPER),
    "vit_small_patch16_224.augreg_in1k": ("vit", "S/16", _1K, True, 78.842, _224),
    "vit_base_patch32_224.augreg_in1k": ("vit", "B/32", _1K, True, 74.908, _224),
    "vit_base_patch16_224.augreg_in1k": ("vit", "B/16", _1K, True, 79.154, _224),
    "gmlp_s16_224.ra3_in1k": ("gmlp", "S/16", _1K, False, 79.652, PAPER),
}


def _size(name: str) -> str:
    """Returns "B/16" for a name with "B_16", "R50x1" for one with that."""
    found = re.search(r"(Ti|S|B|L|H)_(\d+)|R\d+x\d", name)
    assert found is not None, name
    return found[0].replace("_", "/")


_BUCKETS = "https://storage.googleapis.com"
CATALOGUE: dict[str, Published] = {
    **{
        name: Published(
            f"{_BUCKETS}/mixer_models/{name}.npz", mib, "mixer", _size(name), data, True, top1
        )
        for name, (data, mib, top1) in _MIXER.items()
    },
    **{
        name: Published(
            f"{_BUCKETS}/vit_models/{name}.npz", mib, "vit", _size(name), data, True, top1, recipe
        )
        for name, (data, mib, top1, recipe) in _VIT.items()
    },
    **{
        f"bit_models/{name}": Published(
            f"{_BUCKETS}/bit_models/{name}.npz", None, "bit", _size(name), data, None, top1, recipe
        )
        for name, (data, top1, recipe) in _BIT.items()
    },
    **{
        f"timm/{name}": Published(
            f"https://huggingface.co/timm/{name}/resolve/main/model.safetensors",
            *(None, family, size, data, tanh),
            top1=None if top1 is None else (top1, "timm"),
            recipe=recipe,
            input_range=(0, 1) if "miil" in name else (-1, 1),
        )
        for name, (family, size, data, tanh, top1, recipe) in _TIMM.items()
    },
}
