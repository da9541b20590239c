"""What the namings of weights files have in common.

Names and shapes come first: a file's arrays are read only once they are known to be those of one
model. So functions take `shapes`, by name in the file, and `read`, which returns the float32 array
of a name. Arrays in a dict need no file: `shapes_of(arrays)` and `arrays.__getitem__`.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from mixer.weights.shapes import Shapes, check_shapes, first_names

# Permutations by number of dimensions: PyTorch has kernels as [out, in] and [out, in, H, W], Flax
# as [in, out] and [H, W, in, out].
TO_TIMM = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}
FROM_TIMM = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}

Flat = dict[str, np.ndarray]  # name -> array
Read = Callable[[str], np.ndarray]

# Where training code stores the parameters within a checkpoint; "img": of a model of images and
# texts, that of the images.
PREFIXES = ("params/img/", "params/", "opt/target/", "optimizer/target/", "target/")


@dataclasses.dataclass(frozen=True)
class Found:
    """What shapes of parameters tell: fields of `build_model`, and the number of patches.

    Without a head, `num_classes` is 0. `num_tokens` is 0 if the model takes images of any size.
    """

    fields: dict[str, Any]
    num_tokens: int


def shapes_of(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every array, by name."""
    return {name: tuple(array.shape) for name, array in arrays.items()}


def prefix_of(names: Iterable[str]) -> str:
    """Returns the first of `PREFIXES` that a name begins with, or ""."""
    names = list(names)
    return next((p for p in PREFIXES if any(name.startswith(p) for name in names)), "")


def without_prefix(names: Iterable[str]) -> dict[str, str]:
    """Returns name without the file's prefix -> name; other names than those below it are left out.

    See `prefix_of`.
    """
    names = list(names)
    prefix = prefix_of(names)
    return {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}


def renamed(names: Mapping[str, str], rename: Callable[[str], str]) -> dict[str, str]:
    """Returns `rename(key)` -> value, for name -> name in the file.

    Raises:
      ValueError: two names become the same.
    """
    found: dict[str, str] = {}
    for name, raw in names.items():
        new = rename(name)
        if new in found:
            raise ValueError(
                f"Expected one array for {new!a}; got {found[new]!a} and {raw!a}. Remove one of "
                "them."
            )
        found[new] = raw
    return found


def read_renamed(
    shapes: Shapes, read: Read, names: Mapping[str, str], expected: Shapes, model: str
) -> Flat:
    """Returns the arrays of a file by their new `names`; dimensions of size 1 may differ.

    Raises:
      ValueError: they are not exactly the expected ones.
    """
    found = {
        new: expected[new] if _same_but_for_ones(shapes[name], expected.get(new)) else shapes[name]
        for new, name in names.items()
    }
    check_shapes(found, expected, model)
    return {new: read(names[new]).reshape(shape) for new, shape in expected.items()}


def permuted(shape: tuple[int, ...], axes: Mapping[int, tuple[int, ...]]) -> tuple[int, ...]:
    """Returns a shape with its axes permuted, by their number; of an unknown number as it is."""
    return tuple(shape[axis] for axis in axes.get(len(shape), range(len(shape))))


def dimension(shapes: Shapes, name: str, axis: int, model: str) -> int:
    """Returns the size of an axis of a parameter.

    Raises:
      ValueError: there is no such parameter, or it is empty or has no such axis.
    """
    shape = shapes.get(name, ())
    if not -len(shape) <= axis < len(shape) or 0 in shape:
        found = f"shape {shape}" if name in shapes else "none"
        raise ValueError(
            f"Expected the parameter {name!r} of a {model}; got {found} in {len(shapes)} "
            f"parameters: {first_names(list(shapes))}. Load the weights of a {model}."
        )
    return shape[axis]


def is_any(names: Iterable[str], unsupported: Mapping[str, str]) -> bool:
    """True if a name matches a pattern in `unsupported`."""
    return any(re.search(pattern, name) for name in names for pattern in unsupported)


def refuse(names: Iterable[str], unsupported: Mapping[str, str], model: str) -> None:
    """Raises ValueError if a name matches a pattern in `unsupported`, which says what that is."""
    for name in names:
        for pattern, kind in unsupported.items():
            if re.search(pattern, name):
                raise refusal(kind, f"parameter {first_names([name])}", model)


def refuse_gated(shapes: Shapes, mlp: str, model: str) -> None:
    """Raises ValueError if of the MLP `mlp`, by timm's names, one half gates the other."""
    first, second = (shapes.get(f"{mlp}.{layer}.weight", ()) for layer in ("fc1", "fc2"))
    if len(first) == len(second) == 2 and first[0] == 2 * second[1]:
        found = f"{mlp}.fc1.weight {first} before {mlp}.fc2.weight {second}"
        raise refusal("one with gated MLPs (GLU)", found, model)


def refusal(kind: str, found: str, model: str) -> ValueError:
    """Returns the error that weights are of a kind of a model that is not supported."""
    return ValueError(
        f"Expected the weights of a plain {model}; got {kind}, which is not supported ({found}). "
        "Choose other weights."
    )


def _same_but_for_ones(shape: tuple[int, ...], expected: tuple[int, ...] | None) -> bool:
    # Comparing with all 1s removed from both, as a small model has dimensions of size 1 itself.
    return expected is not None and [d for d in shape if d != 1] == [d for d in expected if d != 1]
