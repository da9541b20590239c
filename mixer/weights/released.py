"""Reads and writes .npz weights in the released naming; also reads an older naming.

In the older naming, `stem` is `embedding`, `MixerBlock_3` is `Mixer/encoderblock_3`,
`pre_head_layer_norm` is `Mixer/encoder_norm`, and the two dense layers of an MLP are
`kernel1, bias1, kernel2, bias2` of `token_mixing_phase_N` or `channel_mixing_phase_N`, with
extra dimensions of size 1. The number `N` here and in `LayerNorm_N` is arbitrary; only the order
within the block matters. Block numbers are kept, so that a missing block is detected.

Source: the loader of the public training code of the paper's authors.
"""

import collections
import pathlib
import re
from collections.abc import Iterable

import numpy as np

from mixer.weights.architecture import architecture_of, check_shapes, expected_shapes
from mixer.weights.finite import check_finite
from mixer.weights.npz import NpzArchive

# Where training code stores the parameters within a checkpoint.
_PREFIXES = ("params/", "opt/target/", "optimizer/target/", "target/")

_OLDER_MODULES = {"embedding": "stem", "Mixer/encoder_norm": "pre_head_layer_norm", "head": "head"}
_OLDER_BLOCK = re.compile(r"Mixer/encoderblock_(0|[1-9]\d{0,5})/([a-zA-Z_]+)_(\d{1,6})/(\w+)", re.A)
_OLDER_PARTS = {  # (name in a block, index among modules with that name) -> released name
    ("LayerNorm", 0): "LayerNorm_0",
    ("LayerNorm", 1): "LayerNorm_1",
    ("token_mixing_phase", 0): "token_mixing",
    ("channel_mixing_phase", 0): "channel_mixing",
}
_OLDER_LEAVES = {
    "kernel1": "Dense_0/kernel",
    "bias1": "Dense_0/bias",
    "kernel2": "Dense_1/kernel",
    "bias2": "Dense_1/bias",
}


def load(path: pathlib.Path) -> tuple[dict[str, np.ndarray], str]:
    """Returns the float32 parameters by released name, and a description of the file.

    Raises:
      ValueError: the file is damaged, does not hold exactly the parameters of one Mixer, or has
        values that are not finite.
    """
    with NpzArchive(path) as archive:
        prefix = _prefix(archive.headers)
        inner = [name.removeprefix(prefix) for name in archive.headers if name.startswith(prefix)]
        is_older = any(name.startswith("Mixer/") for name in inner)
        names = _released_names(inner) if is_older else {name: name for name in inner}
        shapes = {name: archive.headers[prefix + raw].shape for name, raw in names.items()}
        expected = expected_shapes(architecture_of(shapes))
        if is_older:
            shapes = {
                name: expected[name] if _same_but_for_ones(shape, expected.get(name)) else shape
                for name, shape in shapes.items()
            }
        check_shapes(shapes, expected)
        params = {
            name: archive.read(prefix + names[name]).reshape(shape)
            for name, shape in expected.items()
        }
    check_finite({prefix + names[name]: array for name, array in params.items()})
    naming = "the older naming" if is_older else "the released naming"
    return params, f".npz in {naming}" + (f", below {prefix}" if prefix else "")


def check_container(path: pathlib.Path) -> None:
    """Raises ValueError unless the file is a whole .npz of plain arrays; reads their headers."""
    with NpzArchive(path):
        pass


def save(path: pathlib.Path, params: dict[str, np.ndarray]) -> None:
    """Writes the parameters, keyed by released name."""
    with path.open("wb") as file:  # given a path, NumPy would append its suffix
        np.savez(file, allow_pickle=False, **params)


def _prefix(names: Iterable[str]) -> str:
    found = (p for p in _PREFIXES if any(name.startswith(p) for name in names))
    return next(found, "")


def _released_names(older: list[str]) -> dict[str, str]:
    """Maps released names to the names in the file; unknown names map to themselves."""
    numbers = collections.defaultdict(set)
    for name in older:
        if match := _OLDER_BLOCK.fullmatch(name):
            numbers[match[1], match[2]].add(int(match[3]))
    names: dict[str, str] = {}
    for name in older:
        module, _, leaf = name.rpartition("/")
        released = name
        if match := _OLDER_BLOCK.fullmatch(name):
            place = sorted(numbers[match[1], match[2]]).index(int(match[3]))
            part = _OLDER_PARTS.get((match[2], place))
            if part is not None:
                released = f"MixerBlock_{match[1]}/{part}/{_OLDER_LEAVES.get(match[4], match[4])}"
        elif module in _OLDER_MODULES:
            released = f"{_OLDER_MODULES[module]}/{leaf}"
        if released in names:
            raise ValueError(
                f"Expected one array for {released!a}; got {names[released]!a} and {name!a}. "
                "Remove one of them."
            )
        names[released] = name
    return names


def _same_but_for_ones(shape: tuple[int, ...], expected: tuple[int, ...] | None) -> bool:
    # Comparing with all 1s removed from both, as a small model has dimensions of size 1 itself.
    return expected is not None and [d for d in shape if d != 1] == [d for d in expected if d != 1]
