"""Infers the MLP-Mixer architecture from parameter shapes, and checks that all are present."""

import collections
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax

Shapes = Mapping[str, tuple[int, ...]]  # "MixerBlock_0/token_mixing/Dense_0/kernel" -> shape

# Limits that keep an error message on one screen.
_LISTED = 8  # names per kind
_NAME_WIDTH = 120  # characters per name


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The model fields that parameter shapes determine, and the number of tokens.

    Without a head, `num_classes` is 0.
    """

    num_classes: int
    num_blocks: int
    patch_size: int
    hidden_dim: int
    tokens_mlp_dim: int
    channels_mlp_dim: int
    num_tokens: int


def flat_shapes(params: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every array in the nested `params`, keyed by slash-separated name."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return {name: tuple(array.shape) for name, array in flat.items()}


def architecture_of(shapes: Shapes) -> Architecture:
    """Returns the architecture that most shapes, in the released naming, agree on.

    Widths are inferred from the number of elements of the biases, so extra dimensions of size 1
    do not matter. `check_shapes` then reports the parameters that do not fit.

    Raises:
      ValueError: a width cannot be inferred because the relevant parameters are missing or empty.
    """
    stem = shapes.get("stem/kernel", ())
    if len(stem) < 4:
        raise ValueError(
            "Expected a 'stem/kernel' of shape (patch_size, patch_size, 3, hidden_dim); got "
            f"{f'shape {stem}' if stem else 'none'} in {len(shapes)} parameters: "
            f"{first_names(list(shapes))}. Load the weights of an MLP-Mixer."
        )
    has_head = any(name.startswith("head/") for name in shapes)
    return Architecture(
        num_classes=_width(shapes, "head") if has_head else 0,
        num_blocks=len({name.partition("/")[0] for name in shapes if _in_block(name)}),
        patch_size=stem[-4],
        hidden_dim=_width(shapes, "stem", "channel_mixing/Dense_1"),
        tokens_mlp_dim=_width(shapes, "token_mixing/Dense_0"),
        channels_mlp_dim=_width(shapes, "channel_mixing/Dense_0"),
        num_tokens=_width(shapes, "token_mixing/Dense_1"),
    )


def expected_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter of the model, keyed by released name."""
    a = architecture

    def dense(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}/scale": (a.hidden_dim,), f"{name}/bias": (a.hidden_dim,)}

    shapes: dict[str, tuple[int, ...]] = {
        "stem/kernel": (a.patch_size, a.patch_size, 3, a.hidden_dim),
        "stem/bias": (a.hidden_dim,),
    }
    for block in (f"MixerBlock_{number}" for number in range(a.num_blocks)):
        shapes |= norm(f"{block}/LayerNorm_0")
        shapes |= dense(f"{block}/token_mixing/Dense_0", a.num_tokens, a.tokens_mlp_dim)
        shapes |= dense(f"{block}/token_mixing/Dense_1", a.tokens_mlp_dim, a.num_tokens)
        shapes |= norm(f"{block}/LayerNorm_1")
        shapes |= dense(f"{block}/channel_mixing/Dense_0", a.hidden_dim, a.channels_mlp_dim)
        shapes |= dense(f"{block}/channel_mixing/Dense_1", a.channels_mlp_dim, a.hidden_dim)
    shapes |= norm("pre_head_layer_norm")
    return shapes | (dense("head", a.hidden_dim, a.num_classes) if a.num_classes else {})


def check_shapes(found: Shapes, expected: Shapes, model: str = "MLP-Mixer") -> None:
    """Raises ValueError, listing missing, extra and misshapen parameters, if there are any."""
    missing = [name for name in expected if name not in found]
    extra = [f"{name} {found[name]}" for name in found if name not in expected]
    misshapen = [
        f"{name} {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if missing or extra or misshapen:
        raise ValueError(
            f"Expected exactly the {len(expected)} parameters of one {model}; got "
            f"{len(missing)} missing, {len(extra)} extra, {len(misshapen)} with the wrong shape."
            + _listing("missing", missing)
            + _listing("extra", extra)
            + _listing("wrong shape", misshapen)
            + f"\nDownload the file again, and check that it holds {model} weights."
        )


def first_names(names: list[str]) -> str:
    """Returns the first few names on one line, with control characters escaped."""
    shown = [ascii(name)[1:-1] for name in names[:_LISTED]]
    shown = [name if len(name) <= _NAME_WIDTH else f"{name[:_NAME_WIDTH]}..." for name in shown]
    more = f" ... and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return "; ".join(shown) + more


def _listing(kind: str, names: list[str]) -> str:
    return f"\n  {kind}: {first_names(names)}" if names else ""


def _in_block(name: str) -> bool:
    return name.startswith("MixerBlock_") and "/" in name


def _width(shapes: Shapes, *modules: str) -> int:
    """Returns the most common output width of the given layers, from biases or else kernels."""
    layers = [
        (leaf, shape)
        for name, shape in shapes.items()
        for module, _, leaf in [name.rpartition("/")]
        if module.endswith(modules)
    ]
    widths = [math.prod(shape) for leaf, shape in layers if leaf == "bias"]
    widths = widths or [shape[-1] for leaf, shape in layers if leaf == "kernel" and shape]
    if not widths or min(widths) < 1:
        raise ValueError(
            f"Expected parameters of {' and '.join(modules)}; got "
            f"{'empty arrays' if widths else 'none'} in {len(shapes)} parameters: "
            f"{first_names(list(shapes))}. Load the weights of an MLP-Mixer."
        )
    return collections.Counter(widths).most_common(1)[0][0]
