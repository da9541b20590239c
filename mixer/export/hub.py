"""Writes a folder for the Hugging Face hub that timm loads: config, weights, model card.

timm builds a model from the name of an architecture and arguments. What it cannot build is refused;
where it computes something else, the model card says what, and by how much.
"""

import json
import math
import os
import pathlib
import re
import shutil
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mixer.export.model_card import model_card
from mixer.models import MODELS, variant_of
from mixer.weights.files import save_params
from mixer.weights.hub import ACTIVATIONS, CONFIG, CROP_MODES, TENSORS
from mixer.weights.load import lost_in_files
from mixer.weights.rebuild import rebuild_model
from mixer.weights.weights import Weights, resized_params

_SIZES = {"Ti": "tiny", "S": "small", "B": "base", "L": "large", "H": "huge"}  # of ViTs, in timm
_MIXERS = ("S/32", "S/16", "B/32", "B/16", "L/32", "L/16")
_BY_NAME = ("num_blocks", "patch_size", "hidden_dim")  # what a Mixer's name fixes
_RATIOS = (0.5, 4.0)  # of a Mixer's MLPs to its width, by default
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*", re.A)


def write_hub_folder(
    folder: str | os.PathLike[str],
    weights: Weights,
    image_size: int | None = None,
    *,
    source: str,
    licence: str = "unknown",
) -> str:
    """Writes `config.json`, `model.safetensors` and `README.md`; the folder appears once whole.

    Returns in a sentence what timm computes otherwise, or "".

    Args:
      folder: a new one, in a folder that exists.
      weights: what to write, resized to images of side `image_size` pixels if that is given.
      source: where the weights come from, for the model card: a published name, a file or a run.
      licence: their licence, as the hub names it: `apache-2.0`.

    Raises:
      ValueError: timm has no such model, the folder exists or cannot be made, or the licence is
        none. Nothing is written.
    """
    folder = pathlib.Path(folder).expanduser()
    if not _LICENCE.fullmatch(licence):
        raise ValueError(
            f"Expected a licence as the hub names it, such as apache-2.0 or other; got {licence!r}."
        )
    if folder.exists() or not folder.absolute().parent.is_dir():
        found = "something there" if folder.exists() else f"no folder {folder.absolute().parent}"
        raise ValueError(f"Expected a new folder to write; got {found}: {folder}. Choose another.")
    image_size = weights.image_size if image_size is None else image_size
    params = resized_params(weights, image_size)
    architecture, arguments, model = timm_model(weights, image_size)
    difference = "" if "act_layer" in arguments else _difference(model, params, image_size)
    config = _config(architecture, arguments, model, weights, image_size)
    card = model_card(architecture, weights, image_size, source, licence, difference)
    unfinished = folder.with_name(f".{folder.name}.unfinished-{os.getpid()}")
    unfinished.mkdir()
    try:
        save_params(
            unfinished / TENSORS,
            params,
            gelu_approximate=getattr(model, "gelu_approximate", None),
        )
        (unfinished / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        (unfinished / "README.md").write_text(card)
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    return difference


def timm_model(weights: Weights, image_size: int) -> tuple[str, dict[str, Any], nn.Module]:
    """Returns timm's name of the architecture, its arguments besides, and the model.

    Raises:
      ValueError: timm has none that computes the same, or the same but for the type of GELU.
    """
    if weights.family not in _ARCHITECTURES:
        raise _refusal(f"a {weights.family}, which has no weights in timm's naming here")
    lost_in_files(weights, image_size, ".safetensors")  # a model that only its run describes
    model = rebuild_model(weights.model, resized_params(weights, image_size), image_size)
    name, arguments = _ARCHITECTURES[weights.family](model)
    return name, {"img_size": image_size, **arguments}, model


def _mixer(model: Any) -> tuple[str, dict[str, Any]]:
    width = model.hidden_dim
    for variant in _MIXERS:
        size = MODELS["mixer"][1][variant]
        if all(getattr(model, name) == size[name] for name in _BY_NAME):
            name = f"mixer_{variant.replace('/', '').lower()}_224"
            dims = (model.tokens_mlp_dim, model.channels_mlp_dim)
            ratios = [_ratio(dim, width) for dim in dims]
            return name, {} if tuple(ratios) == _RATIOS else {"mlp_ratio": ratios}
    raise _refusal(
        f"a Mixer with {model.num_blocks} blocks, patches of {model.patch_size} and width {width}"
        f"{', the size H/14' if model.patch_size == 14 else ''}, where timm has "
        f"{', '.join(_MIXERS)} alone"
    )


def _gmlp(model: Any) -> tuple[str, dict[str, Any]]:
    variant = variant_of("gmlp", _fields(model))
    if variant is None:
        raise _refusal(f"a gMLP of another size than {', '.join(MODELS['gmlp'][1])}")
    return f"gmlp_{variant.replace('/', '').lower()}_224", {}


def _vit(model: Any) -> tuple[str, dict[str, Any]]:
    if model.representation_size:
        raise _refusal("a ViT with a layer before the head, pre_logits, which timm has no more")
    variant = variant_of("vit", _fields(model))
    size, _, patch = (variant or "B/16").partition("/")
    arguments: dict[str, Any] = {}
    if variant is None:
        arguments = dict(
            patch_size=model.patch_size,
            embed_dim=model.hidden_dim,
            depth=model.num_blocks,
            num_heads=model.num_heads,
            mlp_ratio=_ratio(model.mlp_dim, model.hidden_dim),
        )
    if model.pool == "gap":
        arguments |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    if model.gelu_approximate:
        arguments["act_layer"] = next(name for name, is_tanh in ACTIVATIONS.items() if is_tanh)
    return f"vit_{_SIZES[size]}_patch{patch}_224", arguments


_ARCHITECTURES = {"mixer": _mixer, "gmlp": _gmlp, "vit": _vit}


def _config(
    architecture: str,
    arguments: dict[str, Any],
    model: Any,
    weights: Weights,
    image_size: int,
) -> dict[str, Any]:
    """Returns timm's config: what is not in it would silently be timm's default."""
    recipe = weights.recipe
    modes = {ours: timms for timms, ours in CROP_MODES.items()}
    is_vit = weights.family == "vit"
    config: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": model.num_classes,
        "num_features": model.hidden_dim,
        "global_pool": "token" if is_vit and model.pool == "token" else "avg",
        "model_args": arguments,
        "pretrained_cfg": {
            "num_classes": model.num_classes,
            "input_size": [3, image_size, image_size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": image_size / recipe.resize_for(image_size),
            "crop_mode": modes[recipe.crop],
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "first_conv": "patch_embed.proj" if is_vit else "stem.proj",
            "classifier": "head",
            "custom_load": False,
        },
    }
    if weights.class_names:
        config["label_names"] = list(weights.class_names)
    return config


def _difference(model: Any, params: dict[str, Any], image_size: int) -> str:
    """Returns what timm's exact GELU changes, measured on random images, or "" if nothing."""
    if not model.gelu_approximate:
        return ""
    shape = (2, image_size, image_size, 3)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    own, timms = (
        np.asarray(jax.jit(m.apply)({"params": params}, images))
        for m in (model, model.clone(gelu_approximate=False))
    )
    return (
        "The model was trained with the tanh approximation of GELU; timm computes the exact GELU. "
        f"On 2 random images the outputs differ by up to {np.abs(own - timms).max():.1e}, where "
        f"the largest is {np.abs(own).max():.2g}."
    )


def _ratio(dim: int, width: int) -> float:
    """Returns a ratio with which timm computes exactly `dim`."""
    ratio = dim / width
    return ratio if int(ratio * width) == dim else math.nextafter(ratio, math.inf)


def _fields(model: Any) -> dict[str, Any]:
    return {name: getattr(model, name) for name in model.__dataclass_fields__ if name != "parent"}


def _refusal(found: str) -> ValueError:
    return ValueError(
        f"Expected a model that timm can build from a config; got {found}. Export another format, "
        "or convert the weights to .npz."
    )
