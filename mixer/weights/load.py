"""Loads weights from the catalogue, a file or a checkpoint, for a model or a training run."""

import dataclasses
import math
from typing import Any

import flax
import flax.linen as nn
from etils import epath
from jax.typing import DTypeLike

from mixer.checkpoint.format import read_checkpoint
from mixer.data.imagenet import imagenet_class_names
from mixer.errors import unknown_name
from mixer.weights import read_params
from mixer.weights.catalogue import CATALOGUE, fetch
from mixer.weights.eval_recipe import PAPER, EvalRecipe, recipe_of
from mixer.weights.families import FAMILIES, family_like, family_of, find_architecture
from mixer.weights.finite import check_finite
from mixer.weights.naming import Found
from mixer.weights.rebuild import deciding_fields, rebuild_model
from mixer.weights.source import locate

GELUS = {"tanh": True, "exact": False}  # name -> gelu_approximate
# What the configs of runs from before a key existed had.
_DEFAULTS = {"mixer": {"gelu_approximate": True}}


@dataclasses.dataclass(frozen=True)
class Weights:
    """Float32 parameters in the released naming, and what their source records about them."""

    params: dict[str, Any]
    description: str  # of the source, for display
    family: str  # a key of `FAMILIES`
    found: Found  # what the shapes tell
    image_size: int  # side in pixels; for a model of any size, that of the training, or 224
    # Arguments of `build_model`: all of them for a run, the GELU for published weights, else {}.
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] | None = None  # None: not recorded, as in files
    recipe: EvalRecipe = PAPER


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model with its parameters: `model.apply({"params": params}, images)`."""

    model: nn.Module
    params: dict[str, Any]
    image_size: int  # side in pixels
    class_names: tuple[str, ...] | None
    recipe: EvalRecipe = PAPER
    assumed: str = ""  # what the source does not record, in a sentence


def load_weights(source: str) -> Weights:
    """Returns the weights from `source`.

    It is a catalogue name such as `imagenet21k/Mixer-B_16` (downloaded once), a `.npz` or
    `.safetensors` file, a workdir (its newest checkpoint), or WORKDIR/checkpoints/STEP.

    Raises:
      ValueError: the weights do not exist, are damaged or not finite, or are not those of a
        model of a known family.
    """
    if source in CATALOGUE:
        return _published_weights(source)
    path = locate(source)
    return _checkpoint_weights(path) if path.is_dir() else _weights(*read_params(path))


def resized_params(weights: Weights, image_size: int) -> dict[str, Any]:
    """Returns the parameters for images of side `image_size` pixels; see `Family.resize`.

    Raises:
      ValueError: the family has one resolution, or cannot take this one: a Mixer takes integer
        multiples of the weights' image size, a ViT multiples of its patch size.
    """
    if image_size == weights.image_size or not weights.found.num_tokens:
        return weights.params
    family, patch_size = FAMILIES[weights.family], weights.found.fields["patch_size"]
    if family.resize is None:
        raise ValueError(
            f"A {family.title} has one resolution, as its weights are of its tokens. Expected "
            f"{weights.image_size} pixels; got {image_size}."
        )
    unit = weights.image_size if weights.family == "mixer" else patch_size
    if image_size <= 0 or image_size % unit:
        sizes = ", ".join(str(unit * factor) for factor in (1, 2, 3))
        raise ValueError(
            f"The weights are for images of {weights.image_size} pixels and can only be resized "
            f"exactly to integer multiples of {unit}. Expected {sizes}, ...; got {image_size}."
        )
    old, new = (size // patch_size for size in (weights.image_size, image_size))
    return family.resize(weights.params, (old, old), (new, new))


def initial_params(source: str, model: nn.Module, image_size: int) -> dict[str, Any]:
    """Returns the parameters from `source` for fine-tuning `model`, without the head.

    They are resized to images of side `image_size` pixels (see `resize_resolution`).

    Raises:
      ValueError: the weights cannot be loaded or resized, or do not fit the model; the message
        lists every field that differs.
    """
    weights = load_weights(source)
    params = resized_params(weights, image_size)
    rebuilt = rebuild_model(weights.model, params, image_size)
    if type(rebuilt) is not type(model):
        raise ValueError(
            f"Expected the weights {source!r} to be of the model in the config, "
            f"{type(model).__name__}; got those of a {FAMILIES[weights.family].title}. Change "
            "config.model or init_from."
        )
    own, wanted = deciding_fields(rebuilt), deciding_fields(model)
    if "gelu_approximate" not in weights.model:
        own.pop("gelu_approximate", None)  # not recorded: the config decides
    left_out = {"head"} if wanted.get("representation_size") else {"head", "pre_logits"}
    if "pre_logits" in left_out:
        own.pop("representation_size", None)  # a layer of the head that goes with it
    differing = [
        f"{field} {value} (the config: {wanted.get(field)})"
        for field, value in own.items()
        if value != wanted.get(field)
    ]
    if differing:
        raise ValueError(
            f"Expected the weights {source!r}, resized to {image_size} pixels, to fit the model; "
            f"got {', '.join(differing)}. Change config.model to match."
        )
    return {name: value for name, value in params.items() if name not in left_out}


def load_model(
    source: str,
    *,
    image_size: int | None = None,
    gelu: str | None = None,
    dtype: DTypeLike | None = None,
) -> LoadedModel:
    """Returns the model and parameters from `source` (see `load_weights`).

    The model of a run is built from the run's own config. `image_size` is the side in pixels, by
    default that of the weights. `gelu` is `tanh` or `exact`, by default what the source records, or
    else `tanh`. `dtype` is that of the activations, by default the run's, or else float32.

    Raises:
      ValueError: the weights cannot be loaded or resized, or the GELU is unknown.
    """
    if gelu is not None and gelu not in GELUS:
        raise unknown_name("GELU", gelu, GELUS)
    weights = load_weights(source)
    image_size = weights.image_size if image_size is None else image_size
    params = resized_params(weights, image_size)
    changes: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    assumed = ""
    if gelu is not None:
        changes["gelu_approximate"] = GELUS[gelu]
    model = rebuild_model(weights.model, params, image_size, **changes)
    is_recorded = gelu is not None or "gelu_approximate" in weights.model
    if not is_recorded and getattr(model, "gelu_approximate", False):
        assumed = (
            f"{source} does not record the type of GELU: the tanh approximation is used, as in the "
            "released weights. Weights trained in PyTorch need --gelu=exact."
        )
    return LoadedModel(model, params, image_size, weights.class_names, weights.recipe, assumed)


def lost_in_files(weights: Weights, image_size: int) -> str:
    """Returns in a sentence what a file with these parameters does not record, or "".

    The file is for images of side `image_size` pixels.

    Raises:
      ValueError: nobody could load the file as the same model.
    """
    read, own = (
        deciding_fields(rebuild_model(recorded, weights.params, weights.image_size))
        for recorded in ({}, weights.model)
    )
    lost = {name: value for name, value in own.items() if value != read.get(name)}
    flags = ["--gelu=exact"] * (lost.pop("gelu_approximate", True) is False)
    if lost:
        raise ValueError(
            f"Expected a model that a file of parameters describes; got one with "
            f"{', '.join(f'{name}={value}' for name, value in lost.items())}, which no file "
            "records. Use the run itself."
        )
    flags += ["--class_names=FILE"] * (weights.class_names is not None)
    flags += [f"--crop={weights.recipe.crop}"] * (weights.recipe.crop != PAPER.crop)
    resize, default = (recipe.resize_for(image_size) for recipe in (weights.recipe, PAPER))
    flags += [f"--eval_resize={resize}"] * (resize != default)
    return f"To use it, add what it does not record: {' '.join(flags)}" if flags else ""


def _published_weights(name: str) -> Weights:
    published, path = CATALOGUE[name], fetch(name)
    try:
        params, description = read_params(path)
    except ValueError as error:
        raise ValueError(f"{error} To download it again, remove {path}.") from error
    if published.input_range == (0, 1):
        params = _for_symmetric_images(params)
    size, gelu = published.recipe.image_size, published.gelu_approximate
    known = dict(model={} if gelu is None else {"gelu_approximate": gelu}, recipe=published.recipe)
    weights = _weights(params, description, None, size, **known)
    if weights.found.fields["num_classes"] != 1000:
        return weights
    return dataclasses.replace(weights, class_names=tuple(imagenet_class_names()))


def _checkpoint_weights(step_directory: epath.Path) -> Weights:
    params, meta = read_checkpoint(step_directory)
    try:
        name = meta["config"]["model"]["name"]  # without it, shapes would decide
        known: dict[str, Any] = {
            "model": {**_DEFAULTS.get(name, {}), **meta["config"]["model"], "name": name},
            "class_names": tuple(map(str, meta["class_names"])),
            "recipe": recipe_of(meta["config"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"Expected the checkpoint {step_directory} to contain the config of a run; a required "
            f"entry is missing or invalid ({type(error).__name__}: {error}). Use another "
            "checkpoint."
        ) from error
    try:
        check_finite(flax.traverse_util.flatten_dict(params, sep="/"))
        size = meta["config"]["image_size"]
        weights = _weights(params, f"checkpoint of step {meta['step']:,}", name, size, **known)
    except ValueError as error:
        raise ValueError(f"Cannot load {step_directory}. {error}") from error
    names, num_classes = len(known["class_names"]), weights.found.fields["num_classes"]
    if names != num_classes:
        raise ValueError(
            f"Expected {num_classes:,} class names in {step_directory}, as its head has; got "
            f"{names:,}. Use another checkpoint."
        )
    return weights


def _weights(
    params: dict[str, Any],
    description: str,
    family: str | None = None,
    image_size: int = 224,
    **known: Any,
) -> Weights:
    """Returns weights; `image_size` matters to a model of any size alone."""
    family = family_of(params) if family is None else family_like(params, family)
    found = find_architecture(params, family)
    if found.num_tokens:
        side = math.isqrt(found.num_tokens)
        if side * side != found.num_tokens:
            raise ValueError(
                f"Expected weights for square images; got weights for {found.num_tokens} tokens, "
                "which do not form a square grid."
            )
        image_size = side * found.fields["patch_size"]
    return Weights(params, description, family, found, image_size, **known)


def _for_symmetric_images(params: dict[str, Any]) -> dict[str, Any]:
    """Converts weights trained on images in [0, 1] to our range, [-1, 1].

    `kernel @ (x + 1) / 2 + bias` is a stem with half the kernel and a shifted bias.
    """
    half = params["stem"]["kernel"] / 2
    return {
        **params,
        "stem": {"kernel": half, "bias": params["stem"]["bias"] + half.sum((0, 1, 2))},
    }
