"""Loads weights from the catalogue, a file or a checkpoint, for a model or a training run."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
from etils import epath
from jax.typing import DTypeLike

from mixer.checkpoint.folder import newest_step
from mixer.checkpoint.format import read_checkpoint
from mixer.errors import suggestion, unknown_name
from mixer.models.mixer import MlpMixer
from mixer.weights import read_params
from mixer.weights.architecture import Architecture, architecture_of, flat_shapes
from mixer.weights.catalogue import CATALOGUE, fetch
from mixer.weights.eval_recipe import PAPER, EvalRecipe, recipe_of
from mixer.weights.resize import resize_resolution

GELUS = {"tanh": True, "exact": False}  # name -> gelu_approximate
_SHARED_FIELDS = ("patch_size", "num_blocks", "hidden_dim", "tokens_mlp_dim", "channels_mlp_dim")


@dataclasses.dataclass(frozen=True)
class Weights:
    """Float32 parameters in the released naming, and what their source records about them.

    `gelu_approximate` and `class_names` are None if the source does not record them, as in files.
    """

    params: dict[str, Any]
    description: str  # of the source, for display
    architecture: Architecture
    image_size: int  # side in pixels
    gelu_approximate: bool | None = None
    class_names: tuple[str, ...] | None = None
    recipe: EvalRecipe = PAPER


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model with its parameters: `model.apply({"params": params}, images)`."""

    model: MlpMixer
    params: dict[str, Any]
    image_size: int  # side in pixels
    class_names: tuple[str, ...] | None
    recipe: EvalRecipe = PAPER


def load_weights(source: str) -> Weights:
    """Returns the weights from `source`.

    It is a catalogue name such as `imagenet21k/Mixer-B_16` (downloaded once), a `.npz` or
    `.safetensors` file, a workdir (its newest checkpoint), or WORKDIR/checkpoints/STEP.

    Raises:
      ValueError: the weights do not exist, are damaged, or are not those of an MLP-Mixer.
    """
    if source in CATALOGUE:
        published = CATALOGUE[source]
        params, description = read_params(fetch(source))
        if published.input_range == (0, 1):
            params = _for_symmetric_images(params)
        return _weights(params, description, gelu_approximate=published.gelu_approximate)
    path = epath.Path(source).expanduser()
    if path.is_dir():
        return _checkpoint_weights(_step_directory(path))
    if path.suffix in (".npz", ".safetensors"):
        return _weights(*read_params(path))
    raise ValueError(
        f"There are no weights {source!r}. Expected a name in the catalogue, a .npz or "
        ".safetensors file, a workdir, or one of its checkpoints, WORKDIR/checkpoints/STEP."
        f"{suggestion(source, CATALOGUE)}"
    )


def resized_params(weights: Weights, image_size: int) -> dict[str, Any]:
    """Returns the parameters for images of side `image_size` pixels; see `resize_resolution`.

    Raises:
      ValueError: `image_size` is not an integer multiple of the weights' image size.
    """
    if image_size == weights.image_size:
        return weights.params
    if image_size <= 0 or image_size % weights.image_size:
        sizes = ", ".join(str(weights.image_size * factor) for factor in (1, 2, 3))
        raise ValueError(
            f"The weights are for images of {weights.image_size} pixels and can only be resized "
            f"exactly to integer multiples. Expected {sizes}, ...; got {image_size}."
        )
    old, new = (
        size // weights.architecture.patch_size for size in (weights.image_size, image_size)
    )
    return resize_resolution(weights.params, (old, old), (new, new))


