"""The families of models: what the weights of each are called, what they tell, how they resize.

A family is everything that the code outside of `mixer/models/` knows of a model. A new one needs a
row here and its model in `MODELS` (docs/architecture.md).
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mixer.weights import bit, gmlp, mixer, vit, vit_timm
from mixer.weights.architecture import Shapes, flat_shapes
from mixer.weights.naming import Flat, Found, Read
from mixer.weights.position_embeddings import resize_position_embeddings
from mixer.weights.resize import resize_resolution

Grid = tuple[int, int]
Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Naming:
    """The names of a file format, without its container."""

    is_of: Callable[[Iterable[str]], bool]  # names in a file -> whether they are of this family
    read: Callable[[Shapes, Read], Flat]  # raises ValueError unless they are exactly one model's
    write: Callable[[Flat], Flat]


@dataclasses.dataclass(frozen=True)
class Family:
    """What weights files, evaluation and fine-tuning need of a model family."""

    title: str
    find: Callable[[Shapes], Found]  # by names of the parameter tree; raises ValueError
    expected_shapes: Callable[[Found], dict[str, tuple[int, ...]]]
    npz: Naming
    timm: Naming | None  # None: no .safetensors
    # Parameters, old and new grid of patches -> parameters; None: the resolution is fixed.
    resize: Callable[[Params, Grid, Grid], Params] | None
    # Fields of the model that a change of resolution changes.
    resized_fields: tuple[str, ...] = ()


FAMILIES = {
    "vit": Family(
        vit.MODEL,
        vit.find,
        vit.expected_shapes,
        Naming(vit.is_npz, vit.from_npz, vit.to_npz),
        Naming(vit_timm.is_timm, vit_timm.from_timm, vit_timm.to_timm),
        resize_position_embeddings,
    ),
    "bit": Family(
        bit.MODEL,
        bit.find,
        bit.expected_shapes,
        Naming(bit.is_npz, bit.from_npz, bit.to_npz),
        None,
        lambda params, old, new: params,
    ),
    "gmlp": Family(
        gmlp.MODEL,
        gmlp.find,
        gmlp.expected_shapes,
        Naming(gmlp.is_npz, gmlp.from_npz, gmlp.to_npz),
        Naming(gmlp.is_timm, gmlp.from_timm, gmlp.to_timm),
        None,
    ),
    # The last: what is of no other family is compared with a Mixer.
    "mixer": Family(
        mixer.MODEL,
        mixer.find,
        mixer.expected_shapes,
        Naming(mixer.is_npz, mixer.from_npz, mixer.to_npz),
        Naming(mixer.is_timm, mixer.from_timm, mixer.to_timm),
        resize_resolution,
        resized_fields=("tokens_mlp_dim",),
    ),
}


def family_of(params: Mapping[str, Any]) -> str:
    """Returns the name of the family of a parameter tree."""
    return family_of_names(flat_shapes(params), ".npz")


def family_of_names(names: Iterable[str], suffix: str) -> str:
    """Returns the name of the family of the arrays with these names in a file of that suffix.

    Raises:
      ValueError: the naming is known and not supported.
    """
    names = list(names)
    if suffix != ".npz":
        bit.refuse_timm(names)
    namings = {name: f.npz if suffix == ".npz" else f.timm for name, f in FAMILIES.items()}
    return next(name for name, naming in namings.items() if naming and naming.is_of(names))


def family_like(params: Mapping[str, Any], model_name: str) -> str:
    """Returns the family that the weights of a model are read as.

    A model without a row here may have the parameters of one that has; otherwise it is itself.
    """
    if model_name in FAMILIES:
        return model_name
    name, shapes = family_of(params), flat_shapes(params)
    try:
        is_same = FAMILIES[name].expected_shapes(FAMILIES[name].find(shapes)) == shapes
    except ValueError:
        is_same = False
    return name if is_same else model_name


def find_architecture(params: Mapping[str, Any], family: str) -> Found:
    """Returns the fields and the number of patches that the shapes of parameters are of.

    Of a family without a row here, that is the number of classes.

    Raises:
      ValueError: parameters are missing.
    """
    shapes = flat_shapes(params)
    if family in FAMILIES:
        return FAMILIES[family].find(shapes)
    return Found({"num_classes": shapes.get("head/bias", (0,))[0]}, num_tokens=0)


def resized_fields(family: str) -> tuple[str, ...]:
    """Returns the fields of a model that a change of resolution changes."""
    return FAMILIES[family].resized_fields if family in FAMILIES else ()
