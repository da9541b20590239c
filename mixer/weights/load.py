"""From weights to a model: for evaluation, for fine-tuning, and for a file of another format."""

import dataclasses
import os
import pathlib
import sys
from typing import Any

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from mixer.errors import unknown_name
from mixer.weights.eval_recipe import PAPER, EvalRecipe
from mixer.weights.families import FAMILIES, family_named
from mixer.weights.files import save_params
from mixer.weights.rebuild import deciding_fields, rebuild_model
from mixer.weights.weights import Weights, load_weights, resized_params

GELUS = {"tanh": True, "exact": False}  # name -> gelu_approximate
_NAMES = {True: "the tanh approximation", False: "the exact GELU"}


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model with its parameters: `model.apply({"params": params}, images)`."""

    model: nn.Module
    params: dict[str, Any]
    image_size: int  # side in pixels
    class_names: tuple[str, ...] | None
    recipe: EvalRecipe = PAPER
    assumed: str = ""  # what the source does not record, in a sentence


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
    else what weights of the family usually have in its format. `dtype` is that of the activations,
    by default the run's, or else float32.

    Raises:
      ValueError: the weights cannot be loaded or resized, or the GELU is unknown or there is none.
    """
    weights = with_gelu(load_weights(source), gelu)
    image_size = weights.image_size if image_size is None else image_size
    params = resized_params(weights, image_size)
    changes: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    model = rebuild_model(weights.model, params, image_size, **changes)
    assumed = assumed_gelu(source, weights)
    return LoadedModel(model, params, image_size, weights.class_names, weights.recipe, assumed)


def with_gelu(weights: Weights, gelu: str | None) -> Weights:
    """Returns the weights with a GELU of `GELUS`, whatever they record; None: as they are.

    Raises:
      ValueError: the name is unknown, or the model has no GELU.
    """
    if gelu is None:
        return weights
    if gelu not in GELUS:
        raise unknown_name("GELU", gelu, GELUS)
    if not hasattr(model := _rebuilt(weights, weights.model), "gelu_approximate"):
        raise ValueError(
            f"Expected weights of a model with GELU for --gelu={gelu}; got those of "
            f"{type(model).__name__}, which has none. Leave out --gelu."
        )
    changed = {**weights.model, "gelu_approximate": GELUS[gelu]}
    return dataclasses.replace(weights, model=changed, assumes_gelu=False)


def assumed_gelu(source: str, weights: Weights) -> str:
    """Returns in a sentence what GELU is assumed that the source does not record, or ""."""
    if not weights.assumes_gelu:
        return ""
    is_tanh = weights.model["gelu_approximate"]
    return f"{source} does not record the type of GELU: {_NAMES[is_tanh]} is used, as in " + (
        "the released weights. Weights trained in PyTorch need --gelu=exact."
        if is_tanh
        else "PyTorch. Weights trained in JAX need --gelu=tanh."
    )


def initial_params(source: str, model: nn.Module, image_size: int) -> dict[str, Any]:
    """Returns the parameters from `source` for fine-tuning `model`, without the head.

    They are resized to images of side `image_size` pixels (see `resized_params`). A layer between
    features and head that `model` lacks is left out with the head; a line says so, and another if
    the model's GELU is not the usual one for weights that do not record theirs.

    Raises:
      ValueError: the weights cannot be loaded or resized, or do not fit the model; the message
        lists every field that differs.
    """
    weights = load_weights(source)
    found = rebuild_model(weights.model, weights.params, weights.image_size)
    name = weights.model.get("name", weights.family)
    if type(found) is not type(model):
        raise ValueError(
            f"Expected the weights {source!r} to be of the model in the config, "
            f"{type(model).__name__}; got those of {type(found).__name__}. Use "
            f"config.model.name={name}, or other weights in init_from."
        )
    params = resized_params(weights, image_size)
    own = deciding_fields(rebuild_model(weights.model, params, image_size))
    wanted, left_out, notes = deciding_fields(model), {"head"}, []
    family = FAMILIES.get(weights.family)
    for field, layer in (family.optional_layers if family else {}).items():
        if own[field] and not wanted[field]:
            del own[field]
            left_out.add(layer)
            notes.append(f"The layer {layer} of {source} is left out with its head.")
    gelu = "gelu_approximate"
    if weights.assumes_gelu and own[gelu] != wanted[gelu]:
        notes.append(
            f"{source} does not record the type of GELU: such weights usually have "
            f"{_NAMES[own.pop(gelu)]}; the config sets {_NAMES[wanted[gelu]]}."
        )
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
    if jax.process_index() == 0:
        for note in notes:
            print(note, file=sys.stderr, flush=True)
    return {name: value for name, value in params.items() if name not in left_out}


def save_weights(
    path: str | os.PathLike[str], weights: Weights, image_size: int, *, overwrite: bool = False
) -> str:
    """Writes a file (see `save_params`) for images of side `image_size` pixels.

    Returns in a sentence what the file does not record, or "".

    Raises:
      ValueError: as `resized_params` and `save_params`, or nobody could load the file as the same
        model; nothing is written.
    """
    lost = lost_in_files(weights, image_size, pathlib.PurePath(path).suffix)
    gelu = getattr(_rebuilt(weights, weights.model), "gelu_approximate", None)
    params = resized_params(weights, image_size)
    save_params(path, params, overwrite=overwrite, gelu_approximate=gelu)
    return lost


def lost_in_files(weights: Weights, image_size: int, suffix: str) -> str:
    """Returns in a sentence what a file with these parameters does not record, or "".

    The file has that suffix and is for images of side `image_size` pixels.

    Raises:
      ValueError: nobody could load the file as the same model.
    """
    own = deciding_fields(_rebuilt(weights, weights.model))
    gelu = family_named(weights.family).naming(suffix).gelu_approximate
    if suffix == ".safetensors":
        gelu = own.get("gelu_approximate")
    read = deciding_fields(_rebuilt(weights, {} if gelu is None else {"gelu_approximate": gelu}))
    lost = {name: value for name, value in own.items() if value != read.get(name)}
    is_tanh = lost.pop("gelu_approximate", None)
    flags = [f"--gelu={name}" for name, value in GELUS.items() if value is is_tanh]
    if lost:
        raise ValueError(
            f"Expected a model that a file of parameters describes; got one with "
            f"{', '.join(f'{name}={value}' for name, value in lost.items())}, which no file "
            "records. Use the run itself."
        )
    is_of_any_size = not weights.found.num_tokens
    flags += [f"--image_size={image_size}"] * (is_of_any_size and image_size != PAPER.image_size)
    flags += ["--class_names=FILE"] * (weights.class_names is not None)
    flags += [f"--crop={weights.recipe.crop}"] * (weights.recipe.crop != PAPER.crop)
    resize, default = (recipe.resize_for(image_size) for recipe in (weights.recipe, PAPER))
    flags += [f"--eval_resize={resize}"] * (resize != default)
    return f"To use it, add what it does not record: {' '.join(flags)}" if flags else ""


def _rebuilt(weights: Weights, recorded: dict[str, Any]) -> nn.Module:
    return rebuild_model(recorded, weights.params, weights.image_size)
