"""Folders of timm, as on the Hugging Face hub: `config.json` beside `model.safetensors`.

The arrays do not tell everything that timm computes with them. The rest is in the config: what is
read here becomes the same model, and what cannot be is refused.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from mixer.errors import unknown_name
from mixer.weights.eval_recipe import EvalRecipe

CONFIG, TENSORS = "config.json", "model.safetensors"
CROP_MODES = {"center": "resmall_crop", "squash": "resize_crop"}  # timm's -> ours
ACTIVATIONS = {"gelu": False, "gelu_tanh": True}  # timm's -> gelu_approximate

# Of other names, some have the same arrays and compute something else.
_PLAIN = re.compile(
    r"(mixer_[sbl]\d\d|gmlp_(ti|s|b)\d\d|(vit|deit)_(tiny|small|base|large|huge)_patch\d+(_gap)?)"
    r"_\d+(\..*)?",
    re.A,
)
# Of `model_args`, those that the arrays tell, that are checked here, or that matter to training.
_KNOWN = {"img_size", "mlp_ratio", "patch_size", "embed_dim", "depth", "num_blocks", "num_heads"}
_KNOWN |= {"num_classes", "class_token", "act_layer", "global_pool"}
# These have the only value that our models have, timm's default.
_FIXED = {"in_chans": 3, "fc_norm": False, "qkv_bias": True, "qk_norm": False, "reg_tokens": 0}
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # timm's defaults


@dataclasses.dataclass(frozen=True)
class HubConfig:
    """What the config of a folder tells of the model beside it."""

    architecture: str
    gelu_approximate: bool | None  # None: timm's default, the exact one
    pool: str | None  # "token" or "avg"; None: timm's default
    num_heads: int | None
    mean: tuple[float, ...]  # of pixels in [0, 1], by channel
    std: tuple[float, ...]
    crop: str
    crop_fraction: float  # of the resized side
    class_names: tuple[str, ...] | None

    def recipe(self, image_size: int) -> EvalRecipe:
        """Returns how timm prepares images; it resizes them with another filter."""
        resize = int(image_size / self.crop_fraction)
        return EvalRecipe(crop=self.crop, image_size=image_size, resize=resize)


def is_hub_folder(folder: epath.Path) -> bool:
    """True if the folder holds weights, and a config that names one of timm's architectures."""
    return (folder / TENSORS).exists() and "architecture" in _read_json(folder / CONFIG)


def read_hub_config(folder: epath.Path) -> HubConfig:
    """Returns what the config of a hub folder tells.

    Raises:
      ValueError: it is not that of a plain Mixer, gMLP or ViT, or its values cannot be.
    """
    config = _read_json(folder / CONFIG)
    try:
        return _parse(config)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Cannot load {folder}. Its {CONFIG} is not understood: {error}"
        ) from error


def for_symmetric_images(
    params: dict[str, Any], mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[str, Any]:
    """Converts weights trained on `(pixels in [0, 1] - mean) / std` to our range, [-1, 1].

    A patch is `kernel @ ((x + 1) / 2 - mean) / std + bias` then: one of another kernel and bias.
    """
    if set(mean) | set(std) == {0.5}:
        return params
    name = next(name for name in ("stem", "embedding") if name in params)
    kernel, bias = params[name]["kernel"], params[name]["bias"]  # [P, P, 3, C], [C]
    per_channel = np.asarray(std, np.float32)[:, None]
    shift = ((0.5 - np.asarray(mean, np.float32))[:, None] / per_channel * kernel).sum((0, 1, 2))
    return {**params, name: {"kernel": kernel / (2 * per_channel), "bias": bias + shift}}


def _parse(config: Mapping[str, Any]) -> HubConfig:
    architecture = str(config["architecture"])
    if not _PLAIN.fullmatch(architecture):
        raise ValueError(
            f"Expected the architecture of a plain Mixer, gMLP or ViT, such as mixer_b16_224; got "
            f"{architecture!r}. If it is one of these, load its {TENSORS} instead."
        )
    arguments = config.get("model_args", {})
    unknown = [
        f"{name}={value}"
        for name, value in arguments.items()
        if not (name in _KNOWN or name.endswith("_rate") or (name, value) in _FIXED.items())
    ]
    if unknown:
        raise ValueError(
            f"Expected model_args among {', '.join(sorted(_KNOWN))}; got {', '.join(unknown)}, "
            "with which timm computes something else."
        )
    activation = arguments.get("act_layer")
    if activation is not None and activation not in ACTIVATIONS:
        raise unknown_name("act_layer", activation, ACTIVATIONS)
    images = {**_IMAGENET, **config, **config.get("pretrained_cfg", {})}
    mode, fraction = images.get("crop_mode") or "center", float(images.get("crop_pct") or 0.875)
    if mode not in CROP_MODES:
        raise unknown_name("crop_mode", mode, CROP_MODES)
    mean, std = (tuple(map(float, images[key])) for key in ("mean", "std"))
    if not (len(mean) == len(std) == 3 and min(std) > 0 and 0 < fraction <= 1):
        raise ValueError(f"got mean {mean}, std {std}, crop_pct {fraction}.")
    names = config.get("label_names")
    return HubConfig(
        architecture,
        None if activation is None else ACTIVATIONS[activation],
        arguments.get("global_pool", config.get("global_pool")),
        arguments.get("num_heads"),
        mean,
        std,
        CROP_MODES[mode],
        fraction,
        tuple(map(str, names)) if isinstance(names, list) else None,
    )


def _read_json(path: epath.Path) -> dict[str, Any]:
    """Returns the object in a file; {} if there is no such file or something else in it."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
