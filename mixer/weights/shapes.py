"""Parameter shapes by name, and the error message for those that do not match."""

from collections.abc import Mapping
from typing import Any

import flax

Shapes = Mapping[str, tuple[int, ...]]  # "MixerBlock_0/token_mixing/Dense_0/kernel" -> shape

# Limits that keep an error message on one screen.
_LISTED = 8  # names per kind
_NAME_WIDTH = 120  # characters per name


def flat_shapes(params: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every array in the nested `params`, keyed by slash-separated name."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return {name: tuple(array.shape) for name, array in flat.items()}


def check_shapes(found: Shapes, expected: Shapes, model: str) -> None:
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