def initial_params(source: str, model: nn.Module, image_size: int) -> dict[str, Any]:
    """Returns the parameters from `source` for fine-tuning `model`, without the head.

    They are resized to images of side `image_size` pixels (see `resize_resolution`).

    Raises:
      ValueError: the weights cannot be loaded or resized, or do not fit the model; the message
        lists every field that differs.
    """
    weights = load_weights(source)
    params = resized_params(weights, image_size)
    found = _architecture(params)
    differing = [
        f"{field} {getattr(found, field)} (the config: {getattr(model, field)})"
        for field in _SHARED_FIELDS
        if getattr(found, field) != getattr(model, field)
    ]
    if weights.gelu_approximate not in (None, model.gelu_approximate):
        differing.append(
            f"gelu_approximate {weights.gelu_approximate} (the config: {model.gelu_approximate})"
        )
    if differing:
        raise ValueError(
            f"Expected the weights {source!r}, resized to {image_size} pixels, to fit the model; "
            f"got {', '.join(differing)}. Change config.model to match."
        )
    return {name: value for name, value in params.items() if name != "head"}


def load_model(
    source: str,
    *,
    image_size: int | None = None,
    gelu: str | None = None,
    dtype: DTypeLike = "float32",
) -> LoadedModel:
    """Returns the model and parameters from `source` (see `load_weights`).

    `image_size` is the side in pixels, by default that of the weights. `gelu` is `tanh` or `exact`,
    by default what the source records, or else `tanh`. `dtype` is that of the activations.

    Raises:
      ValueError: the weights cannot be loaded or resized, or the GELU is unknown.
    """
    if gelu is not None and gelu not in GELUS:
        raise unknown_name("GELU", gelu, GELUS)
    weights = load_weights(source)
    image_size = weights.image_size if image_size is None else image_size
    params = resized_params(weights, image_size)
    fields = dataclasses.asdict(_architecture(params))
    del fields["num_tokens"]
    approximate = weights.gelu_approximate is not False if gelu is None else GELUS[gelu]
    model = MlpMixer(**fields, gelu_approximate=approximate, dtype=dtype)
    return LoadedModel(model, params, image_size, weights.class_names, weights.recipe)


def _checkpoint_weights(step_directory: epath.Path) -> Weights:
    params, meta = read_checkpoint(step_directory)
    try:
        known = {
            "gelu_approximate": bool(meta["config"]["model"]["gelu_approximate"]),
            "class_names": tuple(map(str, meta["class_names"])),
            "recipe": recipe_of(meta["config"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"Expected the checkpoint {step_directory} to contain the config of a run; a required "
            f"entry is missing or invalid ({type(error).__name__}: {error}). Use another "
            "checkpoint."
        ) from error
    return _weights(params, f"checkpoint of step {meta['step']:,}", **known)


def _weights(params: dict[str, Any], description: str, **known: Any) -> Weights:
    architecture = _architecture(params)
    side = math.isqrt(architecture.num_tokens)
    if side * side != architecture.num_tokens:
        raise ValueError(
            f"Expected weights for square images; got weights for {architecture.num_tokens} "
            "tokens, which do not form a square grid."
        )
    return Weights(params, description, architecture, side * architecture.patch_size, **known)


def _architecture(params: dict[str, Any]) -> Architecture:
    return architecture_of(flat_shapes(params))


def _for_symmetric_images(params: dict[str, Any]) -> dict[str, Any]:
    """Converts weights trained on images in [0, 1] to our range, [-1, 1].

    `kernel @ (x + 1) / 2 + bias` is a stem with half the kernel and a shifted bias.
    """
    half = params["stem"]["kernel"] / 2
    return {
        **params,
        "stem": {"kernel": half, "bias": params["stem"]["bias"] + half.sum((0, 1, 2))},
    }


def _step_directory(path: epath.Path) -> epath.Path:
    if not path.is_absolute():  # Orbax requires absolute paths
        path = path.absolute()
    if (path / "state").is_dir():
        return path
    step = newest_step(path / "checkpoints")
    if step is None:
        raise ValueError(
            f"There is no complete checkpoint in {path}. Expected a workdir that contains "
            "checkpoints/STEP, or the folder WORKDIR/checkpoints/STEP itself."
        )
    return path / "checkpoints" / str(step)
