"""What is exported: a model with its parameters, as a function of images."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mixer.batch import normalize_images
from mixer.evaluation.head import check_head
from mixer.models.platforms import portable
from mixer.weights.load import LoadedModel

_MAX_BYTES = 2**31 - 2**24  # of a flatbuffer or protocol buffer, 2 GiB, less the program itself


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A function of images, `[B, size, size, 3]` in RGB, to `[B, classes]` in float32.

    Images are float32 in [-1, 1] and become logits, or, without a head, features `[B, C]`. With
    preprocessing they are uint8 and become probabilities.
    """

    model: nn.Module
    params: dict[str, Any]
    image_size: int  # side in pixels
    with_preprocessing: bool

    @property
    def image_dtype(self) -> Any:
        return jnp.uint8 if self.with_preprocessing else jnp.float32

    @property
    def output_name(self) -> str:
        if self.with_preprocessing:
            return "probabilities"
        return "logits" if self.model.num_classes else "features"

    def __call__(self, params: Any, images: jax.Array) -> jax.Array:
        """Returns the outputs of the model as it is used here, with its branches for a platform."""
        if self.with_preprocessing:
            images = normalize_images(images)
        outputs: Any = self.model.apply({"params": params}, images)
        return jax.nn.softmax(outputs) if self.with_preprocessing else outputs

    def portable(self, params: Any, images: jax.Array) -> jax.Array:
        """Returns the same outputs by what every runtime can compute."""
        with portable():
            return self(params, images)


def program_of(loaded: LoadedModel, *, with_preprocessing: bool) -> Program:
    """Returns what is exported of a model.

    Raises:
      ValueError: the head was never trained, or there is none for the probabilities.
    """
    if loaded.model.num_classes or with_preprocessing:
        check_head(loaded)
    model = loaded.model.clone(remat="none")  # it is about the backward pass
    return Program(model, loaded.params, loaded.image_size, with_preprocessing)


def check_fits_in_file(program: Program, format_name: str) -> None:
    """Raises ValueError if the parameters are too large for a format that is one buffer."""
    size = sum(array.nbytes for array in jax.tree.leaves(program.params))
    if size > _MAX_BYTES:
        raise ValueError(
            f"Expected parameters of less than 2 GiB, the largest {format_name} file; got "
            f"{size / 2**30:.2f} GiB. Use --format=savedmodel."
        )
