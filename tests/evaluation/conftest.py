"""A model whose answers are known, and images for it."""

import pathlib
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mixer.weights.load import LoadedModel

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColourIsClass(nn.Module):
    """Predicts 0 for red, 1 for green, 2 for blue, with logit ln 6 over 0; features are colours."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        colour = (jnp.mean(images, axis=(1, 2)) + 1) / 2  # [B, 3]
        if self.num_classes == 0:
            return colour
        return jnp.pad(colour, ((0, 0), (0, self.num_classes - 3))) * np.log(6)


@pytest.fixture
def colour_model() -> Callable[[int], LoadedModel]:
    """Returns the model with so many classes, for images of 8 x 8 pixels."""
    return lambda num_classes: LoadedModel(ColourIsClass(num_classes), {}, 8, None)


@pytest.fixture
def write_image() -> Callable[[pathlib.Path, str], None]:
    """Writes an image of one colour, 20 x 16 pixels."""

    def write(path: pathlib.Path, colour: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 20, 3), COLOURS[colour], np.uint8)).save(path)

    return write


@pytest.fixture
def colour_folder(tmp_path: pathlib.Path, write_image: Callable[..., None]) -> pathlib.Path:
    """A folder dataset: 2 training images of each class; of 11 test images 8 look like theirs."""
    for label, colour in enumerate(COLOURS):
        for number in range(2):
            write_image(tmp_path / "train" / f"class{label}" / f"{number}.png", colour)
        for number in range(4 - label // 2):
            shown = "red" if number == 0 else colour
            write_image(tmp_path / "test" / f"class{label}" / f"{number}.png", shown)
    return tmp_path
