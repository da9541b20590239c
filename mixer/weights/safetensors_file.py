"""Reads .safetensors files, in which names, shapes and types come first.

Wrappers of a model in PyTorch (`module.`, `model.`, `state_dict.`) put their names before those of
all tensors; they are left out.
"""

import pathlib

import numpy as np
import safetensors

from mixer.weights.shapes import Shapes, first_names

_STEMS = ("stem.proj.weight", "patch_embed.proj.weight")  # of timm's models
_FLOATS = ("F64", "F32", "F16", "BF16")


class SafetensorsFile:
    """A context manager for the file at `path`.

    `shapes` are by name without `prefix`, the names of the wrappers; `metadata` are strings.

    Raises:
      ValueError: the file is not a whole .safetensors file, or holds more than one model.
    """

    def __init__(self, path: pathlib.Path):
        try:
            # Opening validates all offsets, shapes and types against each other and the file size.
            self._file = safetensors.safe_open(path, framework="numpy")
        except safetensors.SafetensorError as error:
            raise ValueError(
                f"Expected a .safetensors file; got something else, or an incomplete one: {error}. "
                "Copy or download the file again."
            ) from error
        names = list(self._file.keys())
        self.metadata: dict[str, str] = self._file.metadata() or {}
        self.prefix = _prefix(names)
        self.shapes: Shapes = {
            name.removeprefix(self.prefix): tuple(self._file.get_slice(name).get_shape())
            for name in names
        }

    def __enter__(self) -> "SafetensorsFile":
        self._file.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.__exit__(*exc_info)

    def read(self, name: str) -> np.ndarray:
        """Returns the tensor of a name without the prefix, as float32.

        Raises:
          ValueError: it is not one of floats.
        """
        dtype = self._file.get_slice(self.prefix + name).get_dtype()
        if dtype not in _FLOATS:
            raise ValueError(
                f"Expected tensors of type {' or '.join(_FLOATS)}; {name} is {dtype}. Save it as "
                "float32."
            )
        with np.errstate(over="ignore"):  # `check_finite` names what overflows
            return np.array(self._file.get_tensor(self.prefix + name), np.float32)


def _prefix(names: list[str]) -> str:
    """Returns what stands before the weights of the stem, and before every other name.

    Raises:
      ValueError: it does not stand before all.
    """
    if any(stem in names for stem in _STEMS):
        return ""
    found = [name.removesuffix(s) for name in names for s in _STEMS if name.endswith(f".{s}")]
    if not found:
        return ""
    others = [name for name in names if not name.startswith(found[0])]
    if others:
        raise ValueError(
            f"Expected the tensors of one model; got some below {first_names(found)} and others: "
            f"{first_names(others)}. Save the tensors of one model alone."
        )
    return found[0]
