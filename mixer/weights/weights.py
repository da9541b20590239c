"""Weights in memory, from the catalogue, a file or a checkpoint, and at another resolution."""

import dataclasses
import math
from typing import Any

import flax
from etils import epath

from mixer.checkpoint.format import read_checkpoint
from mixer.data.imagenet import imagenet_class_names
from mixer.weights.catalogue import CATALOGUE, fetch
from mixer.weights.eval_recipe import PAPER, EvalRecipe, recipe_of
from mixer.weights.families import (
    FAMILIES,
    ONE_RESOLUTION,
    family_like,
    family_of,
    find_architecture,
)
from mixer.weights.files import WeightsFile, read_file
from mixer.weights.finite import check_finite
from mixer.weights.hub import (
    CONFIG,
    TENSORS,
    for_symmetric_images,
    is_hub_folder,
    read_hub_config,
)
from mixer.weights.naming import Found
from mixer.weights.source import locate


@dataclasses.dataclass(frozen=True)
class Weights:
    """Float32 parameters in the released naming, and what their source records about them."""

    params: dict[str, Any]
    description: str  # of the source, for display
    family: str  # a key of `FAMILIES`
    found: Found  # what the shapes tell
    image_size: int  # side in pixels; for a model of any size, that of the training, or 224
    # Arguments of `build_model`: all of them for a run; of a file the GELU, if the family has one.
    model: dict[str, Any]
    assumes_gelu: bool = False  # the GELU in `model` is not recorded, but usual in such files
    class_names: tuple[str, ...] | None = None  # None: not recorded, as in files
    recipe: EvalRecipe = PAPER


def load_weights(source: str) -> Weights:
    """Returns the weights from `source`.

    It is a catalogue name such as `imagenet21k/Mixer-B_16` (downloaded once), a `.npz` or
    `.safetensors` file, a workdir (its newest checkpoint), WORKDIR/checkpoints/STEP, or a folder
    of timm, with `config.json` and `model.safetensors`.

    Raises:
      ValueError: the weights do not exist, are damaged or not finite, or are not those of a
        model of a known family.
    """
    if source in CATALOGUE:
        return _published_weights(source)
    path = locate(source)
    if not path.is_dir():
        return _file_weights(read_file(path))
    return _hub_weights(path) if is_hub_folder(path) else _checkpoint_weights(path)


def resized_params(weights: Weights, image_size: int) -> dict[str, Any]:
    """Returns the parameters for images of side `image_size` pixels; see `Family.resize`.

    Raises:
      ValueError: the family has one resolution, or cannot take this one: a Mixer takes integer
        multiples of the weights' image size, a ViT multiples of its patch size.
    """
    if not weights.found.num_tokens and image_size < 1:
        raise ValueError(f"Expected an image size of at least 1 pixel; got {image_size}.")
    if image_size == weights.image_size:
        return weights.params
    name = weights.model.get("name", weights.family)
    if weights.family not in FAMILIES or name in ONE_RESOLUTION:
        raise ValueError(
            f"Expected {weights.image_size} pixels, those of the run: the model {name} has no "
            f"change of resolution; got {image_size}."
        )
    if not weights.found.num_tokens:
        return weights.params
    family, patch_size = FAMILIES[weights.family], weights.found.fields["patch_size"]
    if family.resize is None:
        raise ValueError(
            f"A {family.title} has one resolution, as its weights are of its tokens. Expected "
            f"{weights.image_size} pixels; got {image_size}."
        )
    unit = weights.image_size if family.resizes_to_tiles else patch_size
    if image_size <= 0 or image_size % unit:
        sizes = ", ".join(str(unit * factor) for factor in (1, 2, 3))
        exactly = "exactly " if family.resizes_to_tiles else ""
        raise ValueError(
            f"The weights are for images of {weights.image_size} pixels and can only be resized "
            f"{exactly}to integer multiples of {unit}. Expected {sizes}, ...; got {image_size}."
        )
    old, new = (size // patch_size for size in (weights.image_size, image_size))
    return family.resize(weights.params, (old, old), (new, new))


def _file_weights(file: WeightsFile, **known: Any) -> Weights:
    gelu = file.gelu_approximate
    return _weights(
        file.params,
        file.description,
        model={} if gelu is None else {"gelu_approximate": gelu},
        assumes_gelu=gelu is not None and not file.records_gelu,
        **known,
    )


def _published_weights(name: str) -> Weights:
    published, path = CATALOGUE[name], fetch(name)
    try:
        file = read_file(path)
    except ValueError as error:
        raise ValueError(f"{error} To download it again, remove {path}.") from error
    if file.gelu_approximate is not None:
        file = dataclasses.replace(
            file, gelu_approximate=published.gelu_approximate, records_gelu=True
        )
    if published.input_range == (0, 1):
        params = for_symmetric_images(file.params, mean=(0, 0, 0), std=(1, 1, 1))
        file = dataclasses.replace(file, params=params)
    size = published.recipe.image_size
    weights = _file_weights(file, image_size=size, recipe=published.recipe)
    if weights.found.fields["num_classes"] != 1000:
        return weights
    return dataclasses.replace(weights, class_names=tuple(imagenet_class_names()))


def _hub_weights(folder: epath.Path) -> Weights:
    hub, file = read_hub_config(folder), read_file(folder / TENSORS)
    if not file.records_gelu and file.gelu_approximate is not None:
        is_given = hub.gelu_approximate is not None
        file = dataclasses.replace(
            file, gelu_approximate=bool(hub.gelu_approximate), records_gelu=is_given
        )
    params = for_symmetric_images(file.params, hub.mean, hub.std)
    weights = _file_weights(dataclasses.replace(file, params=params))
    fields = weights.found.fields
    own = {
        "global_pool": {"token": "token"}.get(fields.get("pool", ""), "avg"),
        "num_heads": fields.get("num_heads"),
    }
    for name, given in (("global_pool", hub.pool), ("num_heads", hub.num_heads)):
        if given not in (None, own[name]):
            raise ValueError(
                f"Expected {name}={own[name]} in {folder / CONFIG}, as the weights beside it are "
                f"read; got {given}. Correct it, or use other weights."
            )
    names = hub.class_names
    return dataclasses.replace(
        weights,
        recipe=hub.recipe(weights.image_size),
        class_names=names if names and len(names) == fields["num_classes"] else None,
    )


def _checkpoint_weights(step_directory: epath.Path) -> Weights:
    params, meta = read_checkpoint(step_directory)
    try:
        model: dict[str, Any] = {  # JSON has lists for tuples
            field: tuple(value) if isinstance(value, list) else value
            for field, value in meta["config"]["model"].items()
        }
        name = model["name"]  # without it, shapes would decide
        known: dict[str, Any] = {
            "model": model,
            "class_names": tuple(map(str, meta["class_names"])),
            "recipe": recipe_of(meta["config"]),
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
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
