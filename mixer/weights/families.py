"""The families of models: what the weights of each are called, what they tell, how they resize.

A family is everything that the code outside of `mixer/models/` knows of a model. A new one needs a
row here and its model in `MODELS` (docs/architecture.md).
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mixer.weights import bit, gmlp, mixer, mixer_timm, vit, vit_timm
from mixer.weights.naming import Flat, Found
from mixer.weights.position_embeddings import resize_position_embeddings
from mixer.weights.resize import resize_resolution
from mixer.weights.shapes import Shapes, first_names, flat_shapes

Grid = tuple[int, int]
Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Naming:
    """The names of a file format, without its container."""

    called: Callable[[Iterable[str]], str]  # names in a file -> "in the older naming"
    is_of: Callable[[Iterable[str]], bool]  # names in a file -> whether they are of this family
    # Shapes, a function that reads, and `recorded` by name -> parameters of the tree; raises
    # ValueError unless they are exactly one model's.
    read: Callable[..., Flat]
    write: Callable[[Flat], Flat] | None  # None: `read` explains why there is none
    # The GELU of weights in it that do not record theirs: True for tanh, as in JAX, False for the
    # exact one, as in PyTorch; None: the family has none.
    gelu_approximate: bool | None
    recorded: tuple[str, ...] = ()  # fields of the model that the arrays do not tell


@dataclasses.dataclass(frozen=True)
class Family:
    """What weights files, evaluation and fine-tuning need of a model family."""

    title: str
    find: Callable[[Shapes], Found]  # by names of the parameter tree; raises ValueError
    expected_shapes: Callable[[Found], dict[str, tuple[int, ...]]]
    npz: Naming
    timm: Naming  # of .safetensors
    # Parameters, old and new grid of patches -> parameters. None: the resolution is fixed, or, for
    # a family without tokens, of no matter.
    resize: Callable[[Params, Grid, Grid], Params] | None
    # Fields of the model that a change of resolution changes.
    resized_fields: tuple[str, ...] = ()
    # True: images are enlarged by integer factors alone, to whole tiles of the old size.
    resizes_to_tiles: bool = False
    # Field that may be 0 -> the layer before the head that it is the size of, for pre-training.
    optional_layers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def naming(self, suffix: str) -> Naming:
        """Returns the naming in files with this suffix."""
        return self.npz if suffix == ".npz" else self.timm


def _always(name: str) -> Callable[[Iterable[str]], str]:
    return lambda names: name


_IN_TIMM = "in timm's naming"

FAMILIES = {
    "vit": Family(
        vit.MODEL,
        vit.find,
        vit.expected_shapes,
        Naming(_always("of a ViT"), vit.is_npz, vit.from_npz, vit.to_npz, True),
        Naming(
            _always(f"{_IN_TIMM}, of a ViT"),
            vit_timm.is_timm,
            vit_timm.from_timm,
            vit_timm.to_timm,
            False,
            recorded=("num_heads",),
        ),
        resize_position_embeddings,
        optional_layers={"representation_size": "pre_logits"},
    ),
    "bit": Family(
        bit.MODEL,
        bit.find,
        bit.expected_shapes,
        Naming(_always("of a BiT-ResNet"), bit.is_npz, bit.from_npz, bit.to_npz, None),
        Naming(_always(_IN_TIMM), bit.is_timm, bit.from_timm, None, None),
        None,
    ),
    "gmlp": Family(
        gmlp.MODEL,
        gmlp.find,
        gmlp.expected_shapes,
        Naming(_always("of a gMLP"), gmlp.is_npz, gmlp.from_npz, gmlp.to_npz, False),
        Naming(
            _always(f"{_IN_TIMM}, of a gMLP"), gmlp.is_timm, gmlp.from_timm, gmlp.to_timm, False
        ),
        None,
    ),
    "mixer": Family(
        mixer.MODEL,
        mixer.find,
        mixer.expected_shapes,
        Naming(mixer.npz_naming, mixer.is_npz, mixer.from_npz, mixer.to_npz, True),
        Naming(
            _always(_IN_TIMM), mixer_timm.is_timm, mixer_timm.from_timm, mixer_timm.to_timm, True
        ),
        resize_resolution,
        resized_fields=("tokens_mlp_dim",),
        resizes_to_tiles=True,
    ),
}


# Models with the arrays of a family, whose images are permuted in a way of their size.
ONE_RESOLUTION = ("permuted_mixer", "permuted_bit")
# Models whose arrays may look like those of a family, and compute something else.
_NO_FAMILY = ("mixer_variant",)


def family_named(name: str) -> Family:
    """Returns a row of `FAMILIES`.

    Raises:
      ValueError: there is none, as for a model of others.
    """
    if name not in FAMILIES:
        raise ValueError(
            f"Expected the weights of a model of {_titles()}; got those of {name!r}, which have no "
            "file format. Use the run itself, or add a row to FAMILIES (docs/architecture.md)."
        )
    return FAMILIES[name]


def family_of(params: Mapping[str, Any]) -> str:
    """Returns the name of the family of a parameter tree; raises as `family_of_names`."""
    return family_of_names(flat_shapes(params), ".npz")


def family_of_names(names: Iterable[str], suffix: str) -> str:
    """Returns the name of the family of the arrays with these names in a file of that suffix.

    Raises:
      ValueError: they are of no family.
    """
    names = list(names)
    for name, family in FAMILIES.items():
        if family.naming(suffix).is_of(names):
            return name
    raise ValueError(
        f"Expected the weights of a model of {_titles()}; got {len(names)} arrays with other names "
        f"in a {suffix}: {first_names(names)}. Choose other weights."
    )


def family_like(params: Mapping[str, Any], model_name: str) -> str:
    """Returns the family that the weights of a model are read as.

    A model without a row here may have the parameters of one that has; otherwise it is itself.
    """
    if model_name in FAMILIES or model_name in _NO_FAMILY:
        return model_name
    shapes = flat_shapes(params)
    try:
        name = family_of(params)
        is_same = FAMILIES[name].expected_shapes(FAMILIES[name].find(shapes)) == shapes
    except ValueError:
        return model_name
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


def _titles() -> str:
    *others, last = (family.title for family in FAMILIES.values())
    return f"{', '.join(others)} or {last}"
